"""The kinds of figures: each from plain numbers, with a caption and its content in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from numpy.typing import NDArray

from goat_ray.report.blocks import Figure
from goat_ray.report.drawing import FAINT, INK, Look, draw, legend, looks, plain, plain_log, shortened, to_draw
from goat_ray.report.statistics import SMALL, Estimate

Floats = NDArray[np.float64]

FEWEST_IN_BOX = 5
"""Cases below which points stand alone: quartiles of fewer say nothing."""

_RASTER_ABOVE = 2000  # points; more of them weigh more as shapes than as an image
_SHARE = (-0.03, 1.03)  # an axis for values between 0 and 1
_ROW, _MANY_ROWS = 0.3, 8  # inches of a site; sites from which on boxes stand closer


def forest(title: str, rows: Mapping[str, Estimate], band: tuple[float, float] | None, label: str) -> Figure:
    """Estimates of sites and of all together below each other; `band` is where a new site is expected."""
    shown = {name: estimate for name, estimate in rows.items() if estimate.value is not None}

    def paint(axes: Axes) -> None:
        if band:
            axes.axvspan(*band, color=FAINT, alpha=0.15, lw=0)
        for place, (name, estimate) in enumerate(reversed(shown.items())):
            pooled = name.startswith("all")
            colour = FAINT if estimate.is_uncertain and not pooled else INK
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [place, place], color=colour, lw=1.5, solid_capstyle="butt")
            axes.plot([estimate.value or 0.0], [place], "D" if pooled else "s", color=colour, ms=6)
        _rows(axes, {name: estimate.n for name, estimate in shown.items()})
        if all(0 <= estimate.value <= 1 for estimate in shown.values() if estimate.value is not None):
            axes.set_xlim(*_SHARE)
        axes.set_xlabel(label)

    caption = (
        f"Square: mean of a site; diamond: mean of all cases; bar: its 95 % interval; n: patients. Grey: fewer than 50 "
        f"patients; no bar: fewer than {SMALL}."
        + (" The shaded band is where the mean of a further site is expected." if band else "")
    )
    alt = "; ".join(f"{name} {estimate.value:.3f}" for name, estimate in shown.items())
    return draw(title, caption, alt, paint, 1.0 + _ROW * len(shown))


def boxes(title: str, groups: Mapping[str, Floats], palette: Mapping[str, Look], label: str) -> Figure:
    """A box for each group over its points, which a box alone would hide."""
    shown = {name: values[np.isfinite(values)] for name, values in groups.items() if np.isfinite(values).any()}
    many = sum(map(len, shown.values())) > _RASTER_ABOVE

    def paint(axes: Axes) -> None:
        rng = np.random.default_rng(0)
        for place, (name, values) in enumerate(reversed(shown.items())):
            heights = place + rng.uniform(-0.22, 0.22, len(values))
            axes.scatter(values, heights, s=14, color=palette[name].colour, alpha=0.6, lw=0, rasterized=many)
            if len(values) >= FEWEST_IN_BOX:
                _box(axes, values, place)
        _rows(axes, {name: len(values) for name, values in shown.items()})
        if all(values.min() >= 0 and values.max() <= 1 for values in shown.values()):
            axes.set_xlim(*_SHARE)
        axes.set_xlabel(label)

    caption = (
        "Each point is a case, n counts them. The box spans the middle half of a site's cases, its thick line is the "
        f"median, the whiskers reach to 1.5 times the box; sites with fewer than {FEWEST_IN_BOX} cases have none."
    )
    alt = "; ".join(f"{name}: median {np.median(values):.3f}" for name, values in shown.items())
    return draw(title, caption, alt, paint, 1.0 + (_ROW if len(shown) > _MANY_ROWS else 1.3 * _ROW) * len(shown))


def cumulative(title: str, groups: Mapping[str, Floats], palette: Mapping[str, Look], label: str) -> Figure:
    """Share of cases at or below each value, by group and of all: where a site is worse, and for how many cases."""
    finite = {name: np.sort(values[np.isfinite(values)]) for name, values in groups.items()}
    every = np.sort(np.concatenate(list(finite.values())))
    shown = {name: values for name, values in finite.items() if len(values) >= SMALL}

    def paint(axes: Axes) -> None:
        entries: dict[Look, Any] = {}
        for name in to_draw(shown, palette):
            (entries[palette[name]],) = _steps(axes, shown[name], palette[name].colour, 1.4)
        (entries[Look(INK, "", "all cases")],) = _steps(axes, every, INK, 2.2)
        if every.min() >= 0 and every.max() <= 1:
            axes.set_xlim(*_SHARE)
        axes.set_xlabel(label)
        axes.set_ylabel("share of cases")
        legend(axes, entries, palette)

    caption = (
        "How to read it: at 0.5 on the horizontal axis, a line's height is the share of cases that score 0.5 or less; "
        f"the lower the line, the better. Sites with fewer than {SMALL} cases are only in the line of all cases."
    )
    lines = {**shown, "all cases": every}
    alt = "; ".join(f"{name}: {np.mean(values <= 0.5):.0%} at 0.5 or less" for name, values in lines.items())
    return draw(title, caption, alt, paint)


def curves(
    title: str, names: Sequence[str], groups: Mapping[str, Sequence[Estimate]], labels: tuple[str, str]
) -> Figure:
    """Estimates with intervals over ordered bins, one line for each group."""
    palette = looks(list(groups))

    def paint(axes: Axes) -> None:
        entries = {}
        for index, (group, estimates) in enumerate(groups.items()):
            places = np.arange(len(names)) + (index - (len(groups) - 1) / 2) * 0.1
            heights = [np.nan if e.value is None else e.value for e in estimates]
            look = palette[group]
            (entries[look],) = axes.plot(places, heights, f"{look.mark}-", color=look.colour, ms=5, lw=1.2)
            few = [height if e.n < SMALL else np.nan for height, e in zip(heights, estimates, strict=True)]
            axes.plot(places, few, "o", color="white", ms=2)
            for x, estimate in zip(places, estimates, strict=True):
                if estimate.low is not None and estimate.high is not None:
                    axes.plot([x, x], [estimate.low, estimate.high], color=look.colour, lw=1)
        axes.set_xticks(range(len(names)), list(names))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_ylim(-0.05, 1.05)
        legend(axes, entries, palette)

    alt = "; ".join(
        f"{group}: "
        + ", ".join(f"{n} {e.value:.2f}" for n, e in zip(names, estimates, strict=True) if e.value is not None)
        for group, estimates in groups.items()
    )
    caption = (
        "All sites together. Vertical bars are 95 % intervals; marks with a white dot rest on fewer than "
        f"{SMALL} patients and have none."
    )
    return draw(title, caption, alt, paint)


def points(x: pd.Series, y: pd.Series, sites: pd.Series) -> dict[str, tuple[Floats, Floats]]:
    """What `scatter` shows of each site, from columns of one table."""
    rows = sites.groupby(sites).groups
    return {str(site): (x[here].to_numpy(float), y[here].to_numpy(float)) for site, here in rows.items()}


def scatter(
    title: str,
    caption: str,
    groups: Mapping[str, tuple[Floats, Floats]],
    palette: Mapping[str, Look],
    labels: tuple[str, str],
    *,
    lines: Mapping[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Points of cases by group, with named horizontal lines."""
    total = sum(len(x) for x, _ in groups.values())
    size = 22 if total <= _RASTER_ABOVE / 10 else 9

    def paint(axes: Axes) -> None:
        entries: dict[Look, Any] = {}
        for name in to_draw(groups, palette):
            x, y = groups[name]
            look = palette[name]
            entries[look] = axes.scatter(
                x, y, s=size, color=look.colour, marker=look.mark, alpha=0.65, lw=0, rasterized=total > _RASTER_ABOVE
            )
        for name, height in (lines or {}).items():
            axes.axhline(height, color=INK, lw=1, ls="--" if "limit" in name else "-")
            side = "bottom" if name.startswith("upper") else "top" if name.startswith("lower") else "center"
            axes.annotate(name, (1.01, height), xycoords=("axes fraction", "data"), va=side, fontsize=8)
        if log_x:
            plain_log(axes, "x", np.concatenate([x for x, _ in groups.values()]))
        if log_y:
            plain_log(axes, "y", np.concatenate([*(y for _, y in groups.values()), list((lines or {}).values())]))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        legend(axes, entries, palette)

    alt = f"{total} cases; " + "; ".join(f"{name} at {height:.3f}" for name, height in (lines or {}).items())
    return draw(title, caption, alt, paint)


def _rows(axes: Axes, counts: Mapping[str, int]) -> None:
    """Name rows from the top down, with their counts."""
    names = [plain(f"{shortened(name)} (n={count:,})") for name, count in counts.items()][::-1]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)


def _box(axes: Axes, values: Floats, place: int) -> None:
    (box,) = boxplot_stats(values)
    low, high, middle = place - 0.28, place + 0.28, [place, place]
    ends = box["q1"], box["q3"]
    axes.plot([*ends, *ends[::-1], ends[0]], [low, low, high, high, low], color=INK, lw=1.1)
    axes.plot([box["med"]] * 2, [low, high], color=INK, lw=2.4, solid_capstyle="butt")
    for whisker, end in zip((box["whislo"], box["whishi"]), ends, strict=True):
        axes.plot([whisker, end], middle, color=INK, lw=1.1)


def _steps(axes: Axes, values: Floats, colour: str, width: float) -> list[Any]:
    shares = np.arange(len(values) + 1) / len(values)
    lines: list[Any] = axes.step([values[0], *values], shares, where="post", color=colour, lw=width)
    return lines
