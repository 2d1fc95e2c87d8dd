"""Rows about a case: our own regions and lesions, and a spec's scores beside them."""

import numpy as np

from goat_ray.imaging.nifti import Grid
from goat_ray.labels import REGIONS, Label
from goat_ray.metrics.shapes import predicted_shapes
from goat_ray.pipeline.facts import grid_columns, predicted_rows, region_rows

GRID = Grid((6, 7, 8), np.diag([1.0, 2.0, 1.0, 1.0]))
CONFIDENCE = dict.fromkeys(REGIONS, 0.9)
AGREEMENT = {"WT": {"member_dice_mean": 0.8, "member_dice_min": 0.7, "member_volume_cv": 0.1}}


def labels() -> np.ndarray:
    made = np.zeros(GRID.shape, np.uint8)
    made[1:3, 1:3, 1:3] = Label.ET
    made[5, 5, 5] = Label.NETC
    return made


def test_a_grid_is_told_by_size_spacing_and_affine() -> None:
    columns = grid_columns(GRID)
    assert [columns[f"size_{axis}_vox"] for axis in "xyz"] == [6, 7, 8]
    assert [columns[f"spacing_{axis}_mm"] for axis in "xyz"] == [1, 2, 1]
    assert columns["affine"][:6] == [1, 0, 0, 0, 0, 2]


def test_each_piece_of_each_region_is_a_lesion_row() -> None:
    rows = predicted_rows(predicted_shapes(labels(), GRID))
    assert [(row["region"], row["lesion_id"], row["volume_vox"]) for row in rows] == [
        ("ET", 1, 8),
        ("NETC", 1, 1),
        ("TC", 1, 8),
        ("TC", 2, 1),
        ("WT", 1, 8),
        ("WT", 2, 1),
    ]


def test_without_scores_there_are_our_five_regions() -> None:
    rows = region_rows(labels(), predicted_shapes(labels(), GRID), GRID, CONFIDENCE, AGREEMENT, [])
    assert [row["region"] for row in rows] == list(REGIONS)
    wt = rows[-1]
    assert (wt["n_pred_components"], wt["pred_volume_vox"], wt["pred_volume_mm3"]) == (2, 9, 18.0)
    assert (wt["raw_volume_mm3"], wt["mean_probability"]) == (18.0, 0.9)
    assert (wt["member_dice_mean"], "member_dice_mean" in rows[0]) == (0.8, False)


def test_scores_join_the_region_of_the_same_labels_and_others_stand_alone() -> None:
    scores = [
        {"region": "ET", "region_labels": [3], "lw_dice": 0.5},
        {"region": "TC", "region_labels": [1, 2, 3], "lw_dice": 0.6},
        {"region": "RC", "region_labels": [4], "lw_dice": 1.0},
    ]
    found = region_rows(labels(), predicted_shapes(labels(), GRID), GRID, CONFIDENCE, AGREEMENT, scores)
    rows = {row["region"]: row for row in found}
    assert (rows["ET"]["lw_dice"], rows["ET"]["mean_probability"]) == (0.5, 0.9)
    assert (rows["TC"]["lw_dice"], "mean_probability" in rows["TC"]) == (0.6, False)
    assert (rows["RC"]["lw_dice"], "pred_volume_vox" in rows["RC"]) == (1.0, False)
    assert "lw_dice" not in rows["WT"]
