"""Reasons: each of the closed list where it belongs, and all of them in the CSV."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from goat_ray.errors import Category
from goat_ray.report.reasons import COLUMNS, SCORED, all_failures, in_words, scored_reasons
from tests.report.runs import cohort_of, table

FULL = {"gt_empty": False, "pred_empty": False, "penalised": False}


def scored(case_id: str, region: str, **columns: Any) -> dict[str, Any]:
    return {"case_id": case_id, "region": region, "spec": "x", "official": True, **FULL, **columns}


def told(row: dict[str, Any], lesions: list[dict[str, Any]] | None = None, whole: float = 0.4) -> tuple[str, str]:
    """Reason and words of a row whose whole tumour has this Dice."""
    rows = [scored("case", "WT", dice=whole, lw_dice=whole, tp=1, fp=0, fn=0)] if row["region"] != "WT" else []
    found = scored_reasons(cohort_of(regions=[*rows, row], lesions=lesions or []))
    last = found.to_dict("records")[-1]
    return last["reason"], in_words(last)


RIM = [
    {"case_id": "case", "region": "ET", "kind": "gt", "scored": True, "shell_match_only": True, "lesion_id": number}
    for number in (1, 2)
]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"lw_dice": 0.0, "penalised": True}, ("missing_prediction", "no prediction")),
        ({"lw_dice": 0.0, "tp": 0, "fp": 0, "fn": 2, "pred_empty": True}, ("empty_mismatch", "nothing predicted")),
        (
            {"lw_dice": 0.0, "tp": 0, "fp": 3, "fn": 0, "gt_empty": True},
            ("empty_mismatch", "predicted where the reference is empty"),
        ),
        ({"lw_dice": 0.2, "tp": 1, "fp": 1, "fn": 2}, ("missed_lesion", "2 missed lesions, 1 false lesion")),
        ({"lw_dice": 0.2, "tp": 1, "fp": 3, "fn": 2}, ("false_positive", "2 missed lesions, 3 false lesions")),
        ({"lw_dice": 0.9, "tp": 9, "fp": 1, "fn": 0}, ("false_positive", "1 false lesion")),
        # Three found lesions of Dice 0.2 take 2.4 of the score, the false one takes 1.
        ({"lw_dice": 0.15, "tp": 3, "fp": 1, "fn": 0}, ("low_overlap", "outlines differ, 1 false lesion")),
        ({"lw_dice": 0.49, "tp": 1, "fp": 0, "fn": 0}, ("low_overlap", "outlines differ")),
        ({"lw_dice": 0.5, "tp": 1, "fp": 0, "fn": 0}, ("", "nothing missed, nothing false")),
        (
            {"lw_dice": 1.0, "tp": 0, "fp": 0, "fn": 0, "gt_empty": True, "pred_empty": True},
            ("", "nothing missed, nothing false"),
        ),
        ({"sq_dice": 0.9, "tp": 2, "fp": 0, "fn": 1}, ("missed_lesion", "1 missed lesion")),
        ({"sq_dice": 0.3, "tp": 2, "fp": 0, "fn": 1}, ("low_overlap", "outlines differ, 1 missed lesion")),
        ({"sq_dice": None, "tp": 0, "fp": 2, "fn": 1}, ("false_positive", "1 missed lesion, 2 false lesions")),
    ],
)
def test_the_reason_is_what_takes_most_of_the_score(row: dict[str, Any], expected: tuple[str, str]) -> None:
    assert told(scored("case", "ET", **row)) == expected


def test_lesions_touched_at_the_rim_count_for_themselves() -> None:
    row = scored("case", "ET", lw_dice=0.3, tp=3, fp=0, fn=0)
    assert told(row, RIM) == ("shell_match_only", "2 lesions touched only at the rim")
    assert told(row, [{**lesion, "scored": False} for lesion in RIM])[0] == "low_overlap"
    assert told(row, [{**lesion, "region": "TC"} for lesion in RIM])[0] == "low_overlap"


@pytest.mark.parametrize(
    ("region", "whole", "dice", "reason"),
    [
        ("TC", 0.7, 0.49, "tissue_swap"),
        ("TC", 0.69, 0.49, "missed_lesion"),
        ("TC", 0.7, 0.5, "missed_lesion"),
        ("WT", 0.7, 0.49, "missed_lesion"),
    ],
)
def test_a_tissue_is_swapped_where_the_whole_is_found(region: str, whole: float, dice: float, reason: str) -> None:
    row = scored("case", region, lw_dice=0.3, dice=dice, tp=1, fp=0, fn=1)
    found, words = told(row, whole=whole)
    assert found == reason
    if reason == "tissue_swap":
        assert words == "whole tumour found (Dice 0.70), this tissue named otherwise"


def test_every_failure_is_in_the_list_once_by_case_and_region() -> None:
    ids = [{"case_id": name, "site": "north", "cohort": "GLI"} for name in ("b", "a", "c")]
    done, failed, unscored = ids
    cohort = cohort_of(
        cases=[
            {**done, "status": "ok", "evaluation": "ok", "spec": "x"},
            {**failed, "status": "failed", "failure_category": "unreadable_file"},
            {**unscored, "status": "ok", "evaluation": "geometry_mismatch", "evaluation_message": "other grid"},
        ],
        failures=[{**failed, "category": "unreadable_file", "message": "ends early", "hint": "copy it"}],
        regions=[
            {**done, **scored("b", "ET", lw_dice=0.0, tp=0, fp=0, fn=2, pred_empty=True, gt_volume_mm3=1500.0)},
            {**done, **scored("b", "TC", lw_dice=0.9, tp=1, fp=0, fn=0)},
            {**done, **scored("b", "WT", lw_dice=0.3, tp=1, fp=0, fn=0, pred_volume_mm3=2500.0)},
        ],
    )
    found = all_failures(cohort)
    assert tuple(found.columns) == COLUMNS
    assert [tuple(row) for row in found[["case_id", "region", "reason"]].fillna("").to_numpy()] == [
        ("a", "", "unreadable_file"),
        ("b", "WT", "low_overlap"),
        ("b", "ET", "empty_mismatch"),
        ("c", "", "geometry_mismatch"),
    ]
    assert found.loc[0, ["message", "hint"]].tolist() == ["ends early", "copy it"]
    assert found.loc[2, ["reference_ml", "fn", "message"]].tolist() == [1.5, 2, "nothing predicted"]
    assert found.loc[1, "predicted_ml"] == 2.5
    assert found.loc[3, "message"] == "other grid"


def test_a_cohort_without_failures_has_an_empty_list() -> None:
    assert list(all_failures(cohort_of()).columns) == list(COLUMNS)
    assert all_failures(cohort_of()).empty


def test_the_csv_beside_the_page_has_what_the_tables_have(run: Path, page: Path) -> None:
    found = pd.read_csv(page.with_suffix(".failures.csv"))
    regions, failures = table(run, "regions").query("spec.notna()"), table(run, "failures")
    assert set(found["reason"]) <= {*SCORED, *(str(category) for category in Category)}
    lost = found[found["region"].isna()]
    assert dict(zip(lost["case_id"], lost["reason"], strict=True)) == dict(
        zip(failures["case_id"], failures["category"], strict=True)
    )
    penalised = regions[regions["penalised"] == True]  # noqa: E712
    assert (found["reason"] == "missing_prediction").sum() == len(penalised) + 1
    known = regions[regions["gt_empty"].notna()]
    wrong = (known["gt_empty"] != known["pred_empty"]) | (known["fp"] + known["fn"] > 0) | (known["lw_dice"] < 0.5)
    expected = set(zip(known[wrong]["case_id"], known[wrong]["region"], strict=True))
    rim = table(run, "lesions").query("shell_match_only == True and scored == True")
    expected |= set(zip(rim["case_id"], rim["region"], strict=True))
    listed = found[found["region"].notna() & (found["reason"] != "missing_prediction")]
    assert set(zip(listed["case_id"], listed["region"], strict=True)) == expected
    merged = listed.merge(known, on=["case_id", "region"])
    assert (merged["score"] - merged["lw_dice"]).abs().max() < 1e-12
    assert (merged["reference_ml"] - merged["gt_volume_mm3"] / 1000).abs().max() < 1e-12
