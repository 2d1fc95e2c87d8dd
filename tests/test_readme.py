"""The READMEs' figures are those of the recorded benchmarks."""

import pytest

from benchmarks import tables
from benchmarks._claims import CLAIMS
from benchmarks._record import RESULTS
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("path", "table"), [("README.md", tables.short_table), ("benchmarks/README.md", tables.whole_table)]
)
def test_figures_equal_the_recorded_json(path: str, table: object) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert tables.with_table(text, table()) == text, "run: python -m benchmarks.tables"  # type: ignore[operator]


def test_every_recorded_benchmark_is_told_of() -> None:
    recorded = {path.stem for path in RESULTS.glob("*.json") if not path.stem.endswith("_quick")}
    assert recorded == {tell.__name__ for tell in CLAIMS}


def test_another_figure_is_noticed() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.with_table(text.replace("| mean Dice WT 0", "| mean Dice WT 1"), tables.short_table()) == text
