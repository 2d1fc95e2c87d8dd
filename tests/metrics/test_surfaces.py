"""Surface elements by hand, and nearest distances and their percentile against the plain way to find them."""

import itertools
import math

import numpy as np
import pytest

from goat_ray.metrics import surfaces
from goat_ray.metrics.lesions import MARGIN_VOX, Frame, frame_of, reference_lesions, region_in
from goat_ray.metrics.specs import RegionPolicy
from goat_ray.metrics.surfaces import (
    Groups,
    Points,
    Targets,
    nearest_mm,
    neighbourhood_codes,
    percentile_95_mm,
    surfel_areas,
    surfels,
    weighted_percentile_95,
)
from tests.metrics.maps import ET, volume

CORNERS = list(itertools.product((0, 1), repeat=3))
SPACINGS = [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.5, 0.75, 2.0), (0.9375, 0.9375, 1.2000000476837158)]


def code_of(*voxels):
    """The code of a cell with these of its voxels set."""
    return sum(128 >> CORNERS.index(voxel) for voxel in voxels)


def frame_of_shape(*shape):
    everywhere = tuple(slice(0, n) for n in shape)
    return Frame((0, 0, 0), shape, everywhere, everywhere, everywhere)


# --- areas and codes


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flat_surface_has_the_area_of_a_voxel_face(spacing, axis):
    areas = surfel_areas(spacing)
    side = code_of(*(voxel for voxel in CORNERS if not voxel[axis]))
    face = math.prod(spacing) / spacing[axis]
    assert areas[side] == pytest.approx(face)
    assert areas[255 - side] == pytest.approx(face)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_lone_voxel_of_a_cell_is_cut_off_through_the_middles_of_three_edges(spacing):
    x, y, z = spacing
    corner = math.hypot(y * z, x * z, x * y) / 8
    for voxel in CORNERS:
        assert surfel_areas(spacing)[code_of(voxel)] == pytest.approx(corner)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_edge_of_a_cell_is_cut_off_along_its_whole_length(spacing, axis):
    across = [side for i, side in enumerate(spacing) if i != axis]
    edge = code_of(*(voxel for voxel in CORNERS if sum(voxel) == voxel[axis]))
    assert surfel_areas(spacing)[edge] == pytest.approx(spacing[axis] * math.hypot(*across) / 2)


def test_voxels_that_touch_at_a_corner_are_cut_off_one_by_one():
    areas = surfel_areas((1.0, 2.0, 3.0))
    assert areas[code_of((0, 0, 0), (1, 1, 1))] == pytest.approx(2 * areas[code_of((0, 0, 0))])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_inside_has_the_surface_of_the_outside(spacing):
    areas = surfel_areas(spacing)
    assert areas.shape == (256,)
    assert areas[0] == areas[255] == 0
    assert (areas[1:255] > 0).all()
    np.testing.assert_array_equal(areas, areas[::-1])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_areas_do_not_depend_on_how_the_axes_lie(order):
    spacing = (0.5, 1.0, 3.0)
    turned_spacing = tuple(spacing[axis] for axis in order)
    for flip, code in itertools.product(CORNERS, range(256)):
        voxels = [voxel for voxel in CORNERS if code & code_of(voxel)]
        turned = [tuple(voxel[axis] ^ flip[axis] for axis in order) for voxel in voxels]
        assert surfel_areas(turned_spacing)[code_of(*turned)] == pytest.approx(surfel_areas(spacing)[code], abs=1e-14)


@pytest.mark.parametrize("largest", [1, 255])
def test_a_code_is_the_weighted_sum_of_its_eight_voxels_modulo_256(largest):
    values = np.random.default_rng(0).integers(0, largest + 1, (4, 5, 6)).astype(np.uint8)
    codes = neighbourhood_codes(values.ravel(), (30, 6, 1))
    for x, y, z in itertools.product(range(3), range(4), range(5)):
        total = sum(int(values[x + i, y + j, z + k]) * code_of((i, j, k)) for i, j, k in CORNERS)
        assert codes[x * 30 + y * 6 + z] == total % 256


def lesions_of(labels):
    rule = RegionPolicy(labels=(ET,), dilation_vox=0)
    frame = frame_of(labels, labels, rule, (0, 0, 0), labels.shape)
    return reference_lesions(region_in(frame, labels, rule), frame, rule), frame


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_surface_of_a_box_is_its_faces_with_blunt_edges_and_corners(spacing):
    lesions, frame = lesions_of(volume(((4, 5, 6), (3, 4, 5), ET)))
    found = surfels(lesions, frame, spacing)
    (x, y, z), (a, b, c) = spacing, (2, 3, 4)  # steps between voxel centres along each side
    faces = 2 * (a * b * x * y + b * c * y * z + a * c * x * z)
    edges = 4 * (a * x * math.hypot(y, z) + b * y * math.hypot(x, z) + c * z * math.hypot(x, y)) / 2
    corners = 8 * math.hypot(y * z, x * z, x * y) / 8
    assert found.area.sum() == pytest.approx(faces + edges + corners)
    assert found.index.size == 4 * 5 * 6 - 2 * 3 * 4
    assert set(found.owner) == {1}


