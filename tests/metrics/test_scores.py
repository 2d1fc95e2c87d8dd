"""Scores by the lesion-wise rule, of cases small enough to be worked out by hand.

Unless a test says otherwise a lesion is a cube of 3³ voxels of ET, pieces merge over a gap of two voxels, no lesion is
too small, and a missed or false lesion costs an HD95 of 100 mm.
"""

import math

import pytest

from goat_ray.metrics.specs import SPECS
from tests.metrics.maps import ET, RC, SNFH, score, score_et, volume

HERE, THERE = ((4, 4, 4), 3, ET), ((16, 16, 16), 3, ET)
NOTHING = volume()
PERFECT_NSD = 1 / (1 + 0.5e-8)  # the organisers add 1e-8 to a denominator of 2


def by_kind(lesions, kind):
    return [lesion for lesion in lesions if lesion.kind == kind]


# --- hits, misses and false positives


def test_a_perfect_prediction_scores_one_and_no_distance():
    region, (lesion,) = score_et(volume(HERE), volume(HERE))
    assert (region.tp, region.fp, region.fn, region.n_gt, region.n_pred) == (1, 0, 0, 1, 1)
    assert (region.lw_dice, region.lw_hd95_mm, region.lw_hd95_found_mm) == (1, 0, 0)
    assert (region.dice, region.hd95_mm, region.sensitivity, region.specificity, region.precision) == (1, 0, 1, 1, 1)
    assert (lesion.dice, lesion.iou, lesion.hd95_mm, lesion.hd95_scored_mm) == (1, 1, 0, 0)
    assert (lesion.detected, lesion.pred_ids, lesion.n_pred) == (True, (1,), 1)
    assert (lesion.shares_prediction, lesion.shell_match_only) == (False, False)
    assert region.null_reason is None


def test_a_perfect_nsd_falls_short_of_one_as_the_organisers_does():
    region, (lesion,) = score_et(volume(HERE), volume(HERE))
    found = [region.lw_nsd_0_5, region.lw_nsd_1_0, region.nsd_0_5, region.nsd_1_0, lesion.nsd_0_5, lesion.nsd_1_0]
    assert found == pytest.approx([PERFECT_NSD] * 6, abs=1e-15)
    assert PERFECT_NSD < 1


def test_a_missed_lesion_scores_zero_and_the_penalty():
    region, lesions = score_et(volume(HERE, THERE), volume(HERE))
    assert (region.tp, region.fp, region.fn, region.n_gt, region.n_pred) == (1, 0, 1, 2, 1)
    assert (region.lw_dice, region.lw_hd95_mm) == (0.5, 50)
    assert region.lw_nsd_1_0 == pytest.approx(PERFECT_NSD / 2)
    assert region.lw_hd95_found_mm == 0
    missed = lesions[1]
    assert (missed.kind, missed.lesion_id, missed.detected, missed.scored) == ("gt", 2, False, True)
    assert (missed.pred_ids, missed.n_pred, missed.pred_volume_mm3, missed.intersection_mm3) == ((), 0, 0, 0)
    assert (missed.dice, missed.iou, missed.nsd_0_5, missed.nsd_1_0) == (0, 0, 0, 0)
    assert (missed.hd95_mm, missed.hd95_scored_mm) == (None, 100)
    assert (missed.shares_prediction, missed.shell_match_only) == (False, False)


def test_a_false_positive_enters_the_means_like_a_missed_lesion():
    region, lesions = score_et(volume(HERE), volume(HERE, THERE))
    assert (region.tp, region.fp, region.fn, region.n_gt, region.n_pred) == (1, 1, 0, 1, 2)
    assert (region.lw_dice, region.lw_hd95_mm, region.lw_hd95_found_mm) == (0.5, 50, 0)
    (false,) = by_kind(lesions, "fp")
    assert (false.lesion_id, false.scored, false.detected, false.hd95_scored_mm) == (2, True, None, 100)
    nulls = ("pred_ids", "n_pred", "pred_volume_mm3", "intersection_mm3", "dice", "iou", "nsd_0_5", "nsd_1_0")
    assert {getattr(false, name) for name in (*nulls, "hd95_mm", "shares_prediction", "shell_match_only")} == {None}
    assert false.volume_vox == 27


