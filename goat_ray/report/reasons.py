"""Why a case has no result or scores little: one reason each, from a closed list, so that failures can be counted.

A failed case has the category of its failure (`goat_ray.errors.Category`); so has one that could not be scored. A
scored region of a case has one of `SCORED`, or none where nothing is wrong with it. Of the lesion reasons the one is
named that takes most of the score: every missed and every false lesion takes 1, a found one what its Dice lacks of 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from goat_ray.report.data import Cohort, Frame, region_place

FOUND = 0.7
"""Dice of the whole tumour from which on it counts as found."""
LOW = 0.5
"""Score, or Dice of the whole region, below which it is low."""

SCORED: Mapping[str, str] = {
    "missing_prediction": "no prediction; scored as the organisers penalise it",
    "empty_mismatch": "only one of prediction and reference has anything of the region",
    "tissue_swap": f"the whole tumour is found (Dice {FOUND:g} or more), but this tissue is named otherwise (Dice of "
    f"the region below {LOW:g})",
    "missed_lesion": "lesions of the reference that no prediction touches take most of the score",
    "false_positive": "predicted lesions that touch none of the reference take most of the score",
    "shell_match_only": "lesions touched only in the rim that the rules grant around them take most of the score",
    "low_overlap": "lesions are found, but the outlines differ, and that takes most of the score",
}
"""Reasons of a scored region, and what each of them means; the first that holds counts, from `missed_lesion` on the
largest. A region without missed, false or rim-only lesions whose score is `LOW` or more has none."""

COLUMNS = (
    *("case_id", "site", "cohort", "region", "spec", "reason", "score"),
    *("tp", "fp", "fn", "reference_ml", "predicted_ml", "message", "hint"),
)
_LESION_REASONS = ("missed_lesion", "false_positive", "shell_match_only", "low_overlap")


def scored_reasons(cohort: Cohort) -> Frame:
    """The scored rows of `regions` with columns `score`, `reason` (empty: none), `n_shell` and `wt_dice`."""
    rows = cohort.scored.copy()
    rows["score"] = rows["lw_dice"].fillna(rows["sq_dice"])
    rows["n_shell"] = _rim_only(cohort.tables["lesions"], rows)
    rows["wt_dice"] = rows["case_id"].map(rows[rows["region"] == "WT"].set_index("case_id")["dice"])
    losses = _losses(rows)
    wrong = (losses[:, :3].sum(axis=1) > 0) | (rows["score"] < LOW).to_numpy()
    largest = np.where(losses.max(axis=1) > 0, np.array(_LESION_REASONS)[losses.argmax(axis=1)], "low_overlap")
    by_lesions = np.where(wrong, largest, "")
    is_swap = (rows["region"] != "WT") & (rows["wt_dice"] >= FOUND) & (rows["dice"] < LOW)
    is_mismatch = _true(rows["gt_empty"]) != _true(rows["pred_empty"])
    choices = {"missing_prediction": _true(rows["penalised"]), "empty_mismatch": is_mismatch, "tissue_swap": is_swap}
    rows["reason"] = np.select(list(choices.values()), list(choices), by_lesions)
    return rows


def in_words(row: Mapping[str, Any]) -> str:
    """What a row of `scored_reasons` suffers from, with its numbers."""
    match row["reason"]:
        case "missing_prediction":
            return "no prediction"
        case "empty_mismatch":
            return "nothing predicted" if row["gt_empty"] is not True else "predicted where the reference is empty"
        case "tissue_swap":
            return f"whole tumour found (Dice {row['wt_dice']:.2f}), this tissue named otherwise"
        case "":
            return "nothing missed, nothing false"
    parts = ((row["fn"], "missed {}"), (row["fp"], "false {}"), (row["n_shell"], "{} touched only at the rim"))
    told = [f"{int(n)} {text.format('lesion' if n == 1 else 'lesions')}" for n, text in parts if n > 0]
    return ", ".join(["outlines differ", *told] if row["reason"] == "low_overlap" else told)


def all_failures(cohort: Cohort) -> Frame:
    """A row for each case without result or score, and for each scored region with a reason; columns `COLUMNS`.

    Sorted by case, then region; volumes are in ml.
    """
    failed = cohort.tables["failures"].rename(columns={"category": "reason"})
    unscored = cohort.unscored.drop(columns="spec")
    unscored = unscored.rename(columns={"evaluation": "reason", "evaluation_message": "message"})
    scored = scored_reasons(cohort)
    scored = scored[scored["reason"] != ""]
    scored = scored.assign(
        reference_ml=scored["gt_volume_mm3"] / 1000,
        predicted_ml=scored["pred_volume_mm3"] / 1000,
        message=[in_words(row) for row in scored.to_dict("records")],
    )
    parts = [part.reindex(columns=COLUMNS).astype(object) for part in (failed, unscored, scored) if len(part)]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    rows = rows.astype(dict.fromkeys(("tp", "fp", "fn"), "Int64"))
    places = [region_place(region) if isinstance(region, str) else (-1, "") for region in rows["region"]]
    return rows.assign(place=places).sort_values(["case_id", "place"]).drop(columns="place").reset_index(drop=True)


def _true(column: pd.Series) -> "pd.Series[bool]":
    return column.map(lambda value: value is True).astype(bool)


def _rim_only(lesions: Frame, rows: Frame) -> "pd.Series[int]":
    """Scored reference lesions of each row that are matched by their rim alone."""
    rim = lesions[_true(lesions["shell_match_only"]) & _true(lesions["scored"])]
    counts = rim.groupby(["case_id", "region"]).size()
    keys = pd.MultiIndex.from_frame(rows[["case_id", "region"]])
    return pd.Series(counts.reindex(keys).fillna(0).to_numpy(int), index=rows.index)


def _losses(rows: Frame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What missed, false, rim-only and other found lesions take of a score, times the number of lesions."""
    missed, false, found = (rows[name].fillna(0).to_numpy(float) for name in ("fn", "fp", "tp"))
    rim = rows["n_shell"].to_numpy(float)
    reached = np.where(
        rows["lw_dice"].notna(), rows["lw_dice"].fillna(0) * (missed + false + found), rows["sq_dice"].fillna(0) * found
    )
    return np.column_stack([missed, false, rim, found - rim - reached])
