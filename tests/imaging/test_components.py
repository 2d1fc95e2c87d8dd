"""Boxes and connected components."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from goat_ray.imaging.components import foreground_box, label_components

STRUCTURES = {6: ndimage.generate_binary_structure(3, 1), 26: np.ones((3, 3, 3))}
MASKS = arrays(np.bool_, st.tuples(*[st.integers(1, 7)] * 3))


def renumbered(ids):
    """The same components, numbered by the C raster order of their first voxels."""
    names, first = np.unique(ids[ids > 0], return_index=True)
    order = np.zeros(ids.max() + 1, int)
    order[names[np.argsort(first)]] = np.arange(1, names.size + 1)
    return order[ids]


@given(MASKS, st.sampled_from([6, 26]))
def test_components_are_numbered_in_raster_order(mask, connectivity):
    expected, _ = ndimage.label(mask, STRUCTURES[connectivity])
    for same in (mask, np.asfortranarray(mask), np.ascontiguousarray(mask[:, ::-1])[:, ::-1]):
        np.testing.assert_array_equal(label_components(same, connectivity), renumbered(expected))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5, 7), (3, 3, 3), (9, 1, 1)])
def test_isolated_voxels_of_a_thin_volume_are_all_found(shape):
    mask = (np.indices(shape) % 2 == 0).all(axis=0)
    assert label_components(mask, 26).max() == np.count_nonzero(mask)


def test_the_box_holds_exactly_the_foreground():
    labels = np.zeros((9, 8, 7), np.uint8, order="F")
    labels[2, 7, 3] = 1
    labels[4, 5, 0] = 3
    assert foreground_box(labels) == (slice(2, 5), slice(5, 8), slice(0, 4))


@given(MASKS)
def test_the_box_does_not_depend_on_the_order_in_memory(mask):
    places = np.argwhere(mask)
    sides = zip(places.min(axis=0), places.max(axis=0) + 1, strict=True) if len(places) else [(0, 0)] * 3
    expected = tuple(slice(start, stop) for start, stop in sides)
    for same in (mask, np.asfortranarray(mask), np.ascontiguousarray(mask.transpose(1, 2, 0)).transpose(2, 0, 1)):
        assert foreground_box(same) == expected
    assert foreground_box(np.ascontiguousarray(mask[::-1])[::-1]) == expected


def test_the_box_of_an_empty_map_is_empty():
    assert foreground_box(np.zeros((3, 4, 5), np.uint8)) == (slice(0, 0),) * 3
    assert label_components(np.zeros((0, 0, 0), bool), 6).shape == (0, 0, 0)