def test_a_shift_lowers_dice_and_its_distance_is_the_shift():
    region, (lesion,) = score_et(volume(HERE), volume(((5, 4, 4), 3, ET)))
    assert region.lw_dice == region.dice == lesion.dice == pytest.approx(2 * 18 / 54)
    assert lesion.iou == pytest.approx(18 / 36)
    assert region.sensitivity == region.precision == pytest.approx(18 / 27)
    assert region.specificity == pytest.approx(1 - 9 / (24**3 - 27))
    assert region.lw_hd95_mm == region.hd95_mm == 1
    assert (lesion.pred_volume_mm3, lesion.intersection_mm3) == (27, 18)
    # Of each cube's 26 border voxels 16 lie on the other's border; the ninth of a face is opposite the other's centre.
    assert region.lw_nsd_0_5 == region.nsd_0_5 == pytest.approx(16 / 26)
    assert region.lw_nsd_1_0 == region.nsd_1_0 == pytest.approx(PERFECT_NSD)


def test_a_prediction_in_the_shell_alone_is_a_hit_with_dice_zero():
    # Cubes side by side: the far face is three steps from the other cube, and it is more than 5 % of the area.
    region, (lesion,) = score_et(volume(HERE), volume(((7, 4, 4), 3, ET)))
    assert (region.tp, region.fp, region.fn) == (1, 0, 0)
    assert (region.lw_dice, region.lw_hd95_mm, region.lw_nsd_0_5) == (0, 3, 0)
    assert region.lw_nsd_1_0 == pytest.approx(9 / 26)
    assert (lesion.detected, lesion.shell_match_only, lesion.dice, lesion.intersection_mm3) == (True, True, 0, 0)
    assert lesion.pred_volume_mm3 == 27


def test_a_prediction_beyond_the_shell_is_a_miss_and_a_false_positive():
    region, lesions = score_et(volume(HERE), volume(((8, 4, 4), 3, ET)))
    assert (region.tp, region.fp, region.fn) == (0, 1, 1)
    assert (region.lw_dice, region.lw_hd95_mm, region.lw_hd95_found_mm) == (0, 100, None)
    assert region.hd95_mm == 4
    assert [lesion.kind for lesion in lesions] == ["gt", "fp"]


def test_a_prediction_over_two_lesions_counts_whole_for_each_of_them():
    reference = volume(HERE, ((13, 4, 4), 3, ET))
    region, lesions = score_et(reference, volume(((4, 4, 4), (12, 3, 3), ET)))
    assert (region.tp, region.fp, region.fn, region.n_gt, region.n_pred) == (2, 0, 0, 2, 1)
    assert region.lw_dice == pytest.approx(2 * 27 / (27 + 108))
    assert region.dice == pytest.approx(2 * 54 / (54 + 108))
    assert [lesion.pred_ids for lesion in lesions] == [(1,), (1,)]
    assert [lesion.shares_prediction for lesion in lesions] == [True, True]
    assert [lesion.pred_volume_mm3 for lesion in lesions] == [108, 108]


def test_only_the_lesions_of_a_shared_prediction_are_said_to_share():
    reference = volume(HERE, ((13, 4, 4), 3, ET), THERE)
    _, lesions = score_et(reference, volume(((4, 4, 4), (12, 3, 3), ET), THERE))
    assert [lesion.shares_prediction for lesion in lesions] == [True, True, False]


def test_all_fragments_of_a_lesion_count_for_it():
    reference = volume(((4, 4, 4), (10, 3, 3), ET))
    region, (lesion,) = score_et(reference, volume(((4, 4, 4), (4, 3, 3), ET), ((9, 4, 4), (5, 3, 3), ET)))
    assert (region.tp, region.fp, region.fn, region.n_pred) == (1, 0, 0, 2)
    assert (lesion.pred_ids, lesion.n_pred, lesion.pred_volume_mm3) == ((1, 2), 2, 81)
    assert region.lw_dice == pytest.approx(2 * 81 / (81 + 90))


