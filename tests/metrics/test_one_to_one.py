"""One-to-one matching and the means over matched pairs, of cases small enough to be worked out by hand."""

import numpy as np
import pytest

from goat_ray.metrics.specs import SPECS
from tests.metrics.maps import ET, score, score_et, volume

HERE, THERE = ((4, 4, 4), 3, ET), ((16, 16, 16), 3, ET)
NOTHING = volume()
UNDEFINED = ("sq_dice_std", "sq_nsd_std", "sq_hd95_mm", "sq_hd95_std_mm", "official_global_hd95_vox")


def rod(start, length):
    """A line of voxels along the first axis."""
    return (start, 8, 8), (length, 1, 1), ET


def score_pairs(reference, prediction, spacing_mm=(1.0, 1.0, 1.0)):
    return score_et(reference, prediction, spacing_mm, matching="one-to-one", dilation_vox=0)


def counts(region):
    return region.tp, region.fp, region.fn


# --- who is matched with whom


def test_a_lesion_takes_its_best_fragment_and_the_other_is_false():
    reference = volume(((4, 4, 4), (10, 3, 3), ET))
    region, lesions = score_pairs(reference, volume(((4, 4, 4), (3, 3, 3), ET), ((8, 4, 4), (6, 3, 3), ET)))
    assert (counts(region), region.n_gt, region.n_pred) == ((1, 1, 0), 1, 2)
    assert region.sq_dice == pytest.approx(2 * 54 / (54 + 90))
    assert (region.match_precision, region.match_recall, region.match_f1) == (0.5, 1, pytest.approx(2 / 3))
    assert [(lesion.kind, lesion.lesion_id, lesion.volume_vox) for lesion in lesions] == [("gt", 1, 90), ("fp", 1, 27)]
    assert lesions[0].pred_ids == (2,)
    assert lesions[0].pred_volume_mm3 == lesions[0].intersection_mm3 == 54


def test_a_prediction_over_two_lesions_finds_one_and_the_other_is_missed():
    reference = volume(HERE, ((10, 4, 4), (5, 3, 3), ET))
    region, lesions = score_pairs(reference, volume(((4, 4, 4), (11, 3, 3), ET)))
    assert counts(region) == (1, 0, 1)
    assert region.sq_dice == pytest.approx(2 * 45 / (45 + 99))
    assert [lesion.detected for lesion in lesions] == [False, True]
    assert [lesion.dice for lesion in lesions] == [0, region.sq_dice]
    assert [lesion.shares_prediction for lesion in lesions] == [False, False]


def test_lesions_are_assigned_for_the_largest_total_and_not_one_by_one():
    # The long prediction suits the first lesion best (Dice 2/3), but then the second lesion is left without any.
    reference, prediction = volume(rod(2, 10), rod(13, 5)), volume(rod(2, 2), rod(5, 11))
    region, lesions = score_pairs(reference, prediction)
    assert counts(region) == (2, 0, 0)
    assert [lesion.pred_ids for lesion in lesions] == [(1,), (2,)]
    assert [lesion.dice for lesion in lesions] == [pytest.approx(4 / 12), pytest.approx(6 / 16)]
    assert 4 / 12 + 6 / 16 > 2 * 7 / 21


def test_what_does_not_overlap_is_not_matched_however_near_it_is():
    region, lesions = score_pairs(volume(HERE), volume(((7, 4, 4), 3, ET)))
    assert counts(region) == (0, 1, 1)
    assert (region.match_precision, region.match_recall, region.match_f1) == (0, 0, 0)
    assert (region.sq_dice, region.sq_nsd, region.official_global_nsd) == (0, 0, 0)
    assert {getattr(region, name) for name in UNDEFINED} == {None}
    assert (region.dice, region.hd95_mm) == (0, 3)
    assert [lesion.kind for lesion in lesions] == ["gt", "fp"]


def test_one_voxel_in_common_is_enough():
    region, (lesion,) = score_pairs(volume(HERE), volume(((6, 6, 6), 3, ET)))
    assert counts(region) == (1, 0, 0)
    assert region.sq_dice == lesion.dice == pytest.approx(2 / 54)


def test_pieces_are_not_merged_and_none_is_too_small():
    region, _ = score_pairs(volume(HERE, ((8, 4, 4), 1, ET)), volume(HERE, ((20, 4, 4), 1, ET)))
    assert (region.n_gt, region.n_pred, counts(region)) == (2, 2, (1, 1, 1))


# --- quality of what is matched


def test_misses_and_false_positives_do_not_enter_the_quality():
    region, lesions = score_pairs(volume(HERE, THERE), volume(HERE, ((16, 4, 4), 3, ET)))
    assert counts(region) == (1, 1, 1)
    assert (region.sq_dice, region.sq_nsd, region.sq_hd95_mm) == (1, 1, 0)
    assert (region.sq_dice_std, region.sq_nsd_std, region.sq_hd95_std_mm) == (0, 0, 0)
    missed, false = lesions[1:]
    assert (missed.detected, missed.dice, missed.sq_nsd, missed.sq_hd95_mm) == (False, 0, None, None)
    assert (false.kind, false.sq_nsd, false.sq_hd95_mm) == ("fp", None, None)
    assert [lesion.hd95_scored_mm for lesion in lesions] == [0, None, None]


