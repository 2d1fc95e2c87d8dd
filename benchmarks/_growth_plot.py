"""The figure of all growths: small multiples in double logarithms, each with its line and one of exponent 1."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks._growth_fit import Growth
from goat_ray.report.drawing import plain_log

COLUMNS = 3
_MEASURED, _FITTED, _LINEAR = "#0072b2", "#d55e00", "#999999"  # Okabe and Ito's blue and vermilion
_STYLE = {"font.size": 9.5, "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True}
_ROOM = 1.6


def draw(growths: Sequence[Growth], path: Path) -> None:
    """Write the figure, 1,200 pixels wide."""
    rows = -(-len(growths) // COLUMNS)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12, 3.2 * rows + 0.5), dpi=100, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, COLUMNS, squeeze=False).flat
        for growth in growths:
            lines = _panel(next(panels), growth)
        for empty in panels:
            empty.set_axis_off()
        figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), frameon=False, fontsize=10.5)
        figure.savefig(path, metadata={"Software": None})


def _panel(axes: Axes, growth: Growth) -> list[Line2D]:
    """Both axes span the same ratio, so that steepness is the exponent in every panel."""
    slope, intercept = growth.line
    x = np.geomspace(growth.x.min(), growth.x.max(), 200)
    linear = growth.y[0] * x / growth.x[0]
    (guide,) = axes.plot(x, linear, ":", color=_LINEAR, lw=1.4, label="exponent 1, from the first point")
    (fitted,) = axes.plot(x, intercept + slope * x, "--", color=_FITTED, lw=1.6, label="fitted a + b·x, b as titled")
    (measured,) = axes.plot(growth.x, growth.y, "o", color=_MEASURED, ms=6.5, label="measured")
    limits = np.array([min(growth.y.min(), linear[0]) / _ROOM, max(growth.y.max(), linear[-1]) * _ROOM])
    plain_log(axes, "x", growth.x)
    plain_log(axes, "y", limits)
    axes.set_ylim(*limits)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{growth.title}\n{growth.told}", fontsize=10, loc="left")
    axes.set_xlabel(growth.x_label)
    axes.set_ylabel(growth.y_label)
    return [measured, fitted, guide]
