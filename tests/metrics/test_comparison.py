"""Distances of the whole region and of every lesion, against distance transforms of one mask after the other."""

import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt

from goat_ray.metrics.comparison import compare
from goat_ray.metrics.lesions import frame_of, predicted_lesions, reference_lesions, region_in
from goat_ray.metrics.specs import RegionPolicy
from goat_ray.metrics.surfaces import surfel_areas
from tests.metrics.maps import ET, volume

SPACINGS = [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0), (0.9375, 0.9375, 1.2000000476837158)]


def random_pair(seed, shape=(36, 22, 20)):
    """Boxes, most of them predicted with a shift; some far from all others on their side."""
    rng = np.random.default_rng(seed)
    ours, theirs = [], []
    for _ in range(6):
        start, sides = rng.integers(1, np.array(shape) - 5), rng.integers(1, 6, 3)
        fate = rng.random()
        if fate < 0.8:
            ours.append((start.tolist(), sides.tolist(), ET))
        if fate > 0.2:
            theirs.append(((start + rng.integers(-1, 3, 3)).tolist(), sides.tolist(), ET))
    return volume(*ours, shape=shape), volume(*theirs, shape=shape)


def compared(reference, prediction, spacing_mm=(1.0, 1.0, 1.0), **policy):
    rule = RegionPolicy(**{"labels": (ET,), "dilation_vox": 1, **policy})
    frame = frame_of(reference, prediction, rule, (0, 0, 0), reference.shape)
    lesions = reference_lesions(region_in(frame, reference, rule), frame, rule)
    return compare(lesions, predicted_lesions(region_in(frame, prediction, rule), frame, rule), frame, spacing_mm)


def masks_of_groups(comparison):
    """The two masks of group 0, the whole region, and of each reference lesion with what it is matched to."""
    ours, theirs = comparison.reference.ids, comparison.prediction.ids
    yield ours > 0, theirs > 0
    for lesion in range(1, comparison.reference.highest + 1):
        yield ours == lesion, np.isin(theirs, comparison.matches.second[comparison.matches.first == lesion])


def slow_surface(mask, spacing_mm):
    """Where the surface elements of a mask are, and their areas."""
    n = [side - 1 for side in mask.shape]
    codes = np.zeros(n, np.intp)
    for i in range(8):
        x, y, z = i >> 2, i >> 1 & 1, i & 1
        codes += mask[x : x + n[0], y : y + n[1], z : z + n[2]] * (128 >> i)
    return (codes > 0) & (codes < 255), surfel_areas(spacing_mm)[codes]


def slow_hd95(ours, theirs, spacing_mm):
    surfaces = [slow_surface(mask, spacing_mm) for mask in (ours, theirs)]
    if not all(surface.any() for surface, _ in surfaces):
        return math.inf
    ways = []
    for (surface, area), (other, _) in (surfaces, surfaces[::-1]):
        distances = distance_transform_edt(~other, sampling=spacing_mm)[surface]
        order = np.lexsort((area[surface], distances))
        share = np.cumsum(area[surface][order]) / area[surface].sum()
        ways.append(distances[order][np.searchsorted(share, 0.95)])
    return max(ways)


def slow_border_distances(ours, theirs, spacing_mm):
    """Distance of each border voxel to the border of the other mask, of ours and of theirs."""
    borders = [mask & ~binary_erosion(mask) for mask in (ours, theirs)]
    for border, other in (borders, borders[::-1]):
        if other.any():
            yield distance_transform_edt(~other, sampling=spacing_mm)[border]
        else:
            yield np.full(np.count_nonzero(border), math.inf)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(6))
def test_hd95_is_that_of_each_lesion_with_its_own_predictions_and_of_the_whole(seed, spacing):
    comparison = compared(*random_pair(seed), spacing)
    expected = [slow_hd95(*masks, spacing) for masks in masks_of_groups(comparison)]
    assert comparison.hd95_mm().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(6))
def test_nsd_gives_the_share_of_each_border_that_lies_within_the_tolerance(seed, spacing):
    comparison = compared(*random_pair(seed), spacing)
    expected = []
    for tolerance in (0.5, 1.0, 4.0):
        expected.append([])
        for masks in masks_of_groups(comparison):
            ways = [distances <= tolerance for distances in slow_border_distances(*masks, spacing)]
            score = np.mean([way.mean() for way in ways]) if all(way.size for way in ways) else 0.0
            expected[-1].append(score)
    found = comparison.nsd((0.5, 1.0, 4.0), guard=1e-12)
    assert [scores.tolist() for scores in found] == [pytest.approx(scores, abs=1e-11) for scores in expected]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("limit", [2.0, math.inf])
def test_border_distances_are_told_up_to_a_limit(spacing, limit):
    comparison = compared(*random_pair(1), spacing)
    sides = comparison.border_distances_mm(limit)
    for group, masks in enumerate(masks_of_groups(comparison)):
        for (groups, found), slow in zip(sides, slow_border_distances(*masks, spacing), strict=True):
            if group == 0 or comparison.is_matched[group]:
                slow = np.where(slow <= limit, slow, math.inf)
                assert sorted(found[groups.group == group]) == pytest.approx(sorted(slow), rel=1e-12)


def test_random_pairs_have_hits_misses_and_distances_beyond_the_neighbourhood():
    found = [compared(*random_pair(seed)) for seed in range(6)]
    assert sum(comparison.reference.count for comparison in found) > 15
    assert sum(np.count_nonzero(~comparison.is_matched[1:]) for comparison in found) > 2
    assert sum(np.count_nonzero(comparison.hd95_mm()[1:] > 4) for comparison in found) > 6


def test_who_meets_whom_and_in_how_many_voxels():
    reference = volume(((2, 2, 2), 3, ET), ((12, 2, 2), 3, ET), ((2, 14, 14), 3, ET))
    prediction = volume(((4, 2, 2), (9, 3, 3), ET), ((2, 2, 6), 2, ET), ((14, 14, 2), 2, ET))
    comparison = compared(reference, prediction)
    # Numbers follow the first axis. The second predicted lesion reaches from lesion 1 to 3, the first is one voxel off.
    assert [*zip(comparison.matches.first, comparison.matches.second, strict=True)] == [(1, 2), (3, 2)]
    assert comparison.is_matched.tolist() == [False, True, False, True]
    overlaps = comparison.overlaps
    assert [*zip(overlaps.first, overlaps.second, overlaps.counts, strict=True)] == [(1, 2, 9), (3, 2, 9)]


def test_a_shell_is_met_without_an_overlap():
    comparison = compared(volume(((4, 4, 4), 3, ET)), volume(((7, 4, 4), 2, ET)))
    assert [*zip(comparison.matches.first, comparison.matches.second, strict=True)] == [(1, 1)]
    assert comparison.matches.counts.tolist() == [4]
    assert comparison.overlaps.first.size == 0


def test_one_lesion_that_meets_all_is_measured_once_and_is_the_whole():
    reference, prediction = volume(((4, 4, 4), (8, 3, 3), ET)), volume(((4, 4, 4), 3, ET), ((9, 4, 4), (4, 3, 3), ET))
    comparison = compared(reference, prediction)
    hd95_mm, (nsd,) = comparison.hd95_mm(), comparison.nsd((0.5,), 0.0)
    assert hd95_mm[0] == hd95_mm[1] > 0
    assert 0 < nsd[0] == nsd[1] < 1
    groups = comparison.border_distances_mm()[0][0]
    assert set(groups.group) == {1}
