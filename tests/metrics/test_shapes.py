"""Shapes of lesions, on maps whose numbers can be worked out by hand."""

import math

import numpy as np
import pytest

from goat_ray.imaging.nifti import Grid
from goat_ray.labels import REGIONS, Label
from goat_ray.metrics.shapes import lesion_shapes, predicted_shapes, total_volume_vox

SHAPE = (12, 10, 8)
UNIT = Grid(SHAPE, np.eye(4))


def cube(labels, start, side, label):
    labels[tuple(slice(a, a + side) for a in start)] = label
    return labels


def box_of(shape):
    return shape.bbox_i0, shape.bbox_i1, shape.bbox_j0, shape.bbox_j1, shape.bbox_k0, shape.bbox_k1


def test_a_cube_is_one_lesion_of_its_regions():
    labels = cube(np.zeros(SHAPE, np.uint8), (1, 2, 3), 3, Label.ET)
    shapes = predicted_shapes(labels, UNIT)
    assert {region: list(found) for region, found in shapes.items()} == {
        "ET": [1],
        "NETC": [],
        "SNFH": [],
        "TC": [1],
        "WT": [1],
    }
    et = shapes["ET"][1]
    assert et == shapes["TC"][1] == shapes["WT"][1]
    assert (et.volume_vox, et.volume_mm3) == (27, 27.0)
    assert (et.centroid_i, et.centroid_j, et.centroid_k) == (2, 3, 4)
    assert (et.centroid_x_mm, et.centroid_y_mm, et.centroid_z_mm) == (2, 3, 4)
    assert box_of(et) == (1, 4, 2, 5, 3, 6)
    assert et.equiv_diameter_mm == pytest.approx((6 * 27 / math.pi) ** (1 / 3))


def test_cubes_that_touch_at_a_corner_are_one_lesion():
    labels = cube(np.zeros(SHAPE, np.uint8), (0, 0, 0), 2, Label.SNFH)
    cube(labels, (2, 2, 2), 2, Label.SNFH)
    (lesion,) = predicted_shapes(labels, UNIT)["SNFH"].values()
    assert lesion.volume_vox == 16
    assert (lesion.centroid_i, lesion.centroid_j, lesion.centroid_k) == (1.5, 1.5, 1.5)
    assert box_of(lesion) == (0, 4, 0, 4, 0, 4)


def test_places_and_sizes_follow_an_oblong_rotated_grid():
    # First file axis runs posterior in steps of 2 mm, second left in 0.5, third superior in 3.
    affine = np.array([[0, -0.5, 0, 10], [-2, 0, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])
    grid = Grid(SHAPE, affine)
    labels = cube(np.zeros(SHAPE, np.uint8), (4, 2, 1), 2, Label.NETC)
    (lesion,) = predicted_shapes(labels, grid)["NETC"].values()
    assert (lesion.centroid_i, lesion.centroid_j, lesion.centroid_k) == (4.5, 2.5, 1.5)
    assert lesion.centroid_x_mm == pytest.approx(10 - 0.5 * 2.5)
    assert lesion.centroid_y_mm == pytest.approx(20 - 2 * 4.5)
    assert lesion.centroid_z_mm == pytest.approx(-30 + 3 * 1.5)
    assert lesion.volume_mm3 == pytest.approx(8 * 2 * 0.5 * 3)
    assert lesion.equiv_diameter_mm == pytest.approx((6 * 24 / math.pi) ** (1 / 3))


@pytest.mark.parametrize("order", ["C", "F"])
def test_lesions_are_numbered_by_their_first_voxel(order):
    labels = np.zeros(SHAPE, np.uint8, order=order)
    labels[9, 0, 0] = labels[2, 5, 1] = labels[2, 1, 6] = Label.ET
    shapes = predicted_shapes(labels, UNIT)["ET"]
    assert list(shapes) == [1, 2, 3]
    assert [(s.bbox_i0, s.bbox_j0, s.bbox_k0) for s in shapes.values()] == [(2, 1, 6), (2, 5, 1), (9, 0, 0)]


def test_regions_join_the_labels_they_are_made_of():
    labels = cube(np.zeros(SHAPE, np.uint8), (0, 0, 0), 4, Label.SNFH)
    cube(labels, (1, 1, 1), 2, Label.NETC)
    labels[1, 1, 1] = Label.ET
    cube(labels, (8, 5, 5), 1, Label.ET)
    shapes = predicted_shapes(labels, Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0])))
    assert {region: (total_volume_vox(found), len(found)) for region, found in shapes.items()} == {
        "ET": (2, 2),
        "NETC": (7, 1),
        "SNFH": (56, 1),
        "TC": (9, 2),
        "WT": (65, 2),
    }
    assert sum(lesion.volume_mm3 for lesion in shapes["WT"].values()) == pytest.approx(65 * 8)


def test_an_empty_map_has_no_lesion_and_no_volume():
    shapes = predicted_shapes(np.zeros(SHAPE, np.uint8), UNIT)
    assert shapes == {region: {} for region in REGIONS}
    assert total_volume_vox(shapes["WT"]) == 0


def test_shapes_are_of_given_ids_which_may_have_gaps_and_pieces():
    ids = np.zeros((4, 5, 6), np.uint16)
    ids[3, 4, 5] = ids[0, 0, 0] = 300
    ids[1, 2, 3:5] = 7
    voxels = np.flatnonzero(ids)
    shapes = lesion_shapes(voxels, ids.ravel()[voxels], ids.shape, (10, 20, 30), np.diag([1.0, 2.0, 1.0, 1.0]), 2.0)
    assert list(shapes) == [7, 300]
    assert [(s.volume_vox, s.volume_mm3) for s in shapes.values()] == [(2, 4.0), (2, 4.0)]
    assert box_of(shapes[7]) == (11, 12, 22, 23, 33, 35)
    assert box_of(shapes[300]) == (10, 14, 20, 25, 30, 36)
    assert (shapes[300].centroid_i, shapes[300].centroid_j, shapes[300].centroid_k) == (11.5, 22, 32.5)
    assert (shapes[300].centroid_x_mm, shapes[300].centroid_y_mm, shapes[300].centroid_z_mm) == (11.5, 44, 32.5)


def test_no_voxels_have_no_shapes():
    none = np.zeros(0, np.intp)
    assert lesion_shapes(none, none, (2, 2, 2), (0, 0, 0), np.eye(4), 1.0) == {}