def test_every_surface_element_belongs_to_the_lesion_it_is_of():
    labels = (np.random.default_rng(5).random((12, 11, 10)) < 0.04).astype(np.uint8) * ET
    lesions, frame = lesions_of(labels)
    assert lesions.count > 10
    found = surfels(lesions, frame, (1.0, 1.0, 1.0))
    expected = {}
    for start in itertools.product(*(range(n - 1) for n in frame.shape)):
        cell = lesions.ids[tuple(slice(s, s + 2) for s in start)]
        owners = set(cell.ravel().tolist()) - {0}
        if owners and not cell.all():
            (expected[int(np.ravel_multi_index(start, frame.shape))],) = owners
    assert dict(zip(found.index.tolist(), found.owner.tolist(), strict=True)) == expected


def test_a_hollow_has_a_surface_too():
    solid, hollow = volume(((4, 4, 4), 5, ET)), volume(((4, 4, 4), 5, ET), ((6, 6, 6), 1, 0))
    areas = []
    for labels in (solid, hollow):
        lesions, frame = lesions_of(labels)
        areas.append(surfels(lesions, frame, (1.0, 1.0, 1.0)).area.sum())
    assert areas[1] - areas[0] == pytest.approx(math.sqrt(3))


# --- distances


def random_search(seed, shape, n_points, n_targets, n_groups, n_owners, spacing):
    """Points in one group or several, and targets with owners: group 0 accepts them all, every other group some."""
    rng = np.random.default_rng(seed)
    frame = frame_of_shape(*shape)
    inner = [range(MARGIN_VOX, n - MARGIN_VOX) for n in shape]
    places = np.array([np.ravel_multi_index(voxel, shape) for voxel in itertools.product(*inner)])
    ends, owner = np.sort(rng.choice(places, n_targets, replace=False)), rng.integers(1, n_owners + 1, n_targets)
    targets = Targets.of(Points(ends, owner.astype(np.uint16), np.ones(n_targets)), frame, spacing)
    accepts = rng.random((n_groups, n_owners + 1)) < 0.6
    accepts[0] = True
    accepts[:, 0] = False
    index, area = rng.choice(places, n_points), surfel_areas(spacing)[rng.integers(1, 255, n_points)]
    point, group = np.nonzero(rng.random((n_points, n_groups)) < 0.7)
    mixed = rng.permutation(point.size)
    point, group = point[mixed], group[mixed]
    return Groups(index[point], point, group, area[point], accepts), targets


def plain_distances(groups, targets):
    """Distance of each point to the nearest accepted target, one point and one target at a time."""
    shape, spacing = targets.frame.shape, np.array(targets.spacing_mm)
    ends = np.stack(np.unravel_index(targets.points.index, shape), axis=1)
    found = []
    for index, group in zip(groups.index.tolist(), groups.group.tolist(), strict=True):
        accepted = ends[groups.accepts[group][targets.points.owner]]
        offsets = (accepted - np.array(np.unravel_index(index, shape))) * spacing
        found.append(min((math.sqrt(x * x + y * y + z * z) for x, y, z in offsets.tolist()), default=math.inf))
    return np.array(found)


def plain_percentile(distances, areas):
    """The distance at which 95 % of the area is reached, by sorting all of it."""
    if not distances.size:
        return math.inf
    pairs = sorted(zip(distances.tolist(), areas.tolist(), strict=True))
    distances, areas = np.array(pairs).T
    place = np.searchsorted(np.cumsum(areas) / np.sum(areas), 0.95)
    return distances[min(place, distances.size - 1)]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("n_targets", "n_groups", "n_owners"), [(40, 1, 1), (300, 5, 7), (8, 3, 4), (1, 2, 1)])
def test_the_nearest_target_is_found_near_and_far(spacing, n_targets, n_groups, n_owners):
    groups, targets = random_search(n_targets, (26, 24, 22), 150, n_targets, n_groups, n_owners, spacing)
    expected = plain_distances(groups, targets)
    np.testing.assert_allclose(nearest_mm(groups, targets), expected, rtol=1e-15)
    reach = 3 * min(spacing)
    assert (expected > reach).any()
    for limit in (0, 0.5, 1.0, reach, 2 * reach):
        within = np.where(expected <= limit, expected, math.inf)
        np.testing.assert_allclose(nearest_mm(groups, targets, limit), within, rtol=1e-15)


def test_a_distance_of_just_the_limit_counts():
    frame = frame_of_shape(12, 12, 12)
    here, there = (np.ravel_multi_index((5, 5, z), frame.shape) for z in (5, 6))
    groups = Groups(np.array([here]), np.array([0]), np.array([0]), np.ones(1), np.array([[False, True]]))
    targets = Targets.of(Points(np.array([there]), np.array([1], np.uint8), np.ones(1)), frame, (1.0, 1.0, 0.5))
    assert nearest_mm(groups, targets, 0.5).tolist() == [0.5]
    assert nearest_mm(groups, targets, 0.49).tolist() == [math.inf]


