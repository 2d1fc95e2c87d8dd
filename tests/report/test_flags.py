"""Flags without references: each where it belongs, and none that cannot be judged."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from goat_ray.quality import PUBLISHED_LIMITS, signs
from goat_ray.report.blocks import Table
from goat_ray.report.data import load_cohort
from goat_ray.report.flags import Flags, find_flags
from goat_ray.report.sections.checks import checks
from tests.report.runs import cohort_of, table, twin, value

LIMITS = [limit.sign for limit in PUBLISHED_LIMITS]
GRID = {f"size_{axis}_vox": 240 for axis in "xyz"} | {f"spacing_{axis}_mm": 1.0 for axis in "xyz"}
SURE = {"mean_entropy": 0.1, "mean_margin": 0.8, "members": ["L", "M"]}


def case(case_id: str, site: str = "north", **columns: Any) -> dict[str, Any]:
    return {"case_id": case_id, "site": site, "cohort": "GLI", "status": "ok", **GRID, **columns}


def region(case_id: str, name: str, volume_mm3: float, **columns: Any) -> dict[str, Any]:
    return {"case_id": case_id, "region": name, "pred_volume_mm3": volume_mm3, **columns}


def marked(flags: Flags, flag: str) -> list[str]:
    return flags.marks.query("flag == @flag")["case_id"].tolist()


def test_published_limits_mark_what_lies_beyond_them_and_nothing_on_them() -> None:
    agreement = {"WT": 0.85, "TC": 0.70, "ET": 0.50}
    rows = [
        region(case_id, name, 100.0, member_dice_mean=at + shift, mean_probability=0.7 + shift)
        for case_id, shift in (("on", 0.0), ("below", -0.01))
        for name, at in agreement.items()
    ]
    cases = [
        case("on", mean_entropy=0.35, mean_margin=0.20, members=["L", "M"]),
        case("below", mean_entropy=0.36, mean_margin=0.19, members=["L", "M"]),
    ]
    flags = find_flags(cohort_of(cases=cases, regions=rows))
    assert flags.marks["case_id"].unique().tolist() == ["below"]
    assert flags.marks["flag"].tolist() == LIMITS
    messages = dict(zip(flags.marks["flag"], flags.marks["message"], strict=True))
    assert messages["dice_wt"] == "members' Dice on WT 0.84 (limit 0.85)"
    assert messages["entropy"] == "entropy in WT 0.36 (limit 0.35)"


def test_volumes_far_from_the_others_are_marked_by_a_robust_z() -> None:
    rng = np.random.default_rng(0)
    volumes = dict(zip((f"case-{number:02d}" for number in range(30)), rng.lognormal(10, 0.5, 30), strict=True))
    volumes |= {"empty": 0.0, "giant": 5e7, "tiny": 8.0}
    rows = [region(case_id, "WT", volume) for case_id, volume in volumes.items()]
    flags = find_flags(cohort_of(cases=[case(case_id) for case_id in volumes], regions=rows))
    logs = np.log([volume for volume in volumes.values() if volume])
    z = (logs - np.median(logs)) / stats.median_abs_deviation(logs, scale="normal")
    named = [case_id for case_id, volume in volumes.items() if volume]
    expected = {name: score for name, score in zip(named, z, strict=True) if abs(score) > 3.5}
    assert {"giant", "tiny"} <= expected.keys()
    found = flags.marks.query("flag == 'volume'").set_index("case_id")["value"]
    assert found.to_dict() == pytest.approx(expected, rel=1e-3)
    assert marked(flags, "empty") == ["empty"]


@pytest.mark.parametrize("volumes", [[1000.0] * 20, [1000.0, 2000.0, 9e9]])
def test_volumes_that_cannot_be_judged_are_not(volumes: list[float]) -> None:
    names = [f"case-{number}" for number in range(len(volumes))]
    rows = [region(name, "WT", volume) for name, volume in zip(names, volumes, strict=True)]
    flags = find_flags(cohort_of(cases=[case(name) for name in names], regions=rows))
    assert "volume" not in flags.heads
    assert any("far from" in head for head in flags.unknown)


def test_a_grid_is_odd_where_most_of_the_site_have_another() -> None:
    thick = {"spacing_z_mm": 5.0, "size_z_vox": 30}
    cases = [case(f"n{number}") for number in range(3)] + [case("n-thick", **thick)]
    cases += [case("s1", "south"), case("s2", "south"), case("s-thick", "south", **thick)]  # two are no custom yet
    cases += [case(f"w{number}", "west", size_x_vox=100 + number) for number in range(6)]  # each its own
    flags = find_flags(cohort_of(cases=cases))
    assert marked(flags, "grid") == ["n-thick"]
    (message,) = flags.marks["message"]
    assert message == "grid 240×240×30 of 1×1×5 mm, else 240×240×240 of 1×1×1 mm"


def test_et_that_postprocessing_removed_is_marked() -> None:
    rows = [
        region("all", "ET", 0.0, raw_volume_mm3=40.0),
        region("part", "ET", 30.0, raw_volume_mm3=40.0),
        region("none", "ET", 0.0, raw_volume_mm3=0.0),
        region("other", "TC", 0.0, raw_volume_mm3=40.0),
    ]
    flags = find_flags(cohort_of(cases=[case(name) for name in ("all", "none", "other", "part")], regions=rows))
    assert marked(flags, "et_removed") == ["all"]
    assert flags.marks["message"].tolist() == ["all ET removed by postprocessing (0.040 ml)"]


def test_scored_maps_alone_have_no_members_to_judge_by(run: Path) -> None:
    flags = find_flags(load_cohort([str(run)]))
    assert set(flags.heads) == {"empty", "volume", "grid"}
    section = checks(load_cohort([str(run)]))
    assert sum(text.startswith("Not judged: members' Dice on") for text in section.text) == 3
    empty = table(run, "regions").query("region == 'WT' and pred_volume_mm3 == 0")["case_id"]
    assert marked(flags, "empty") == sorted(empty)


def test_the_section_counts_flags_by_site_and_names_cases_with_most_first(
    predicted: Path, predicted_page: Path
) -> None:
    numbers, cases, regions = twin(predicted_page), table(predicted, "cases"), table(predicted, "regions")
    found = signs(cases, regions)
    for limit in PUBLISHED_LIMITS:
        side = "above" if limit.at_most is not None else "below"
        edge = limit.at_most if limit.at_most is not None else limit.at_least
        beyond = found[limit.sign] > edge if side == "above" else found[limit.sign] < edge
        head = next(head for head in set(numbers["column"]) if f"{side} {edge:g}" in head and fits(limit.sign, head))
        assert value(numbers, "Flags by site", "all", head) == beyond.sum()
    listed = pd.read_csv(predicted_page.with_suffix(".flags.csv"))
    flagged = numbers.query("table == 'Flagged cases' and column == 'flags'")["value"].tolist()
    assert flagged == sorted(listed.groupby("case_id").size(), reverse=True)


def fits(sign: str, head: str) -> bool:
    words = {"dice_wt": "Dice on WT", "dice_tc": "Dice on TC", "dice_et": "Dice on ET", "confidence": "probability"}
    return words.get(sign, sign) in head


def test_no_more_than_fifty_cases_are_listed() -> None:
    cases = [case(f"case-{number:02d}", **SURE) for number in range(60)]
    rows = [region(f"case-{number:02d}", "WT", 0.0, raw_volume_mm3=0.0) for number in range(60)]
    section = checks(cohort_of(cases=cases, regions=rows))
    (listed,) = (block for block in section.blocks if isinstance(block, Table) and block.title == "Flagged cases")
    assert len(listed.rows) == 50
    assert "of 60" in listed.caption


def test_a_cohort_of_which_nothing_came_has_no_flags() -> None:
    flags = find_flags(cohort_of(cases=[{"case_id": "a", "site": "north", "status": "failed"}]))
    assert flags.marks.empty
    assert "No case is flagged." in checks(cohort_of()).text
