"""Shapes of lesions, on maps whose numbers can be worked out by hand."""

import math

import numpy as np
import pytest

from goat_ray.imaging.nifti import Grid
from goat_ray.labels import REGIONS, Label
from goat_ray.metrics.shapes import RegionVolume, describe_lesions, region_volumes

SHAPE = (12, 10, 8)
UNIT = Grid(SHAPE, np.eye(4))


def cube(labels, start, side, label):
    labels[tuple(slice(a, a + side) for a in start)] = label
    return labels


def of_region(lesions, region):
    return [lesion for lesion in lesions if lesion.region == region]


def test_a_cube_is_one_lesion_of_its_regions():
    labels = cube(np.zeros(SHAPE, np.uint8), (1, 2, 3), 3, Label.ET)
    lesions = describe_lesions(labels, UNIT)
    assert [lesion.region for lesion in lesions] == ["ET", "TC", "WT"]
    (et,) = of_region(lesions, "ET")
    assert (et.lesion_id, et.volume_vox, et.volume_mm3) == (1, 27, 27.0)
    assert (et.centroid_i, et.centroid_j, et.centroid_k) == (2, 3, 4)
    assert (et.bbox_i0, et.bbox_i1, et.bbox_j0, et.bbox_j1, et.bbox_k0, et.bbox_k1) == (1, 4, 2, 5, 3, 6)
    assert et.equiv_diameter_mm == pytest.approx((6 * 27 / math.pi) ** (1 / 3))


def test_cubes_that_touch_at_a_corner_are_one_lesion():
    labels = cube(np.zeros(SHAPE, np.uint8), (0, 0, 0), 2, Label.SNFH)
    cube(labels, (2, 2, 2), 2, Label.SNFH)
    (lesion,) = of_region(describe_lesions(labels, UNIT), "SNFH")
    assert lesion.volume_vox == 16
    assert (lesion.centroid_i, lesion.centroid_j, lesion.centroid_k) == (1.5, 1.5, 1.5)
    assert (lesion.bbox_i0, lesion.bbox_k1) == (0, 4)


def test_places_and_sizes_follow_an_oblong_rotated_grid():
    # First file axis runs posterior in steps of 2 mm, second left in 0.5, third superior in 3.
    affine = np.array([[0, -0.5, 0, 10], [-2, 0, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])
    grid = Grid(SHAPE, affine)
    labels = cube(np.zeros(SHAPE, np.uint8), (4, 2, 1), 2, Label.NETC)
    (lesion,) = of_region(describe_lesions(labels, grid), "NETC")
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
    lesions = of_region(describe_lesions(labels, UNIT), "ET")
    assert [lesion.lesion_id for lesion in lesions] == [1, 2, 3]
    assert [(e.bbox_i0, e.bbox_j0, e.bbox_k0) for e in lesions] == [(2, 1, 6), (2, 5, 1), (9, 0, 0)]


def test_regions_join_the_labels_they_are_made_of():
    labels = cube(np.zeros(SHAPE, np.uint8), (0, 0, 0), 4, Label.SNFH)
    cube(labels, (1, 1, 1), 2, Label.NETC)
    labels[1, 1, 1] = Label.ET
    cube(labels, (8, 5, 5), 1, Label.ET)
    grid = Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0]))
    volumes = region_volumes(describe_lesions(labels, grid), grid)
    assert {name: (found.volume_vox, found.n_lesions) for name, found in volumes.items()} == {
        "ET": (2, 2),
        "NETC": (7, 1),
        "SNFH": (56, 1),
        "TC": (9, 2),
        "WT": (65, 2),
    }
    assert volumes["WT"].volume_ml == pytest.approx(65 * 8 / 1000)


def test_an_empty_map_has_no_lesion_and_no_volume():
    lesions = describe_lesions(np.zeros(SHAPE, np.uint8), UNIT)
    assert lesions == []
    assert region_volumes(lesions, UNIT) == dict.fromkeys(REGIONS, RegionVolume(0, 0.0, 0))
