"""Dilation in packed words against scipy's, voxel by voxel."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, generate_binary_structure

from goat_ray.metrics.dilation import dilate

NEIGHBOURS_18 = generate_binary_structure(3, 2)


def scipy_dilated(mask, iterations):
    # scipy takes 0 for "until nothing changes"
    return binary_dilation(mask, NEIGHBOURS_18, iterations) if iterations else mask


@pytest.mark.parametrize("iterations", [0, 1, 3, 5])
@pytest.mark.parametrize("last", [1, 2, 63, 64, 65, 127, 128, 130])
@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 1), (1, 7), (9, 6)])
def test_any_shape_grows_as_in_scipy(first, second, last, iterations):
    rng = np.random.default_rng(last)
    for density in (0.01, 0.1, 0.6):
        mask = rng.random((first, second, last)) < density
        before = mask.copy()
        grown = dilate(mask, iterations)
        assert grown.dtype == np.bool_
        np.testing.assert_array_equal(grown, scipy_dilated(mask, iterations))
        np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_voxel_grows_to_a_cube_with_its_corners_cut(n):
    mask = np.zeros((15, 15, 15), np.bool_)
    mask[7, 7, 7] = True
    away = np.abs(np.indices(mask.shape) - 7)
    np.testing.assert_array_equal(dilate(mask, n), (away.max(axis=0) <= n) & (away.sum(axis=0) <= 2 * n))


@pytest.mark.parametrize("corner", [(0, 0, 0), (4, 5, 69), (0, 5, 63), (4, 0, 64)])
def test_growth_stops_at_the_border_and_crosses_words(corner):
    mask = np.zeros((5, 6, 70), np.bool_)
    mask[corner] = True
    np.testing.assert_array_equal(dilate(mask, 3), scipy_dilated(mask, 3))


def test_a_full_mask_stays_full_and_an_empty_one_empty():
    assert dilate(np.ones((3, 4, 70), np.bool_), 2).all()
    assert not dilate(np.zeros((3, 4, 70), np.bool_), 2).any()
