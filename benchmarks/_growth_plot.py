"""The figure of all growths: small multiples in double logarithms, each with its straight line."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks._growth_fit import Growth
from goat_ray.report.drawing import plain_log

COLUMNS = 3
_MEASURED, _FITTED = "#0072b2", "#d55e00"  # Okabe and Ito's blue and vermilion
_STYLE = {"font.size": 9, "axes.grid": True, "grid.color": "#dddddd", "axes.axisbelow": True}


def draw(growths: Sequence[Growth], path: Path) -> None:
    """Write the figure, 1,200 pixels wide."""
    rows = -(-len(growths) // COLUMNS)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12, 3.1 * rows + 0.5), dpi=100, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, COLUMNS, squeeze=False).flat
        for growth in growths:
            _panel(next(panels), growth)
        for empty in panels:
            empty.set_axis_off()
        figure.savefig(path, metadata={"Software": None})


def _panel(axes: Axes, growth: Growth) -> None:
    slope, intercept = growth.line
    x = np.geomspace(growth.x.min(), growth.x.max(), 200)
    fitted = intercept + slope * x
    axes.plot(x, fitted, color=_FITTED, lw=1.4, ls="--", label="straight line")
    axes.plot(growth.x, growth.y, "o", color=_MEASURED, ms=6, label="measured")
    plain_log(axes, "x", growth.x)
    plain_log(axes, "y", np.concatenate([growth.y, fitted]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{growth.title}\n{growth.told}", fontsize=9.5, loc="left")
    axes.set_xlabel(growth.x_label)
    axes.set_ylabel(growth.y_label)
    axes.legend(frameon=False, fontsize=8)
