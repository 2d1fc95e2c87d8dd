"""How far members agree, against counts made by hand and against plain masks."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goat_ray.labels import REGIONS
from goat_ray.members.agreement import COMPARED_REGIONS, agreement, bit_sets

NOTHING = {"member_dice_mean": None, "member_dice_min": None, "member_volume_cv": None}


def of(*members):
    return agreement(bit_sets(np.array(labels, np.uint8)) for labels in members)


def test_dice_and_volumes_are_those_counted_by_hand():
    found = of([3, 3, 1, 0, 0, 0], [3, 0, 1, 2, 0, 0], [0, 0, 1, 2, 2, 2])
    assert found["ET"] == {"member_dice_mean": round(2 / 9, 6), "member_dice_min": 0.0, "member_volume_cv": 0.816497}
    assert found["TC"]["member_dice_mean"] == round((4 / 5 + 2 / 4 + 2 / 3) / 3, 6)
    assert found["TC"]["member_dice_min"] == 0.5
    assert found["WT"]["member_dice_min"] == round(2 / 7, 6)
    assert found["WT"]["member_volume_cv"] == round(np.std([3, 3, 4]) / np.mean([3, 3, 4]), 6)


def test_members_that_draw_the_same_agree_fully():
    assert of([1, 2, 3], [1, 2, 3])["WT"] == {
        "member_dice_mean": 1.0,
        "member_dice_min": 1.0,
        "member_volume_cv": 0.0,
    }


def test_two_members_that_both_found_nothing_agree_when_a_third_found_something():
    found = of([0, 0], [0, 0], [3, 0])["ET"]
    assert (found["member_dice_mean"], found["member_dice_min"]) == (round(1 / 3, 6), 0.0)


def test_there_is_nothing_to_compare_where_nobody_found_anything_or_for_one_member():
    assert of([0, 0], [0, 0]) == dict.fromkeys(COMPARED_REGIONS, NOTHING)
    assert of([2, 0], [2, 0])["ET"] == NOTHING
    assert of([3, 3]) == dict.fromkeys(COMPARED_REGIONS, NOTHING)


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_bit_sets_count_what_plain_masks_count(count, seed):
    members = np.random.default_rng(seed).choice(4, (count, 3, 5, 7), p=(0.7, 0.1, 0.1, 0.1)).astype(np.uint8)
    found = agreement(map(bit_sets, members))
    for region in COMPARED_REGIONS:
        masks = np.isin(members, REGIONS[region])
        dice = [2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in combinations(masks, 2) if (a | b).any()]
        dice += [1.0] * (count * (count - 1) // 2 - len(dice))
        if masks.any():
            assert found[region]["member_dice_mean"] == pytest.approx(np.mean(dice), abs=1e-6)
            assert found[region]["member_dice_min"] == pytest.approx(min(dice), abs=1e-6)