def test_without_an_accepted_target_the_distance_is_infinite():
    groups, targets = random_search(0, (20, 20, 20), 40, 30, 2, 3, (1.0, 1.0, 1.0))
    for lonely in (0, 1):
        groups.accepts[:, 1:] = True
        groups.accepts[lonely] = False
        np.testing.assert_array_equal(np.isinf(nearest_mm(groups, targets)), groups.group == lonely)
        assert np.isinf(percentile_95_mm(groups, targets)).tolist() == [lonely == 0, lonely == 1]


def test_without_any_target_all_distances_are_infinite():
    groups, targets = random_search(0, (20, 20, 20), 40, 0, 2, 3, (1.0, 1.0, 1.0))
    assert np.isinf(nearest_mm(groups, targets)).all()
    assert np.isinf(percentile_95_mm(groups, targets)).all()


def test_without_any_point_there_is_no_distance():
    groups, targets = random_search(0, (20, 20, 20), 0, 30, 2, 3, (1.0, 1.0, 1.0))
    assert nearest_mm(groups, targets).size == 0
    assert np.isinf(percentile_95_mm(groups, targets)).tolist() == [True, True]


def test_equal_distances_are_equal_to_the_bit_however_they_were_found(monkeypatch):
    groups, targets = random_search(4, (26, 24, 22), 200, 60, 2, 3, SPACINGS[3])
    looked_up = nearest_mm(groups, targets)
    monkeypatch.setattr(surfaces._Search, "look_around", lambda *_: None)
    np.testing.assert_array_equal(nearest_mm(groups, targets), looked_up)


# --- the percentile


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(6))
def test_the_percentile_is_to_the_bit_the_one_by_sorting(spacing, seed):
    n_targets = (400, 60, 5)[seed % 3]
    groups, targets = random_search(seed, (26, 24, 22), 300, n_targets, 4, 5, spacing)
    groups.group[groups.group == 3] = 2  # a group without points
    distances = nearest_mm(groups, targets)
    expected = [plain_percentile(distances[groups.group == g], groups.area[groups.group == g]) for g in range(4)]
    assert expected[3] == math.inf
    assert percentile_95_mm(groups, targets).tolist() == expected


def line_of_points(n, n_far, area, far_vox=9, spacing=(1.0, 1.0, 1.0)):
    """n points of equal area: all lie on targets but the last few, which are far from any."""
    frame = frame_of_shape(2 * MARGIN_VOX + far_vox + 1, 2 * MARGIN_VOX + 1, 2 * MARGIN_VOX + n)
    places = [(MARGIN_VOX, MARGIN_VOX, MARGIN_VOX + z) for z in range(n)]
    index = np.array([np.ravel_multi_index(place, frame.shape) for place in places])
    targets = Targets.of(Points(index, np.ones(n, np.uint8), np.ones(n)), frame, spacing)
    points = index.copy()
    points[n - n_far :] += far_vox * frame.strides[0]
    return Groups(points, np.arange(n), np.zeros(n, np.intp), np.full(n, area), np.array([[False, True]])), targets


@pytest.mark.parametrize("far_vox", [1, 3, 9])
@pytest.mark.parametrize(("n", "n_far"), [(20, 1), (40, 2), (60, 3), (20, 2), (21, 1), (19, 1), (100, 5), (1, 1)])
def test_a_tie_at_95_percent_is_decided_by_the_sum_in_order(n, n_far, far_vox):
    for area in (1.0, 0.1, 1 / 3, math.sqrt(3) / 8, math.sqrt(2) / 2, 7.3):
        groups, targets = line_of_points(n, n_far, area, far_vox)
        distances = plain_distances(groups, targets)
        assert percentile_95_mm(groups, targets).tolist() == [plain_percentile(distances, groups.area)]


def test_exactly_95_percent_within_reach_is_enough():
    assert percentile_95_mm(*line_of_points(20, 1, 1.0)).tolist() == [0.0]
    assert percentile_95_mm(*line_of_points(19, 1, 1.0)).tolist() == [9.0]


def test_among_equal_distances_the_smallest_area_is_summed_first():
    # Chosen so that 95 % is a matter of the last bit, which depends on the order of the first three.
    distances, areas = np.array([1.0, 1.0, 1.0, 2.0]), np.array([0.3, 0.2, 0.1, 0.031578947368421095])
    assert np.searchsorted(np.cumsum(areas) / np.sum(areas), 0.95) == 2
    assert weighted_percentile_95(distances, areas) == 2.0


def test_the_percentile_of_one_point_is_its_distance():
    assert weighted_percentile_95(np.array([5.0]), np.array([0.25])) == 5.0