def test_pieces_that_merge_are_one_lesion_of_several_components():
    reference = volume(HERE, ((9, 4, 4), 3, ET))
    region, (lesion,) = score_et(reference, volume(HERE))
    assert (region.n_gt, region.tp, region.fn) == (1, 1, 0)
    assert (lesion.n_components, lesion.volume_vox) == (2, 54)
    assert region.lw_dice == pytest.approx(2 * 27 / (27 + 54))


def test_predicted_pieces_merge_only_where_small_ones_are_dropped():
    prediction = volume(HERE, ((9, 4, 4), 3, ET))
    region, lesions = score_et(NOTHING, prediction)
    assert [(lesion.lesion_id, lesion.n_components) for lesion in lesions] == [(1, 1), (2, 1)]
    region, lesions = score_et(NOTHING, prediction, min_pred_vox=10)
    assert [(lesion.lesion_id, lesion.n_components) for lesion in lesions] == [(1, 2)]
    assert region.fp == region.n_pred == 1


def test_means_run_over_lesions_and_false_positives_together():
    shifted = ((5, 4, 4), 3, ET)  # Dice 2/3, 1 mm
    reference = volume(HERE, THERE, ((4, 16, 4), 3, ET))
    region, _ = score_et(reference, volume(shifted, THERE, ((16, 4, 4), 3, ET), ((16, 4, 16), 3, ET)))
    assert (region.tp, region.fp, region.fn) == (2, 2, 1)
    assert region.lw_dice == pytest.approx((2 / 3 + 1 + 0) / 5)
    assert region.lw_hd95_mm == pytest.approx((1 + 0 + 100 + 100 + 100) / 5)
    assert region.lw_hd95_found_mm == pytest.approx(0.5)


# --- small lesions


def test_a_lesion_of_just_the_threshold_is_ignored_and_one_voxel_more_is_not():
    reference = volume(((4, 4, 4), (2, 2, 2), ET), ((14, 14, 14), (9, 1, 1), ET))
    region, lesions = score_et(reference, NOTHING, min_volume_mm3=8)
    assert [lesion.scored for lesion in lesions] == [False, True]
    assert (region.n_gt, region.n_gt_scored, region.n_gt_ignored, region.tp, region.fn) == (2, 1, 1, 0, 1)


def test_the_threshold_of_lesions_is_a_volume_and_that_of_predictions_a_number_of_voxels():
    labels = volume(((4, 4, 4), (2, 2, 2), ET))
    spacing = (1.0, 1.0, 2.0)
    _, (lesion,) = score_et(labels, NOTHING, spacing, min_volume_mm3=15)
    assert (lesion.scored, lesion.volume_mm3) == (True, 16)
    assert score_et(labels, NOTHING, spacing, min_volume_mm3=16)[0].n_gt_scored == 0
    assert score_et(NOTHING, labels, spacing, min_pred_vox=7)[0].fp == 1
    assert score_et(NOTHING, labels, spacing, min_pred_vox=8)[0].fp == 0


def test_a_small_lesion_that_nobody_predicted_scores_one():
    region, (lesion,) = score_et(volume(((4, 4, 4), 1, ET)), NOTHING, min_volume_mm3=2)
    assert (region.n_gt, region.n_gt_scored, region.n_gt_ignored) == (1, 0, 1)
    assert (region.tp, region.fp, region.fn) == (0, 0, 0)
    assert (region.lw_dice, region.lw_nsd_0_5, region.lw_nsd_1_0, region.lw_hd95_mm) == (1, 1, 1, 0)
    assert region.lw_hd95_found_mm is None
    assert (region.dice, region.null_reason) == (0, "pred_empty")
    assert (lesion.scored, lesion.detected) == (False, False)


