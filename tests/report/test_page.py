"""The report: every number as the tables have it, every text escaped, one file that loads nothing."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from goat_ray.errors import ConfigError
from goat_ray.metrics.specs import SPECS
from goat_ray.report.blocks import numbers as numbers_of
from goat_ray.report.data import load_cohort
from goat_ray.report.page import SECTIONS, csv_of, write_page, write_report
from goat_ray.report.rendering import render
from goat_ray.report.sections.cohort import provenance
from goat_ray.report.sections.method import trust
from tests.report.runs import HOSTILE_SITE, cohort_of, table, twin, value


def test_both_twins_hold_the_same_numbers(page: Path, numbers: pd.DataFrame) -> None:
    parquet = pd.read_parquet(page.with_suffix(".numbers.parquet"))
    assert len(parquet) == len(numbers) > 100
    np.testing.assert_allclose(parquet["value"].to_numpy(float), numbers["value"].to_numpy(float), equal_nan=True)


@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
@pytest.mark.parametrize("site", ["harbour", HOSTILE_SITE, "all cases"])
def test_scores_are_those_of_the_tables(run: Path, numbers: pd.DataFrame, region: str, site: str) -> None:
    rows = table(run, "regions").query("region == @region and spec.notna()")
    rows = rows if site == "all cases" else rows.query("site == @site")
    title, row = f"Scores: {region}, brats2023-gli", f"lesion-wise Dice / {site}"
    scores = rows["lw_dice"]
    assert value(numbers, title, row, "cases") == len(scores)
    assert value(numbers, title, row, "mean (95 % interval)") == pytest.approx(scores.mean())
    assert value(numbers, title, row, "mean (95 % interval)", "n") == len(scores)
    assert value(numbers, title, row, "median") == pytest.approx(scores.median())
    assert value(numbers, title, row, "lower quartile") == pytest.approx(scores.quantile(0.25))
    assert value(numbers, title, row, "5th percentile") == pytest.approx(scores.quantile(0.05))
    assert value(numbers, title, row, "share below 0.5") == pytest.approx((scores < 0.5).mean())
    known = rows[rows["gt_empty"].notna() & rows["pred_empty"].notna()]
    one_sided = (known["gt_empty"] != known["pred_empty"]).mean()
    assert value(numbers, title, row, "share where only one side is empty") == pytest.approx(one_sided)


def test_undefined_distances_are_counted_and_left_out_of_the_median(run: Path, numbers: pd.DataFrame) -> None:
    rows = table(run, "regions").query("region == 'ET' and spec.notna()")
    title, row = "Distances: ET, brats2023-gli", "HD95 of found lesions (mm) / all cases"
    distances = rows["lw_hd95_found_mm"]
    assert value(numbers, title, row, "undefined") == distances.isna().sum() > 0
    assert value(numbers, title, row, "cases") == distances.notna().sum()
    assert value(numbers, title, row, "median") == pytest.approx(distances.median())
    assert value(numbers, title, row, "95th percentile") == pytest.approx(distances.quantile(0.95))
    penalised = "lesion-wise HD95 with penalties (mm) / all cases"
    assert value(numbers, title, penalised, "mean (95 % interval)") == pytest.approx(rows["lw_hd95_mm"].mean())
    assert value(numbers, title, penalised, "undefined") == 0


def test_an_interval_needs_ten_patients(numbers: pd.DataFrame) -> None:
    with_interval = numbers[numbers["low"].notna() & numbers["n"].notna()]
    assert len(with_interval)
    assert with_interval["n"].min() >= 10


def test_the_way_of_the_cases_adds_up(run: Path, numbers: pd.DataFrame) -> None:
    flow = numbers.query("table == 'The way of the cases'").pivot(index="row", columns="column", values="value")
    assert (flow["expected"] == flow["done"] + flow["missing_prediction"] + flow["unreadable_file"]).all()
    assert flow.loc["all", "expected"] == len(table(run, "cases")) == 24
    assert flow.loc["all", "scored"] == (table(run, "cases")["evaluation"] == "ok").sum() == 22


def test_sites_have_their_patients_lesions_and_volumes(run: Path, numbers: pd.DataFrame) -> None:
    rows = table(run, "regions").query("site == 'harbour' and gt_volume_mm3.notna()")
    wt, et = rows.query("region == 'WT'"), rows.query("region == 'ET'")
    patients = wt["case_id"].str.removesuffix("-000").nunique()
    assert numbers.query("table == 'Cases' and row == 'harbour' and column == 'patients'")["value"].item() == patients
    assert value(numbers, "Cases", "harbour", "reference lesions per case") == pytest.approx(wt["n_gt_scored"].mean())
    volumes = wt["gt_volume_mm3"] / 1000
    row = "harbour / reference"
    assert value(numbers, "Tumour volumes", row, "WT median (ml)") == pytest.approx(volumes.median())
    assert value(numbers, "Tumour volumes", row, "WT upper quartile (ml)") == pytest.approx(volumes.quantile(0.75))
    assert value(numbers, "Tumour volumes", row, "share without ET") == (et["gt_volume_mm3"] == 0).mean() > 0
    empty = (et["pred_volume_mm3"] == 0).mean()
    assert value(numbers, "Tumour volumes", "harbour / prediction", "share without ET") == empty


def test_detection_counts_are_those_of_the_lesions(run: Path, numbers: pd.DataFrame) -> None:
    lesions = table(run, "lesions").query("kind == 'gt' and region == 'WT' and scored == True")
    title = "Lesions found: WT, brats2023-gli"
    assert value(numbers, title, "all sites / all", "lesions") == len(lesions)
    assert value(numbers, title, "all sites / all", "found") == lesions["detected"].sum()
    middle = lesions.query("100 <= volume_mm3 < 500")
    assert value(numbers, title, "all sites / 100–500", "share found") == pytest.approx(middle["detected"].mean())
    alarms = table(run, "regions").query("region == 'WT' and fp.notna()")["fp"]
    row = "WT, brats2023-gli / all sites"
    assert value(numbers, "False positives", row, "false positives per case") == pytest.approx(alarms.mean())
    assert value(numbers, "False positives", row, "share of cases without any") == pytest.approx((alarms == 0).mean())


def test_volumes_agree_as_bland_and_altman_say(run: Path, numbers: pd.DataFrame) -> None:
    rows = table(run, "regions").query("region == 'WT' and gt_volume_mm3 > 0 and pred_volume_mm3 > 0")
    bias = 100 * np.expm1(np.log(rows["pred_volume_mm3"] / rows["gt_volume_mm3"]).mean())
    assert value(numbers, "Volume agreement", "WT / all sites", "bias (%)") == pytest.approx(bias)
    known = table(run, "regions").query("region == 'WT' and gt_volume_mm3.notna() and pred_volume_mm3.notna()")
    error = (known["pred_volume_mm3"] - known["gt_volume_mm3"]).abs().mean() / 1000
    assert value(numbers, "Volume agreement", "WT / all sites", "absolute error (ml)") == pytest.approx(error)


def test_pooling_weighs_cases_or_sites(run: Path, numbers: pd.DataFrame) -> None:
    rows = table(run, "regions").query("region == 'WT' and spec.notna()")
    row = "WT, brats2023-gli / lesion-wise Dice"
    title = "Pooled over sites"
    assert value(numbers, title, row, "case-weighted mean") == pytest.approx(rows["lw_dice"].mean())
    by_site = rows.groupby("site")["lw_dice"].mean().mean()
    assert value(numbers, title, row, "site-weighted mean") == pytest.approx(by_site)


def test_the_lowest_of_each_site_and_region_are_shown_with_their_reason(run: Path, numbers: pd.DataFrame) -> None:
    rows = table(run, "regions").query("region == 'ET' and spec.notna() and site == 'harbour'")
    lowest = rows.sort_values(["lw_dice", "case_id"])["case_id"].head(5).tolist()
    shown = numbers.query("table == 'Lowest scores: ET, brats2023-gli' and column == 'lesion-wise Dice'")["row"]
    harbour = [row.split(" / ") for row in shown if row.split(" / ")[1] == "harbour"]
    assert [case_id for case_id, *_ in harbour] == lowest
    empty = set(rows[(rows["gt_empty"] == True) & (rows["pred_empty"] == False)]["case_id"])  # noqa: E712
    told = {
        case_id for case_id, _, why, reason in harbour if reason == "empty_mismatch" and why.startswith("predicted")
    }
    assert told == empty & set(lowest) != set()


def test_every_text_is_escaped_and_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    html = page.read_text()
    assert "<b onclick" not in html
    assert "&lt;b onclick=" in html
    addresses = set(re.findall(r"https?://[^\"'<> )]+", html))
    assert {address for address in addresses if "w3.org" not in address} <= {
        "http://purl.org/dc/dcmitype/StillImage",
        "http://purl.org/dc/elements/1.1/",
        "http://creativecommons.org/ns#",
    }
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?(http|//)", html)


def test_every_mark_is_the_only_one_of_its_name(page: Path) -> None:
    html = page.read_text()
    marks = re.findall(r'\sid="([^"]+)"', html)
    assert len(marks) == len(set(marks))
    assert set(re.findall(r'aria-describedby="([^"]+)"', html)) <= set(marks)


def test_every_table_and_figure_says_how_it_is_read(page: Path) -> None:
    html = page.read_text()
    without = {"Words and measures", "Failures by reason", "Failed cases"}  # the text above them says it
    for title, rest in re.findall(r'class="scroll" [^>]*aria-label="([^"]+)"([^>]*)>', html):
        assert "aria-describedby" in rest or title in without, title
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.DOTALL)
    assert len(captions) == html.count("<figure") > 10
    assert all(len(caption) > 40 for caption in captions)


def test_without_references_everything_but_the_scores_is_there(predicted: Path, predicted_page: Path) -> None:
    numbers, html = twin(predicted_page), predicted_page.read_text()
    assert "No case has a reference" in html
    assert html.count("data:image/png;base64,") == 2
    removed = table(predicted, "components")
    assert value(numbers, "Components removed", "WT", "components removed") == (removed["step"] == "WT").sum() > 0
    regions = table(predicted, "regions").query("region == 'WT'")
    before = value(numbers, "Before and after postprocessing", "WT", "before, all cases (ml)")
    assert before == pytest.approx(regions["raw_volume_mm3"].sum() / 1000)
    row = "no site / WT / members agree (mean Dice of pairs)"
    assert value(numbers, "Confidence and agreement", row, "median") == pytest.approx(
        regions["member_dice_mean"].median()
    )
    steps = table(predicted, "timings").query("step == 'read'")["seconds"]
    assert value(numbers, "Time a case", "read", "median (s)") == pytest.approx(steps.median())


def test_cores_are_cpu_seconds_a_second_of_predict(
    predicted: Path, predicted_page: Path, numbers: pd.DataFrame
) -> None:
    told, title, column = twin(predicted_page), "Cores a worker needs", "cores per predict worker"
    steps = table(predicted, "timings").groupby("step")[["seconds", "cpu_seconds"]].median()
    stages = steps["cpu_seconds"].dropna()
    assert {*stages.index} == {"read", "predict", "finish", "commit"}
    cores = stages / steps["seconds"]["predict"]
    for stage, expected in cores.items():
        assert value(told, title, stage, column) == pytest.approx(expected, abs=1e-3)
        assert value(told, title, stage, "wall, median (s)") == pytest.approx(steps["seconds"][stage], abs=1e-4)
        assert value(told, title, stage, "CPU, median (s)") == pytest.approx(stages[stage], abs=1e-4)
    assert value(told, title, "together", column) == pytest.approx(cores.sum(), abs=1e-3)
    assert f"rounded up to {math.ceil(cores.sum())}," in predicted_page.read_text()
    assert title not in {*numbers["table"]}, "nothing was predicted in a run that only scores"


def test_reasons_are_counted_as_the_list_beside_the_page_has_them(page: Path, numbers: pd.DataFrame) -> None:
    listed = pd.read_csv(page.with_suffix(".failures.csv"), keep_default_na=False)
    counts = listed[listed["score"] != ""]["reason"].value_counts()
    told = numbers.query("table == 'Reasons'")
    assert counts.sum() == told["value"].sum() > 0
    for row, count in zip(told["row"], told["value"], strict=True):
        assert count == counts.get(row.split(" / ")[0], 0)


def test_the_rules_are_those_of_the_spec(numbers: pd.DataFrame) -> None:
    told = numbers.query("table == 'Rules of scoring'").groupby("column")["value"].agg(list)
    regions = SPECS["brats2023-gli"].regions
    order = ["WT", "TC", "ET", "NETC", "SNFH"]
    assert told["joined within (voxels)"] == [regions[name].dilation_vox for name in order]
    assert told["not scored up to (mm³)"] == [regions[name].min_volume_mm3 for name in order]
    assert set(told["penalty (mm)"]) == {374}


def test_a_sign_is_ranked_against_the_score() -> None:
    rng = np.random.default_rng(5)
    score, sign = rng.random(12), rng.random(12)
    ids = [{"case_id": f"case-{number}", "site": "s"} for number in range(12)]
    about = {"region": "WT", "spec": "x", "official": True}
    regions = [
        {**one, **about, "lw_dice": high, "member_dice_mean": sure}
        for one, high, sure in zip(ids, score, sign, strict=True)
    ]
    found = numbers_of([trust(cohort_of(cases=[{**one, "status": "ok"} for one in ids], regions=regions))])
    expected = pd.Series(score).rank().corr(pd.Series(sign).rank())
    row = "WT, x / members agree (mean Dice of pairs)"
    column = "rank correlation with the score"
    assert value(found, "Do the signs tell good from bad?", row, column) == pytest.approx(expected)


def test_a_failed_case_is_told_with_what_to_do(page: Path) -> None:
    html = page.read_text()
    assert "BraTS-GLI-00020-000" in html
    assert "there is a reference, but no label map." in html


def test_the_lists_lie_beside_the_page_which_is_named_last(page: Path, tmp_path: Path) -> None:
    assert {file.name for file in page.parent.iterdir()} == {
        *("report.html", "report.numbers.csv", "report.numbers.parquet", "report.failures.csv", "report.flags.csv"),
    }
    files = write_page("title", [], str(tmp_path / "x.html"), {"odd": pd.DataFrame({"a": [1]})})
    assert [Path(file).name for file in files] == ["x.numbers.csv", "x.numbers.parquet", "x.odd.csv", "x.html"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_of_a_csv_is_a_formula(start: str) -> None:
    rows = pd.DataFrame({"text": [f"{start}cmd|' /C calc'!A0", "plain"], "number": [-1.5, 2.0]})
    told = csv_of(rows).decode()
    assert f"'{start}cmd" in told
    assert "-1.5" in told
    assert "'plain" not in told
    assert "'-1.5" not in told


def test_runs_over_the_same_cases_are_not_put_together(run: Path, better: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="goat-ray compare"):
        write_report([str(run), str(better)], str(tmp_path / "report.html"))


def test_runs_over_other_cases_are_put_together(run: Path, predicted: Path) -> None:
    cohort = load_cohort([str(run), str(predicted)])
    flow = numbers_of([provenance(cohort)]).query("table == 'The way of the cases' and column == 'expected'")
    assert flow.set_index("row")["value"].to_dict() == {"harbour": 14, HOSTILE_SITE: 10, "no site": 3, "all": 27}


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {"cases": [{"case_id": "a", "site": "north", "status": "failed", "failure_category": "empty_image"}]},
        {"cases": [{"case_id": "a", "site": "north", "status": "ok"}]},
        {
            "cases": [{"case_id": "a", "site": "north", "status": "ok", "evaluation": "ok", "spec": "x"}],
            "regions": [
                {"case_id": "a", "site": "north", "region": "WT", "spec": "x", "official": True, "lw_dice": 1.0}
            ],
        },
    ],
    ids=["nothing", "all failed", "no tables but cases", "one bare score"],
)
def test_a_report_of_next_to_nothing_is_still_a_report(rows: dict[str, list[dict[str, Any]]]) -> None:
    sections = [section for make in SECTIONS if (section := make(cohort_of(**rows)))]
    html = render("title", sections)
    assert all(section.text or section.blocks for section in sections)
    assert html.count("<section") == len(sections)


def test_a_report_needs_tables_and_a_name_that_fits(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        write_report([str(run)], str(tmp_path / "report.pdf"))
    with pytest.raises(ConfigError, match="no run folder"):
        write_report([str(tmp_path)], str(tmp_path / "report.html"))
