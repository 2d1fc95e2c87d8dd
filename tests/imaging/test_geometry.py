import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel.orientations import apply_orientation, inv_ornt_aff

from goat_ray.errors import CaseError, Category
from goat_ray.imaging.geometry import (
    Box,
    brain_mask_box,
    check_same_grid,
    check_values,
    from_network_axes,
    network_spacing_mm,
    to_network_axes,
    uncrop,
)
from goat_ray.imaging.nifti import Grid

SHAPE = (4, 5, 6)
LPS = np.diag([-1.0, -1.2, 1.5, 1.0])
ORIENTATIONS = [
    np.column_stack([axes, signs])
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def tilted(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = LPS.copy()
    affine[:3, :3] = turn @ LPS[:3, :3]
    affine[:3, 3] = (80, -20.5, 7)
    return affine


def stored(data: np.ndarray, affine: np.ndarray, orientation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same anatomy with its axes stored in another order and direction."""
    return apply_orientation(data, orientation), affine @ inv_ornt_aff(orientation, data.shape)


def spans_a_volume(turn: np.ndarray) -> bool:
    return abs(np.dot(turn[0], np.cross(turn[1], turn[2]))) > 0.1


def test_all_48_orientations_are_tried():
    assert len(ORIENTATIONS) == 48


@pytest.mark.parametrize("degrees", [0, 12, -31])
def test_the_same_anatomy_gives_the_same_network_array_however_it_is_stored(degrees):
    anatomy, affine = np.arange(120).reshape(SHAPE), tilted(degrees)
    expected = anatomy.transpose(2, 1, 0)
    for orientation in ORIENTATIONS:
        data, its_affine = stored(anatomy, affine, orientation)
        np.testing.assert_array_equal(to_network_axes(data, its_affine), expected)
        assert network_spacing_mm(Grid(data.shape, its_affine)) == pytest.approx((1.5, 1.2, 1.0))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    turn=arrays(np.float64, (3, 3), elements=st.floats(-2, 2)).filter(spans_a_volume),
)
def test_leaving_the_network_axes_undoes_entering_them(shape, turn):
    affine = np.eye(4)
    affine[:3, :3] = turn
    data = np.arange(np.prod(shape)).reshape(shape)
    network = to_network_axes(data, affine)
    assert np.shares_memory(network, data)
    np.testing.assert_array_equal(from_network_axes(network, affine), data)
    np.testing.assert_array_equal(to_network_axes(from_network_axes(network, affine), affine), network)


def test_a_voxel_to_the_left_back_and_top_comes_last():
    data = np.zeros(SHAPE)
    data[0, 0, 5] = 1  # in RAS: leftmost, most posterior, topmost
    assert np.argwhere(to_network_axes(data, np.eye(4))).tolist() == [[5, 4, 3]]


# --- one grid for all images


def mismatch(**changed: Grid) -> str:
    with pytest.raises(CaseError) as caught:
        check_same_grid({"t1c": Grid(SHAPE, LPS), **changed})
    assert caught.value.category is Category.GEOMETRY_MISMATCH
    assert caught.value.hint
    return caught.value.message


def moved(**entries: float) -> np.ndarray:
    affine = LPS.copy()
    for name, value in entries.items():
        affine["xyz".index(name), 3] += value
    return affine


def test_equal_grids_pass_and_rounding_is_forgiven():
    check_same_grid({"t1c": Grid(SHAPE, LPS), "t1n": Grid(SHAPE, moved(x=9e-4)), "t2w": Grid(SHAPE, LPS + 1e-5)})


def test_a_mismatch_names_the_image_and_what_differs():
    assert mismatch(t2w=Grid((4, 5, 7), LPS)) == "t2w is not on t1c's grid: shape 4×5×7 instead of 4×5×6."
    assert "its origin is 0.5 mm away" in mismatch(t1n=Grid(SHAPE, moved(y=0.5)))
    assert "spacing 2×2.4×3 mm instead of 1×1.2×1.5 mm" in mismatch(t2f=Grid(SHAPE, np.diag([-2, -2.4, 3, 1])))
    assert "orientation RPS instead of LPS" in mismatch(t2f=Grid(SHAPE, LPS @ np.diag([-1, 1, 1, 1])))
    assert "its axes are rotated" in mismatch(t2f=Grid(SHAPE, tilted(3)))


def test_more_than_a_thousandth_of_a_millimetre_is_a_mismatch():
    assert "t1n" in mismatch(t1n=Grid(SHAPE, moved(z=0.002)))


# --- values


def test_values_that_are_not_finite_are_counted_and_named():
    bad = np.zeros(SHAPE, np.float32)
    bad[0, 0, :2] = np.nan
    bad[1, 1, 1] = -np.inf
    with pytest.raises(CaseError, match="t2f is not finite everywhere; NaN or infinite voxels: 3") as caught:
        check_values({"t1c": np.ones(SHAPE), "t2f": bad})
    assert caught.value.category is Category.INVALID_VALUES


def test_whole_numbers_and_negative_values_pass():
    check_values({"t1c": np.full(SHAPE, -5, np.int16), "t1n": np.full(SHAPE, -5.5)})


# --- the brain's box


def nnunet(images: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    cropping = pytest.importorskip("nnunetv2.preprocessing.cropping.cropping")
    _, outside, box = cropping.crop_to_nonzero(images)
    return outside[0] == 0, box


def assert_as_nnunet(images: np.ndarray) -> None:
    mask, box = brain_mask_box(images)
    expected_mask, expected_box = nnunet(images)
    assert [list(side) for side in zip(box.start, box.stop, strict=True)] == [list(map(int, s)) for s in expected_box]
    np.testing.assert_array_equal(mask, expected_mask)
    assert box.shape == mask.shape


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), density=st.floats(0.02, 0.9), margin=st.integers(0, 2))
def test_mask_and_box_are_nnunets_on_noise(seed, density, margin):
    # Dense noise is full of holes, some of which reach the box's faces, edges and corners.
    noise = np.random.default_rng(seed).random((2, 6, 7, 8)) < density
    noise[0, 3, 3, 3] = True
    assert_as_nnunet(np.pad(noise, ((0, 0), *[(margin, margin)] * 3)).astype(np.int16))


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("open_to", [None, 0, 1, 2])
def test_a_hole_is_filled_unless_it_opens_to_the_outside(margin, open_to):
    shell = np.ones((1, 7, 7, 7), np.int16)
    shell[0, 2:5, 2:5, 2:5] = 0
    if open_to is not None:
        shell[0].swapaxes(0, open_to)[:3, 3, 3] = 0
    images = np.pad(shell, ((0, 0), *[(margin, margin)] * 3))
    assert_as_nnunet(images)
    mask, _ = brain_mask_box(images)
    assert mask.all() == (open_to is None)


def test_a_hole_closed_only_by_a_corner_contact_is_filled_as_nnunet_does():
    shell = np.ones((1, 5, 5, 5), np.int16)
    shell[0, 2, 2, 2] = shell[0, 1, 1, 1] = shell[0, 0, 0, 0] = 0
    assert_as_nnunet(shell)


def test_negative_values_and_nan_belong_to_the_brain():
    images = np.zeros((2, *SHAPE), np.float32)
    images[0, 1, 2, 3], images[1, 2, 2, 3] = -1, np.nan
    mask, box = brain_mask_box(images)
    assert box == Box((1, 2, 3), (3, 3, 4))
    assert mask.all()


def test_images_of_different_number_types_need_not_be_stacked():
    a, b = np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.float64)
    a[0, 0, 0], b[3, 0, 0] = 1, 0.5
    assert brain_mask_box([a, b])[1] == Box((0, 0, 0), (4, 1, 1))


def test_zero_everywhere_is_an_empty_image():
    with pytest.raises(CaseError) as caught:
        brain_mask_box(np.zeros((4, *SHAPE)))
    assert caught.value.category is Category.EMPTY_IMAGE


def test_uncropping_puts_the_crop_where_it_came_from():
    volume = np.zeros(SHAPE, np.uint8)
    volume[1:3, 2:4, 3:5] = np.arange(8).reshape(2, 2, 2)
    box = Box((1, 2, 3), (3, 4, 5))
    whole = uncrop(volume[box.slices], box, SHAPE)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole, volume)
