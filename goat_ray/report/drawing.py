"""How figures look: SVG that takes its colours from the page, so that they are right in light, dark and print."""

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from goat_ray.report.blocks import Figure

INK, FAINT, GRID = "#101112", "#131415", "#161718"
WIDTH = 5.6  # inches; so narrow that letters can be read on a phone

_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#737373")  # Okabe-Ito first
_MARKS = "os^Dvp*X"
_NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight")  # in the template; lighter on dark
_VARIABLES = {INK: "ink", FAINT: "faint", GRID: "line", **dict(zip(_SERIES, _NAMES, strict=True))}
_SIZE = 9
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": _SIZE,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_POINTS = 72  # of an inch
_LONGEST = 130  # points of a name in a figure
_MARK = 34  # points of a legend's entry beside its name
_WIDE_RANGE = 200  # ratio of values above which an axis has marks at 1, 10, 100 alone
_NARROW_RANGE = 8  # ratio up to which 1, 2, 5, 10 may all lie outside
_NO_RANGE = 1.5  # ratio below which all is one value to a reader


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is told from the others: by colour and by mark; `label` is what the legend calls it."""

    colour: str
    mark: str
    label: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """The look of each series; of more than eight, those after the seventh share one."""
    own = names if len(names) <= len(_SERIES) else names[: len(_SERIES) - 1]
    shared = Look(_SERIES[-1], _MARKS[-1], f"{len(names) - len(own)} others")
    return {
        name: Look(_SERIES[place], _MARKS[place], shortened(name)) if place < len(own) else shared
        for place, name in enumerate(names)
    }


def shortened(name: str) -> str:
    """A name on one line that leaves room for the figure: its beginning and its end."""
    whole = text = " ".join(name.split()) or "–"
    kept = len(whole)
    while _points(text) > _LONGEST:
        kept -= 1
        text = f"{whole[: kept - kept // 3]}…{whole[len(whole) - kept // 3 :]}"
    return text


@lru_cache(maxsize=4096)
def _points(text: str) -> float:
    with _any_letters():
        width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=_SIZE), ismath=False)
    return float(width)


@contextmanager
def _any_letters() -> Iterator[None]:
    """The browser's fonts have letters that matplotlib's lack."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def plain(text: str) -> str:
    """Text that matplotlib takes for neither mathematics nor a series to be hidden."""
    text = text.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def draw(
    title: str, caption: str, alt: str, paint: Callable[[Axes], None], height: float = 3.3, width: float = WIDTH
) -> Figure:
    """A figure of one pair of axes that `paint` fills; sizes in inches."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}), _any_letters():
        canvas = Canvas(figsize=(width, height), layout="constrained")
        paint(canvas.add_subplot())
        out = io.StringIO()
        # Not savefig, which draws twice.
        FigureCanvasSVG(canvas).print_svg(out, metadata={"Date": None, "Creator": None})
    return Figure(title, caption, alt, _themed(out.getvalue(), title))


def to_draw(names: Iterable[str], palette: Mapping[str, Look]) -> list[str]:
    """Names in the order of drawing: those that share a look lie below the others, then large sites below small."""
    shared = Counter(palette.values())
    wanted = set(names)
    return sorted((name for name in palette if name in wanted), key=lambda name: shared[palette[name]] == 1)


def legend(axes: Axes, artists: Mapping[Look, Any], palette: Mapping[str, Look]) -> None:
    """Name series above the axes, where nothing is drawn, in the order of the palette."""
    entries = {look: artists[look] for look in [*palette.values(), *artists] if look in artists}
    if len(entries) > 1:
        widest = max(_points(look.label) for look in entries) + _MARK
        columns = max(1, min(len(entries), int(WIDTH * _POINTS / widest)))
        axes.figure.legend(
            list(entries.values()),
            [plain(look.label) for look in entries],
            loc="outside upper left",
            ncols=columns,
            markerscale=1.6,
            handletextpad=0.3,
            columnspacing=1.2,
        )


def plain_log(axes: Axes, which: Literal["x", "y"], values: NDArray[np.float64]) -> None:
    """Make an axis that shows these values logarithmic, with numbers as people write them."""
    low, high = float(values.min()), float(values.max())
    axes.set(**{f"{which}scale": "log"})
    if high < _NO_RANGE * low:
        axes.set(**{f"{which}lim": (low / _NO_RANGE, high * _NO_RANGE)})
    axis: Axis = getattr(axes, f"{which}axis")
    steps = (1.0,) if high > _WIDE_RANGE * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps) if high > _NARROW_RANGE * low else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def _themed(svg: str, title: str) -> str:
    """The drawing alone, its marks named apart from those of other figures, its colours the page's."""
    svg = svg[svg.index("<svg") :]
    mark = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{mark}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r'(width|height)="[\d.]+pt" ?', "", svg, count=2)
