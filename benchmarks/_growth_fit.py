"""How a cost grows: measured points, a straight line through them and the exponent that tells its kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STEEPEST = 1.1
"""Largest exponent that counts as linear: what noise of a tenth makes of 1 over a factor of three."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement, and what else is known of it."""

    x: float
    y: float
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Growth:
    """A total against what it may grow with.

    Attributes:
        name: in the record.
        title: in the figure.
        x_label: what it grows with.
        y_label: the total, with its unit.
        unit: of the straight line's slope, once that is multiplied by `scale`.
        scale: into the unit.
        points: in the order of x.
        is_yield: more is better, as of a throughput.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    unit: str
    scale: float
    points: tuple[Point, ...]
    is_yield: bool = False

    @property
    def x(self) -> np.ndarray:
        """What was varied."""
        return np.array([point.x for point in self.points], float)

    @property
    def y(self) -> np.ndarray:
        """What was measured."""
        return np.array([point.y for point in self.points], float)

    @property
    def line(self) -> tuple[float, float]:
        """Slope and intercept of the straight line with the least relative errors: sizes are decades apart."""
        slope, intercept = np.polyfit(self.x, self.y, 1, w=1 / self.y)
        return float(slope), float(intercept)

    @property
    def exponent(self) -> float:
        """Slope in double logarithms, over all points."""
        return _exponent(self.x, self.y)

    @property
    def exponent_of_last_decade(self) -> float:
        """The same over the largest sizes alone, where no fixed cost hides what grows."""
        last = self.x >= self.x.max() / 10
        return _exponent(self.x[last], self.y[last])

    @property
    def is_linear_or_better(self) -> bool:
        """Whether neither exponent is worse than linear."""
        exponents = self.exponent, self.exponent_of_last_decade
        return min(exponents) >= 1 / STEEPEST if self.is_yield else max(exponents) <= STEEPEST

    @property
    def told(self) -> str:
        """Exponent and slope in a line."""
        slope, _ = self.line
        return f"exponent {self.exponent_of_last_decade:.2f}, {number(slope * self.scale)} {self.unit}"

    def to_dict(self) -> dict[str, Any]:
        """What is recorded."""
        slope, intercept = self.line
        return {
            "x": self.x_label,
            "y": self.y_label,
            "points": [{"x": point.x, "y": point.y, **point.details} for point in self.points],
            "line": {"slope": slope * self.scale, "unit": self.unit, "intercept": intercept},
            "exponent": self.exponent,
            "exponent_of_last_decade": self.exponent_of_last_decade,
            "is_linear_or_better": self.is_linear_or_better,
        }


def number(value: float) -> str:
    """In three digits, or as many as it has before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _exponent(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