def test_mean_and_population_spread_are_over_pairs():
    region, lesions = score_pairs(volume(HERE, THERE), volume(HERE, ((17, 16, 16), 3, ET)))
    assert [lesion.dice for lesion in lesions] == [1, pytest.approx(2 / 3)]
    assert (region.sq_dice, region.sq_dice_std) == (pytest.approx(5 / 6), pytest.approx(1 / 6))
    assert [lesion.sq_hd95_mm for lesion in lesions] == [0, 1]
    assert (region.sq_hd95_mm, region.sq_hd95_std_mm) == (0.5, 0.5)
    assert (region.sq_nsd, region.sq_nsd_std) == (1, 0)


def test_the_distance_is_a_percentile_of_both_directions_together():
    # 3 + 5 border voxels, of which the prediction's last two are 1 and 2 steps away: the place 95 % along is 6.65.
    region, _ = score_pairs(volume(rod(4, 3)), volume(rod(4, 5)))
    assert region.sq_hd95_mm == region.official_global_hd95_vox == pytest.approx(1 + 0.65)
    assert region.sq_nsd == pytest.approx((1 + 4 / 5) / 2)
    assert region.official_global_nsd == pytest.approx((1 + 3 / 5) / 2)


def test_the_spacing_is_turned_around_as_in_the_organisers_program():
    # A shift of one voxel along the first axis, of 1 mm: the program takes the third axis' 3 mm for it. That is a
    # defect of theirs, and reproduced. Of each cube's 26 border voxels 9 are that far from the other's border.
    reference, prediction = volume(((5, 5, 5), 3, ET)), volume(((6, 5, 5), 3, ET))
    region, (lesion,) = score_pairs(reference, prediction, (1.0, 1.0, 3.0))
    assert region.sq_hd95_mm == lesion.sq_hd95_mm == 3
    assert region.sq_nsd == pytest.approx(17 / 26)
    # The columns that all specs have are right, and the global ones are in voxels.
    assert region.hd95_mm == lesion.hd95_mm == 1
    assert (region.official_global_hd95_vox, region.official_global_nsd) == (1, pytest.approx(16 / 26))


def test_a_shift_along_the_third_axis_is_mistaken_the_other_way_round():
    region, _ = score_pairs(volume(((5, 5, 5), 3, ET)), volume(((5, 5, 6), 3, ET)), (1.0, 1.0, 3.0))
    assert (region.sq_hd95_mm, region.sq_nsd, region.hd95_mm) == (1, 1, 3)
    assert (region.official_global_hd95_vox, region.official_global_nsd) == (1, pytest.approx(16 / 26))


def test_the_tolerance_of_nsd_is_the_smallest_spacing():
    reference, prediction = volume(((5, 5, 5), 3, ET)), volume(((5, 6, 5), 3, ET))
    assert score_pairs(reference, prediction, (2.0, 2.0, 2.0))[0].sq_nsd == 1
    assert score_pairs(reference, prediction, (1.0, 2.0, 2.0))[0].sq_nsd == pytest.approx(17 / 26)


# --- nothing on one side or on both


def test_where_both_maps_are_empty_nothing_is_defined():
    region, lesions = score_pairs(NOTHING, NOTHING)
    assert (lesions, counts(region), region.null_reason) == ([], (0, 0, 0), "both_empty")
    nulls = ("match_precision", "match_recall", "match_f1", "sq_dice", "sq_nsd", "official_global_nsd", *UNDEFINED)
    assert {getattr(region, name) for name in nulls} == {None}


@pytest.mark.parametrize(("is_found", "is_there"), [(True, False), (False, True)])
def test_where_one_side_is_empty_quality_is_zero_and_distance_undefined(is_found, is_there):
    region, _ = score_pairs(volume(HERE) * np.uint8(is_there), volume(HERE) * np.uint8(is_found))
    assert counts(region) == (0, int(is_found), int(is_there))
    assert region.match_precision == (0 if is_found else None)
    assert region.match_recall == (0 if is_there else None)
    assert (region.match_f1, region.sq_dice, region.sq_nsd, region.official_global_nsd) == (0, 0, 0, 0)
    assert {getattr(region, name) for name in UNDEFINED} == {None}


def test_the_penalty_of_2026_is_told_beside_the_scores_and_enters_none():
    spec = SPECS["brats2026-goat"]
    regions, _ = score(volume(HERE), volume(THERE), spec)
    assert {region.hd95_penalty_mm for region in regions.values()} == {373}
    assert all(region.sq_hd95_mm is None for region in regions.values())
