"""The part of a report that tells of pseudo-labels."""

from pathlib import Path

import pandas as pd
import pytest

from goat_ray.report.page import write_report
from tests.browser import CHROMIUM, SIGHTS, check
from tests.inline import pseudo_label_inline
from tests.pipeline.test_pseudolabel import UNLABELLED, make_sources


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose gate keeps the two cases that the teachers agree on most."""
    sources = make_sources(tmp_path_factory.mktemp("sources"))
    folder = sources.root / "out"
    pseudo_label_inline(sources.config())
    rows = pd.read_parquet(folder / "tables" / "provenance.parquet").query("source == 'pseudo' and accepted")
    least = float(rows["dice_wt"].nlargest(2).min())
    pseudo_label_inline(sources.config(gates={"dice_wt_min": least}))
    return folder


@pytest.fixture(scope="module")
def page(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("page") / "report.html"
    write_report([str(out)], str(page))
    return page


def test_counts_by_site_and_signs_are_those_of_the_provenance(out: Path, page: Path) -> None:
    rows = pd.read_parquet(out / "tables" / "provenance.parquet")
    numbers = pd.read_csv(page.with_suffix(".numbers.csv"), keep_default_na=False, na_values=[""])
    pseudo = rows[rows["source"] == "pseudo"]

    def value(title: str, row: str, column: str) -> float:
        (found,) = numbers.query("table == @title and row == @row and column == @column")["value"]
        return float(found)

    title = "Pseudo-labels by site"
    for site in ("north", "south", "all"):
        here = pseudo if site == "all" else pseudo[pseudo["site"] == site]
        assert value(title, site, "unlabelled cases") == len(here)
        assert value(title, site, "kept") == here["accepted"].sum()
        assert value(title, site, "share kept") == pytest.approx(here["accepted"].mean())
        assert value(title, site, "refused: gate") == (here["reason"] == "gate").sum()
    assert value(title, "all", "kept") == 2
    assert value(title, "all", "labelled cases") == (rows["source"].eq("human") & rows["accepted"]).sum()
    name = "agreement of the members on WT (mean Dice of pairs)"
    least = rows["dice_wt"][rows["accepted"]].min()
    for verdict, chosen in (("kept", pseudo["accepted"]), ("refused by a gate", pseudo["reason"] == "gate")):
        row = f"{name} / >= {least:g} / {verdict}"
        expected = pseudo.loc[chosen, "dice_wt"].median()
        assert value("Signs of quality, of kept and of refused cases", row, "median") == pytest.approx(expected)


def test_extremes_of_kept_and_refused_cases_are_shown_with_the_reason(page: Path) -> None:
    html = page.read_text()
    for case_id in UNLABELLED:
        assert f"three planes through {case_id}" in html
    assert "Among the surest of those kept" in html
    assert "Among the surest of those refused by a gate: dice_wt is" in html


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), SIGHTS)
def test_the_page_works_and_fits(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    assert check(page, tmp_path, width, scheme) >= len(UNLABELLED)


def test_runs_that_make_none_have_no_such_part(predicted: Path, tmp_path: Path) -> None:
    write_report([str(predicted)], str(tmp_path / "report.html"))
    assert "Pseudo-labels" not in (tmp_path / "report.html").read_text()