def test_a_prediction_that_hits_a_small_lesion_is_neither_true_nor_false():
    region, (lesion,) = score_et(volume(((5, 5, 5), 1, ET)), volume(HERE), min_volume_mm3=2)
    assert (region.tp, region.fp, region.fn, region.n_pred) == (0, 0, 0, 1)
    assert (region.lw_dice, region.lw_hd95_mm, region.lw_hd95_found_mm) == (1, 0, None)
    assert (lesion.scored, lesion.detected) == (False, True)
    assert lesion.dice == pytest.approx(2 / 28)


def test_a_small_prediction_inside_a_lesion_is_a_hit_unless_it_is_dropped_first():
    reference, prediction = volume(HERE), volume(((5, 5, 5), (2, 1, 1), ET))
    kept, _ = score_et(reference, prediction)
    assert (kept.tp, kept.fn, kept.pred_volume_vox) == (1, 0, 2)
    dropped, _ = score_et(reference, prediction, min_pred_vox=2)
    assert (dropped.tp, dropped.fp, dropped.fn, dropped.n_pred) == (0, 0, 1, 0)
    assert (dropped.pred_volume_vox, dropped.dice, dropped.null_reason) == (0, 0, "pred_empty")


# --- nothing on one side or on both


def test_where_both_maps_are_empty_the_case_is_perfect_and_the_volume_has_no_score():
    region, lesions = score_et(NOTHING, NOTHING)
    assert lesions == []
    assert (region.n_gt, region.n_pred, region.tp, region.fp, region.fn) == (0, 0, 0, 0, 0)
    assert (region.lw_dice, region.lw_nsd_0_5, region.lw_nsd_1_0, region.lw_hd95_mm) == (1, 1, 1, 0)
    assert region.lw_hd95_found_mm is None
    nulls = ("dice", "nsd_0_5", "nsd_1_0", "hd95_mm", "sensitivity", "precision")
    assert {getattr(region, name) for name in nulls} == {None}
    assert region.specificity == 1
    assert (region.null_reason, region.gt_empty, region.pred_empty) == ("both_empty", True, True)


def test_where_the_reference_is_empty_everything_predicted_is_false():
    region, lesions = score_et(NOTHING, volume(HERE, THERE))
    assert [lesion.kind for lesion in lesions] == ["fp", "fp"]
    assert (region.tp, region.fp, region.fn) == (0, 2, 0)
    assert (region.lw_dice, region.lw_nsd_1_0, region.lw_hd95_mm, region.lw_hd95_found_mm) == (0, 0, 100, None)
    assert (region.dice, region.nsd_0_5, region.nsd_1_0, region.precision) == (0, 0, 0, 0)
    assert (region.hd95_mm, region.sensitivity) == (None, None)
    assert region.specificity == pytest.approx(1 - 54 / 24**3)
    assert (region.null_reason, region.gt_empty, region.pred_empty) == ("gt_empty", True, False)
    assert (region.gt_volume_vox, region.pred_volume_vox) == (0, 54)


def test_where_the_prediction_is_empty_every_lesion_is_missed():
    region, lesions = score_et(volume(HERE, THERE), NOTHING)
    assert [lesion.kind for lesion in lesions] == ["gt", "gt"]
    assert (region.tp, region.fp, region.fn) == (0, 0, 2)
    assert (region.lw_dice, region.lw_hd95_mm, region.lw_hd95_found_mm) == (0, 100, None)
    assert (region.dice, region.nsd_0_5, region.nsd_1_0, region.sensitivity, region.specificity) == (0, 0, 0, 0, 1)
    assert (region.hd95_mm, region.precision) == (None, None)
    assert (region.null_reason, region.gt_empty, region.pred_empty) == ("pred_empty", False, True)


def test_a_volume_full_of_tumour_has_no_specificity():
    full = volume(((0, 0, 0), 24, ET))
    region, _ = score_et(full, full)
    assert (region.specificity, region.sensitivity, region.lw_dice) == (None, 1, 1)


