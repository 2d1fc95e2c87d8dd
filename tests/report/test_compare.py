"""The comparison of two runs: paired differences as the tables have them."""

from pathlib import Path

import pytest

from goat_ray.report.compare import write_comparison
from tests.report.runs import table, twin, value


def test_a_comparison_has_the_paired_differences(run: Path, better: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare.html"
    write_comparison(str(run), str(better), str(out))
    numbers = twin(out)
    both = table(run, "regions").merge(
        table(better, "regions"), on=["case_id", "region", "spec"], suffixes=("_a", "_b")
    )
    both = both.query("region == 'WT' and spec.notna()")
    difference = both["lw_dice_b"] - both["lw_dice_a"]
    row = "WT, brats2023-gli / lesion-wise Dice"
    assert value(numbers, "Differences", row, "mean difference") == pytest.approx(difference.mean())
    assert value(numbers, "Differences", row, "B wins") == (difference > 1e-9).sum()
    assert value(numbers, "Differences", row, "A wins") == (difference < -1e-9).sum()
    assert value(numbers, "Differences", row, "ties") == (difference.abs() <= 1e-9).sum()
    distance = both["lw_hd95_mm_b"] - both["lw_hd95_mm_a"]
    row = "WT, brats2023-gli / lesion-wise HD95 with penalties (mm)"
    assert value(numbers, "Differences", row, "B wins") == (distance < -1e-9).sum()
    best = both.assign(difference=difference).sort_values(["difference", "case_id"]).iloc[-1]
    title, where = "Largest losses and gains: WT, brats2023-gli", f"{best['case_id']} / {best['site_a']}"
    assert value(numbers, title, where, "B minus A") == pytest.approx(difference.max())
    for site, here in both.assign(difference=difference).groupby("site_a"):
        row = f"WT, brats2023-gli / lesion-wise Dice / {site}"
        assert value(numbers, "Differences by site", row, "mean difference") == pytest.approx(here["difference"].mean())
        assert value(numbers, "Differences by site", row, "cases") == here["difference"].notna().sum()
        assert value(numbers, "Differences by site", row, "B wins") == (here["difference"] > 1e-9).sum()
    assert "same settings and weights" in out.read_text()
