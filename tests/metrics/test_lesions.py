"""What counts as one lesion: merging, dropping, joining, and who meets whom."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from goat_ray.metrics import lesions
from goat_ray.metrics.lesions import (
    MARGIN_VOX,
    count_pairs,
    frame_of,
    joined,
    predicted_lesions,
    reference_lesions,
    region_in,
    surface_voxels,
)
from goat_ray.metrics.specs import RegionPolicy
from tests.metrics.maps import ET, NETC, RC, SNFH, volume

NOTHING = volume()


def found(labels, find=reference_lesions, label=ET, **policy):
    """The lesions of one label and their frame."""
    rule = RegionPolicy(**{"labels": (label,), "dilation_vox": 0, **policy})
    frame = frame_of(labels, np.zeros_like(labels), rule, (0, 0, 0), labels.shape)
    return find(region_in(frame, labels, rule), frame, rule), frame


def at(ids, frame, *voxel):
    """The id at a voxel of the label map."""
    return int(ids[tuple(v - o for v, o in zip(voxel, frame.origin, strict=True))])


def joined_ids(labels, starts, *partners):
    """Numbers of the ET lesions at these voxels, joined by the tissues of these labels."""
    ours, frame = found(labels)
    result = joined(ours, frame, [found(labels, label=label) for label in partners])
    assert result.sizes_vox.sum() == np.count_nonzero(labels == ET)
    assert result.n_components.sum() == ours.count
    assert [*result.sizes_vox[1:]] == [np.count_nonzero(result.ids == i) for i in range(1, result.highest + 1)]
    return [at(result.ids, frame, *start) for start in starts]


# --- the frame


@pytest.mark.parametrize("dilation", [0, 3])
def test_a_frame_holds_its_region_with_room_for_growth_and_for_neighbours(dilation):
    reference, prediction = volume(((2, 5, 7), (3, 2, 1), ET)), volume(((6, 5, 9), 2, ET))
    rule = RegionPolicy(labels=(ET,), dilation_vox=dilation)
    frame = frame_of(reference, prediction, rule, (0, 0, 0), reference.shape)
    room = dilation + MARGIN_VOX
    assert frame.origin == (2 - room, 5 - room, 7 - room)
    assert frame.shape == (6 + 2 * room, 2 + 2 * room, 4 + 2 * room)
    whole = np.pad(reference == ET, room)
    cut = tuple(slice(o + room, o + room + n) for o, n in zip(frame.origin, frame.shape, strict=True))
    np.testing.assert_array_equal(region_in(frame, reference, rule), whole[cut])


def test_a_frame_of_a_crop_counts_voxels_from_the_maps_corner():
    labels = volume(((10, 11, 12), 2, ET))
    crop = np.ascontiguousarray(labels[8:, 9:, 5:])
    rule = RegionPolicy(labels=(ET,), dilation_vox=1)
    frame = frame_of(crop, np.zeros_like(crop), rule, (8, 9, 5), labels.shape)
    assert frame.origin == tuple(start - 1 - MARGIN_VOX for start in (10, 11, 12))
    assert at(region_in(frame, crop, rule), frame, 10, 11, 12) == 1
    assert frame.inside == tuple(slice(0, size) for size in frame.shape)


def test_the_part_of_a_frame_that_lies_in_the_map_ends_at_its_borders():
    labels = volume(((0, 0, 23), (1, 24, 1), ET))
    _, frame = found(labels, dilation_vox=2)
    ends = [(start + part.start, start + part.stop) for start, part in zip(frame.origin, frame.inside, strict=True)]
    assert ends == [(0, 7), (0, 24), (17, 24)]


def test_a_region_that_is_nowhere_has_no_lesion():
    ours, _ = found(NOTHING, dilation_vox=3)
    assert (ours.count, ours.highest, ours.ids.any()) == (0, 0, False)


# --- merging and dropping


@pytest.mark.parametrize(("gap", "dilation", "n"), [(1, 0, 2), (2, 1, 1), (3, 1, 2), (6, 3, 1), (7, 3, 2)])
def test_pieces_are_one_lesion_up_to_a_gap_of_twice_the_dilation(gap, dilation, n):
    labels = volume(((2, 4, 4), 3, ET), ((5 + gap, 4, 4), 3, ET))
    ours, _ = found(labels, dilation_vox=dilation)
    assert ours.count == n
    assert sorted(ours.sizes_vox[1:]) == [54 // n] * n


@pytest.mark.parametrize(("gap", "n"), [(4, 1), (5, 2)])
def test_along_the_diagonal_of_space_pieces_must_be_nearer(gap, n):
    # Grown by 3, a voxel reaches 6 steps in all: two reach 4 along each axis, and a corner contact is the fifth.
    labels = volume(((2, 2, 2), 2, ET), ((4 + gap, 4 + gap, 4 + gap), 2, ET))
    assert found(labels, dilation_vox=3)[0].count == n


@pytest.mark.parametrize("step", [(1, 0, 0), (1, 1, 0), (1, 1, 1)])
def test_pieces_that_touch_at_a_corner_are_one_lesion_without_dilation(step):
    labels = volume(((4, 4, 4), 1, ET), (tuple(4 + s for s in step), 1, ET))
    assert found(labels)[0].count == 1


def test_a_merged_lesion_keeps_its_own_voxels_and_its_zone_is_the_grown_one():
    labels = volume(((4, 4, 4), 1, ET), ((7, 4, 4), 1, ET))
    ours, frame = found(labels, dilation_vox=1)
    assert np.count_nonzero(ours.ids) == 2
    assert np.count_nonzero(ours.zones) == 2 * 19
    assert at(ours.zones, frame, 5, 4, 4) == at(ours.ids, frame, 7, 4, 4) == 1


def test_zones_end_at_the_border_of_the_map():
    ours, _ = found(volume(((0, 0, 0), 1, ET)), dilation_vox=1)
    assert np.count_nonzero(ours.zones) == 2**3 - 1


def test_lesions_are_numbered_by_their_grown_shapes_cut_by_the_border():
    # The first axis decides unless both shapes reach its border: then the second does.
    labels = volume(((0, 20, 4), 1, ET), ((1, 2, 4), 1, ET))
    alone, frame = found(labels)
    assert [at(alone.ids, frame, *voxel) for voxel in ((0, 20, 4), (1, 2, 4))] == [1, 2]
    grown, frame = found(labels, dilation_vox=1)
    assert [at(grown.ids, frame, *voxel) for voxel in ((0, 20, 4), (1, 2, 4))] == [2, 1]


def test_predicted_pieces_stay_apart_unless_small_ones_are_dropped():
    labels = volume(((2, 4, 4), 2, ET), ((6, 4, 4), 2, ET))
    apart, _ = found(labels, predicted_lesions, dilation_vox=3)
    merged, _ = found(labels, predicted_lesions, dilation_vox=3, min_pred_vox=10)
    assert [*apart.sizes_vox] == [0, 8, 8]
    assert [*merged.sizes_vox] == [0, 16]  # each piece alone would have been dropped


@pytest.mark.parametrize(("threshold", "sizes"), [(7, [0, 27, 8, 27]), (8, [0, 27, 0, 27]), (27, [0])])
def test_dropped_predictions_lose_their_voxels_and_leave_a_gap_in_the_numbers(threshold, sizes):
    labels = volume(((2, 4, 4), 3, ET), ((10, 4, 4), 2, ET), ((18, 4, 4), 3, ET))
    ours, frame = found(labels, predicted_lesions, dilation_vox=1, min_pred_vox=threshold)
    assert [*ours.sizes_vox] == sizes
    assert (ours.highest, ours.count) == (len(sizes) - 1, sum(size > 0 for size in sizes))
    numbers = [at(ours.ids, frame, x, 4, 4) for x in (2, 10, 18)]
    assert numbers == [number if number in np.flatnonzero(sizes) else 0 for number in (1, 2, 3)]


def test_voxels_and_owners_list_what_the_ids_show():
    labels = volume(((2, 4, 4), 3, ET), ((10, 4, 4), 2, ET), ((12, 6, 6), 2, ET), ((18, 4, 4), 3, NETC))
    for find in (reference_lesions, predicted_lesions):
        for policy in ({}, {"dilation_vox": 2}, {"dilation_vox": 2, "min_pred_vox": 20}):
            ours, _ = found(labels, find, **policy)
            np.testing.assert_array_equal(ours.voxels, np.flatnonzero(ours.ids))
            np.testing.assert_array_equal(ours.owner, ours.ids.ravel()[ours.voxels])
            np.testing.assert_array_equal(ours.sizes_vox[1:], np.bincount(ours.owner, minlength=ours.highest + 1)[1:])


def test_a_lesion_counts_the_pieces_that_merged_into_it():
    labels = volume(((2, 4, 4), 2, ET), ((5, 4, 4), 1, ET), ((6, 5, 5), 1, ET), ((16, 4, 4), 2, ET))
    assert [*found(labels)[0].n_components] == [0, 1, 1, 1]  # the two single voxels touch at a corner
    assert [*found(labels, dilation_vox=1)[0].n_components] == [0, 2, 1]
    assert [*found(labels, predicted_lesions, dilation_vox=1, min_pred_vox=8)[0].n_components] == [0, 2]


# --- joining


def test_islands_around_one_core_are_one_lesion():
    labels = volume(
        ((8, 8, 8), 4, NETC),
        *((start, 2, ET) for start in ((6, 9, 9), (12, 9, 9), (9, 12, 9), (18, 18, 18))),
    )
    assert joined_ids(labels, [(6, 9, 9), (12, 9, 9), (9, 12, 9), (18, 18, 18)], NETC) == [2, 2, 2, 1]


def test_the_last_lesion_of_a_chain_follows_its_own_core_alone():
    # ET1 core1 ET2 core2 ET3: ET2 follows core1, its first, so nothing is left to join ET3 to.
    labels = volume(*(((2 + 4 * i, 4, 4), (4, 2, 2), tissue) for i, tissue in enumerate((ET, NETC, ET, NETC, ET))))
    assert joined_ids(labels, [(2, 4, 4), (10, 4, 4), (18, 4, 4)], NETC) == [1, 1, 2]


def test_a_lesion_follows_the_core_with_the_smaller_number():
    # Cores are numbered along the first axis, so the middle lesion follows the left core wherever it is itself.
    labels = volume(
        ((4, 4, 4), 2, NETC), ((12, 4, 4), 2, NETC),
        ((2, 4, 4), 2, ET), ((6, 4, 4), (6, 2, 2), ET), ((14, 4, 4), 2, ET),
    )  # fmt: skip
    assert joined_ids(labels, [(2, 4, 4), (6, 4, 4), (14, 4, 4)], NETC) == [1, 1, 2]


def test_a_single_contact_changes_nothing_but_two_renumber():
    lonely = volume(((2, 4, 4), 2, ET), ((4, 4, 4), 2, NETC), ((16, 4, 4), 2, ET))
    assert joined_ids(lonely, [(2, 4, 4), (16, 4, 4)], NETC) == [1, 2]
    both = volume(((0, 4, 4), 2, NETC), ((2, 4, 4), 2, ET), ((4, 4, 4), 2, NETC), ((16, 4, 4), 2, ET))
    assert joined_ids(both, [(2, 4, 4), (16, 4, 4)], NETC) == [2, 1]


def test_partners_come_one_after_the_other():
    # The core joins the first two, then the cavity takes the third and, through the second, the first with it.
    labels = volume(
        ((2, 4, 4), 2, ET), ((4, 4, 4), 2, NETC), ((6, 4, 4), 2, ET), ((8, 4, 4), 2, RC), ((10, 4, 4), 2, ET),
    )  # fmt: skip
    ets = [(2, 4, 4), (6, 4, 4), (10, 4, 4)]
    assert joined_ids(labels, ets) == [1, 2, 3]
    assert joined_ids(labels, ets, NETC) == [2, 2, 1]
    assert joined_ids(labels, ets, RC) == [1, 2, 2]
    assert joined_ids(labels, ets, NETC, RC) == joined_ids(labels, ets, RC, NETC) == [1, 1, 1]
    assert joined_ids(labels, ets, SNFH) == [1, 2, 3]


@pytest.mark.parametrize(("step", "is_contact"), [((1, 0, 0), True), ((1, 1, 0), True), ((1, 1, 1), False)])
def test_faces_and_edges_are_contacts_and_corners_are_not(step, is_contact):
    x, y, z = (10 + s for s in step)
    labels = volume(((10, 10, 10), 1, NETC), ((9, 10, 10), 1, ET), ((x, y, z), 1, ET))
    assert joined_ids(labels, [(9, 10, 10), (x, y, z)], NETC) == ([1, 1] if is_contact else [1, 2])


def test_zones_are_joined_with_their_lesions():
    labels = volume(((2, 8, 8), 2, ET), ((4, 8, 8), (8, 2, 2), NETC), ((12, 8, 8), 2, ET))
    ours, frame = found(labels, dilation_vox=1)
    result = joined(ours, frame, [found(labels, label=NETC)])
    assert at(ours.zones, frame, 1, 8, 8) != at(ours.zones, frame, 14, 8, 8)
    assert at(result.zones, frame, 1, 8, 8) == at(result.zones, frame, 14, 8, 8) == 1


def test_joining_closes_the_gaps_that_dropped_predictions_leave():
    labels = volume(((2, 4, 4), 3, ET), ((10, 4, 4), 1, ET), ((18, 4, 4), 3, ET))
    ours, frame = found(labels, predicted_lesions, min_pred_vox=1)
    result = joined(ours, frame, [found(labels, label=NETC)])
    assert [*ours.sizes_vox] == [0, 27, 0, 27]
    assert [*result.sizes_vox] == [0, 27, 27]
    assert [at(result.ids, frame, x, 4, 4) for x in (2, 10, 18)] == [1, 0, 2]


def test_a_tissue_whose_lesions_were_dropped_joins_nothing():
    labels = volume(((2, 4, 4), 2, ET), ((4, 4, 4), 2, NETC), ((6, 4, 4), 2, ET))
    ours, frame = found(labels)
    core = found(labels, predicted_lesions, NETC, min_pred_vox=8)
    assert joined(ours, frame, [core]).count == 2
    assert joined(ours, frame, [found(labels, predicted_lesions, NETC, min_pred_vox=7)]).count == 1


# --- pairs and surfaces


@pytest.mark.parametrize("limit", [0, 2**20])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_pairs_are_counted_alike_in_a_table_and_by_sorting(monkeypatch, limit, dtype):
    monkeypatch.setattr(lesions, "_DENSE_PAIRS", limit)
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 6, 500).astype(dtype), rng.integers(0, 200, 500).astype(dtype)
    expected = Counter((int(a), int(b)) for a, b in zip(first, second, strict=True) if a and b)
    pairs = count_pairs(first, second)
    assert [*zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)] == sorted(expected)
    assert dict(zip(sorted(expected), pairs.counts.tolist(), strict=True)) == expected


@pytest.mark.parametrize("limit", [0, 2**20])
def test_ids_may_be_too_large_for_a_product_in_their_own_type(monkeypatch, limit):
    monkeypatch.setattr(lesions, "_DENSE_PAIRS", limit)
    pairs = count_pairs(np.array([255, 255, 0], np.uint8), np.array([255, 255, 9], np.uint8))
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.counts.tolist()) == ([255], [255], [2])


@pytest.mark.parametrize("limit", [0, 2**20])
def test_where_no_ids_meet_there_are_no_pairs(monkeypatch, limit):
    monkeypatch.setattr(lesions, "_DENSE_PAIRS", limit)
    for first, second in (([], []), ([0, 1], [2, 0])):
        pairs = count_pairs(np.array(first, np.uint16), np.array(second, np.uint16))
        assert pairs.first.size == pairs.second.size == pairs.counts.size == 0


@pytest.mark.parametrize("density", [0.05, 0.5, 0.95])
def test_the_surface_is_what_erosion_by_faces_takes_away(density):
    labels = (np.random.default_rng(3).random((9, 10, 11)) < density).astype(np.uint8) * ET
    ours, frame = found(labels)
    index, owner = surface_voxels(ours, frame)
    mask = ours.ids != 0
    np.testing.assert_array_equal(index, np.flatnonzero(mask & ~binary_erosion(mask)))
    np.testing.assert_array_equal(owner, ours.ids.ravel()[index])


def test_a_neighbour_of_another_lesion_is_no_border():
    # The surface is the region's, whatever lesions it is divided into.
    ours, frame = found(volume(((4, 4, 4), (4, 3, 3), ET)))
    ids = ours.ids.copy()
    ids[MARGIN_VOX + 2 :] *= 2
    index, owner = surface_voxels(replace(ours, ids=ids, owner=ids.ravel()[ours.voxels]), frame)
    assert [np.count_nonzero(owner == i) for i in (1, 2)] == [2 * 9 - 1] * 2
    inner = [np.ravel_multi_index((MARGIN_VOX + x, MARGIN_VOX + 1, MARGIN_VOX + 1), frame.shape) for x in (1, 2)]
    assert not np.isin(inner, index).any()