def test_other_labels_leave_a_region_empty():
    region, lesions = score_et(volume(((4, 4, 4), 3, SNFH)), volume(((4, 4, 4), 3, RC)))
    assert (region.null_reason, lesions) == ("both_empty", [])


# --- penalties and distances


def test_the_penalty_is_the_specs_and_stays_out_of_the_raw_columns():
    reference, prediction = volume(HERE), volume(THERE)
    for penalty, expected in ((100, 100), (374, 374), ("diagonal", math.sqrt(3 * 24**2))):
        region, lesions = score_et(reference, prediction, hd95_penalty=penalty)
        assert region.hd95_penalty_mm == region.lw_hd95_mm == pytest.approx(expected)
        assert [lesion.hd95_scored_mm for lesion in lesions] == [pytest.approx(expected)] * 2
        assert [lesion.hd95_mm for lesion in lesions] == [None, None]
        assert region.lw_hd95_found_mm is None
        assert region.hd95_mm == pytest.approx(12 * math.sqrt(3), rel=0.2)


def test_distances_are_in_mm_along_each_axis():
    reference = volume(((8, 8, 8), 3, ET))
    for axis, mm in enumerate((0.5, 2.0, 3.0)):
        start = [8, 8, 8]
        start[axis] += 1
        region, _ = score_et(reference, volume((start, 3, ET)), (0.5, 2.0, 3.0))
        assert region.lw_hd95_mm == region.hd95_mm == mm


def test_hd95_is_the_larger_of_both_directions():
    reference, prediction = volume(HERE), volume(HERE, ((7, 5, 5), (10, 1, 1), ET))
    region, _ = score_et(reference, prediction)
    turned, _ = score_et(prediction, reference)
    assert region.hd95_mm == turned.hd95_mm > 5


def test_a_lesion_is_measured_against_its_own_predictions_and_the_region_against_all():
    # The second lesion's false neighbour is no comfort to it: its own prediction is the shifted one.
    reference = volume(((4, 4, 4), 3, ET), ((14, 4, 4), 3, ET))
    prediction = volume(((4, 4, 4), 3, ET), ((15, 4, 4), 3, ET), ((14, 10, 4), 3, ET))
    region, lesions = score_et(reference, prediction)
    assert [lesion.hd95_mm for lesion in by_kind(lesions, "gt")] == [0, 1]
    assert region.lw_hd95_mm == pytest.approx((0 + 1 + 100) / 3)
    assert region.hd95_mm == 6


# --- joined tissues


def test_islands_of_one_core_are_one_lesion_where_the_spec_joins_them():
    labels = volume(((8, 8, 4), (8, 8, 16), 1), ((8, 8, 0), (8, 8, 4), ET), ((8, 8, 20), (8, 8, 4), ET))
    for name, n in (("goat2025-ssa", 1), ("goat2025-met", 1), ("goat2025-gli", 1), ("goat2025-men", 2)):
        regions, _ = score(labels, labels, SPECS[name])
        assert (regions["ET"].n_gt, regions["ET"].n_pred, regions["ET"].lw_dice) == (n, n, 1)


def test_reference_and_prediction_are_joined_by_their_own_core():
    islands = ((8, 8, 0), (8, 8, 4), ET), ((8, 8, 20), (8, 8, 4), ET)
    with_core, without = volume(((8, 8, 4), (8, 8, 16), 1), *islands), volume(*islands)
    regions, _ = score(with_core, without, SPECS["goat2025-ssa"])
    assert (regions["ET"].n_gt, regions["ET"].n_pred, regions["ET"].tp, regions["ET"].fp) == (1, 2, 1, 0)
    assert regions["ET"].lw_dice == 1
    regions, lesions = score(without, with_core, SPECS["goat2025-ssa"])
    assert (regions["ET"].n_gt, regions["ET"].n_pred, regions["ET"].tp, regions["ET"].fp) == (2, 1, 2, 0)
    assert regions["ET"].lw_dice == pytest.approx(2 * 256 / (256 + 512))
    assert [lesion.shares_prediction for lesion in lesions if lesion.region == "ET"] == [True, True]
