"""Figures: any names and any values draw without a warning, and series stay apart."""

import re

import numpy as np
import pytest

from goat_ray.report.drawing import looks, shortened
from goat_ray.report.figures import boxes, cumulative, forest, scatter
from goat_ray.report.statistics import Estimate

HOSTILE = ["_hidden", "$x$", "a$b", "W" * 60, "line\nbreak", "", "日本", "<b>&"]
MANY = [f"{'W' * 40} {number}" for number in range(30)]


@pytest.mark.parametrize("names", [HOSTILE, MANY, ["one"]], ids=["hostile", "many", "one"])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_every_kind_takes_any_names_and_values_without_spread(names: list[str], spread: float) -> None:
    rng = np.random.default_rng(0)
    values = {name: 0.5 + spread * rng.random(12) for name in names}
    pairs = {name: (1 + found, found) for name, found in values.items()}
    palette = looks(names)
    drawn = [
        forest("forest", {name: Estimate(0.5, 0.4, 0.6, 12) for name in names}, (0.3, 0.7), "score"),
        boxes("boxes", values, palette, "score"),
        cumulative("cumulative", values, palette, "score"),
        scatter("scatter", "", pairs, palette, ("x", "y"), lines={"bias": 0.5}, log_x=True, log_y=True),
    ]
    for figure in drawn:
        texts = re.findall(r"<text[^>]*>(.*?)</text>", figure.svg, re.DOTALL)
        assert len(texts) > len(names) if len(names) <= 8 else len(texts) > 8
        assert "<b>" not in figure.svg


def test_of_many_series_the_first_seven_are_told_apart() -> None:
    palette = looks(MANY)
    assert len({look.colour for look in list(palette.values())[:7]}) == 7
    assert {look.label for look in list(palette.values())[7:]} == {"23 others"}
    assert len(set(looks(HOSTILE).values())) == 8


def test_long_names_keep_their_beginning_and_their_end() -> None:
    names = [f"University Hospital of the Northern Province, scanner {number}" for number in range(9)]
    short = [shortened(name) for name in names]
    assert len(set(short)) == 9
    assert all(name.startswith("University") and len(name) < 40 for name in short)
    assert shortened("plain") == "plain"
    assert shortened("line\n break") == "line break"
