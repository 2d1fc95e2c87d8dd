"""Figures as SVG that takes its colours from the page, so that they are right in light, dark and print."""

import io
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from goat_ray.report.blocks import Figure
from goat_ray.report.statistics import Estimate

Floats = NDArray[np.float64]

_INK, _FAINT, _GRID = "#101112", "#131415", "#161718"
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#737373")  # Okabe-Ito first
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--faint)", _GRID: "var(--line)"}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_RASTER_ABOVE = 2000  # points; more of them weigh more as shapes than as an image


def draw(
    title: str, caption: str, alt: str, paint: Callable[[Axes], None], size: tuple[float, float] = (7.0, 3.6)
) -> Figure:
    """A figure of one pair of axes that `paint` fills; `size` in inches."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        canvas = Canvas(figsize=size, layout="constrained")
        paint(canvas.add_subplot())
        out = io.StringIO()
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return Figure(title, caption, alt, _themed(out.getvalue(), title))


def _themed(svg: str, title: str) -> str:
    """The drawing alone, its marks named apart from those of other figures, its colours the page's."""
    svg = svg[svg.index("<svg") :]
    mark = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{mark}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return re.sub(r'(width|height)="[\d.]+pt" ?', "", svg, count=2)


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name; they repeat after eight."""
    return {name: _SERIES[index % len(_SERIES)] for index, name in enumerate(names)}


def forest(title: str, rows: Mapping[str, Estimate], band: tuple[float, float] | None, label: str) -> Figure:
    """Estimates of sites and of all together below each other; `band` is where a new site is expected."""
    shown = {name: estimate for name, estimate in rows.items() if estimate.value is not None}

    def paint(axes: Axes) -> None:
        if band:
            axes.axvspan(*band, color=_FAINT, alpha=0.15, lw=0)
        for place, (name, estimate) in enumerate(reversed(shown.items())):
            few, pooled = estimate.is_uncertain, name.startswith("all")
            colour = _FAINT if few and not pooled else _INK
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [place, place], color=colour, lw=1.5, solid_capstyle="butt")
            axes.plot([estimate.value or 0.0], [place], "D" if pooled else "s", color=colour, ms=6)
        axes.set_yticks(range(len(shown)), [f"{name} (n={e.n})" for name, e in reversed(shown.items())])
        if all(0 <= estimate.value <= 1 for estimate in shown.values() if estimate.value is not None):
            axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)

    caption = (
        "Mean and 95 % interval of each site, then of all cases. Faint: fewer than 50 patients; no bar: fewer than 10. "
        + ("The shaded band is where the mean of a new site is expected." if band else "")
    )
    alt = "; ".join(f"{name} {estimate.value:.3f}" for name, estimate in shown.items())
    return draw(title, caption, alt, paint, (7.0, 1.2 + 0.32 * len(shown)))


def boxes(title: str, groups: Mapping[str, Floats], label: str) -> Figure:
    """A box for each group over its points, which a box alone would hide."""
    shown = {name: values[np.isfinite(values)] for name, values in groups.items() if np.isfinite(values).any()}
    palette, many = colours(list(shown)), sum(map(len, shown.values())) > _RASTER_ABOVE

    def paint(axes: Axes) -> None:
        rng = np.random.default_rng(0)
        for place, (name, values) in enumerate(shown.items()):
            spread = place + rng.uniform(-0.25, 0.25, len(values))
            axes.scatter(spread, values, s=16, color=palette[name], alpha=0.6, lw=0, rasterized=many)
        lines = {"color": _INK, "lw": 1.2}
        axes.boxplot(
            list(shown.values()),
            positions=range(len(shown)),
            widths=0.55,
            showfliers=False,
            boxprops=lines,
            medianprops={"color": _INK, "lw": 2},
            whiskerprops=lines,
            capprops=lines,
        )
        axes.set_xticks(range(len(shown)), [f"{name}\nn={len(values)}" for name, values in shown.items()])
        axes.set_ylabel(label)
        axes.grid(axis="x", visible=False)

    alt = "; ".join(f"{name}: median {np.median(values):.3f}" for name, values in shown.items())
    return draw(title, "Each point is a case; the box spans the middle half, the bar is the median.", alt, paint)


def cumulative(title: str, groups: Mapping[str, Floats], label: str) -> Figure:
    """Share of cases at or below each value, by group: where a site is worse, and for how many of its cases."""
    shown = {name: np.sort(values[np.isfinite(values)]) for name, values in groups.items()}
    palette = colours(list(shown))

    def paint(axes: Axes) -> None:
        for name, values in shown.items():
            if len(values):
                shares = np.arange(len(values) + 1) / len(values)
                axes.step([values[0], *values], shares, where="post", color=palette[name], label=name, lw=1.6)
        axes.set_xlabel(label)
        axes.set_ylabel("share of cases")
        axes.legend()

    alt = "; ".join(f"{name}: {np.mean(values < 0.5):.0%} below 0.5" for name, values in shown.items() if len(values))
    return draw(title, "Read at 0.5: the share of a site's cases that score less.", alt, paint)


def curves(title: str, names: Sequence[str], groups: Mapping[str, Sequence[Estimate]], label: str) -> Figure:
    """Estimates with intervals over ordered bins, one line for each group."""
    palette = colours(list(groups))

    def paint(axes: Axes) -> None:
        for index, (group, estimates) in enumerate(groups.items()):
            places = np.arange(len(names)) + (index - (len(groups) - 1) / 2) * 0.08
            heights = [np.nan if e.value is None else e.value for e in estimates]
            axes.plot(places, heights, "o-", color=palette[group], label=group, ms=4)
            for x, estimate in zip(places, estimates, strict=True):
                if estimate.low is not None and estimate.high is not None:
                    axes.plot([x, x], [estimate.low, estimate.high], color=palette[group], lw=1)
        axes.set_xticks(range(len(names)), list(names))
        axes.set_ylabel(label)
        axes.set_ylim(-0.03, 1.03)
        axes.legend()

    alt = "; ".join(
        f"{group}: "
        + ", ".join(f"{n} {e.value:.2f}" for n, e in zip(names, estimates, strict=True) if e.value is not None)
        for group, estimates in groups.items()
    )
    return draw(title, "Bars are 95 % intervals; bins with fewer than 10 patients have none.", alt, paint)


def scatter(
    title: str,
    caption: str,
    groups: Mapping[str, tuple[Floats, Floats]],
    labels: tuple[str, str],
    *,
    lines: Mapping[str, float] | None = None,
    log_x: bool = False,
    percent_y: bool = False,
) -> Figure:
    """Points of cases coloured by group, with named horizontal lines."""
    palette = colours(list(groups))
    total = sum(len(x) for x, _ in groups.values())

    def paint(axes: Axes) -> None:
        for name, (x, y) in groups.items():
            axes.scatter(x, y, s=12, color=palette[name], alpha=0.6, lw=0, label=name, rasterized=total > _RASTER_ABOVE)
        for name, height in (lines or {}).items():
            axes.axhline(height, color=_INK, lw=1, ls="-" if name == "bias" else "--")
            axes.annotate(name, (1, height), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
        if log_x:
            axes.set_xscale("log")
        if percent_y:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * (np.exp(value) - 1):+.0f} %"))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if len(groups) > 1:
            axes.legend()

    alt = f"{total} cases; " + "; ".join(f"{name} at {height:.3f}" for name, height in (lines or {}).items())
    return draw(title, caption, alt, paint)
