"""Pictures of cases, looked at pixel by pixel."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from goat_ray.imaging import thumbnails
from goat_ray.imaging.thumbnails import Scene, draw, grey_volume

ONE_MM = (1.0, 1.0, 1.0)
SHAPE = (30, 40, 34)
CELL = 228
VERMILLION, SKY_BLUE, YELLOW = (213, 94, 0), (86, 180, 233), (240, 228, 66)


def brain() -> np.ndarray:
    z, y, x = np.ogrid[-1:1:30j, -1:1:40j, -1:1:34j]
    noise = np.random.default_rng(1).normal(100, 5, SHAPE)
    return np.where(z**2 + y**2 + x**2 < 1, noise, 0).astype(np.float32)


def block(label: int, *box: slice) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[box] = label
    return labels


def pixels(
    prediction: np.ndarray,
    reference: np.ndarray | None = None,
    grey: np.ndarray | None = None,
    spacing_mm: tuple[float, float, float] = ONE_MM,
) -> np.ndarray:
    grey = grey_volume(brain(), ONE_MM) if grey is None else grey
    return np.asarray(Image.open(io.BytesIO(draw(Scene(grey, prediction, reference, spacing_mm)))).convert("RGB"))


def cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    return picture[18:-18][row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean row and column of a colour, from -1 to 1."""
    found = np.argwhere((picture == colour).all(axis=-1))
    row, column = found.mean(axis=0) / (CELL / 2) - 1
    return row, column


# A tumour that is right, anterior and superior of the middle.
CORNER = (slice(20, 26), slice(8, 14), slice(6, 12))


def test_right_is_left_and_anterior_and_superior_are_where_radiologists_have_them() -> None:
    """Axial: anterior up, right on the left. Coronal: superior up, right on the left. Sagittal: anterior left."""
    picture = pixels(block(3, *CORNER))
    assert all(max(where(cell(picture, 0, column), YELLOW)) < -0.1 for column in range(3))


def test_labels_lie_on_the_voxels_they_belong_to_in_every_plane() -> None:
    """The same block once in the image and once in the labels."""
    picture = pixels(np.zeros(SHAPE, np.uint8), block(2, *CORNER), block(200, *CORNER))
    for plane in range(3):
        seen, labelled = where(cell(picture, plane, 0), (206,) * 3), where(cell(picture, plane, 1), SKY_BLUE)
        np.testing.assert_allclose(seen, labelled, atol=0.01)


def test_with_a_reference_both_stand_side_by_side_and_planes_are_rows() -> None:
    picture = pixels(block(3, *CORNER), block(1, *CORNER))
    assert picture.shape == (3 * CELL + 36, 2 * CELL, 3)
    for row in range(3):
        assert (cell(picture, row, 0) == YELLOW).all(-1).any()
        assert not (cell(picture, row, 0) == VERMILLION).all(-1).any()
        assert (cell(picture, row, 1) == VERMILLION).all(-1).any()
    assert pixels(block(3, *CORNER)).shape == (CELL + 36, 3 * CELL, 3)


def test_planes_cut_the_predicted_tumour_where_it_is_largest() -> None:
    labels = block(2, slice(5, 25), slice(20, 22), slice(10, 12))
    labels[9, 10:30, 10:30] = 3  # only here, so that another plane has none of this colour
    assert (cell(pixels(labels), 0, 0) == YELLOW).all(-1).sum() > 200


def test_planes_cut_the_reference_where_nothing_was_predicted() -> None:
    picture = pixels(np.zeros(SHAPE, np.uint8), block(3, *CORNER))
    assert all((cell(picture, row, 1) == YELLOW).all(-1).any() for row in range(3))
    assert not (cell(picture, 0, 0) == YELLOW).all(-1).any()


def test_a_case_without_any_tumour_shows_the_middle_and_says_so() -> None:
    grey = np.zeros(SHAPE, np.uint8)
    grey[15], grey[:, 20], grey[:, :, 17] = 255, 255, 255
    picture = pixels(np.zeros(SHAPE, np.uint8), None, grey)
    assert all((cell(picture, 0, column)[60:-60, 60:-60] > 200).mean() > 0.9 for column in range(3))
    assert (picture[:18] > 0).sum() > 1.5 * (pixels(block(3, *CORNER))[:18] > 0).sum()


def test_a_voxel_is_as_tall_and_wide_as_it_is_in_the_patient() -> None:
    shape = (10, 40, 40)
    picture = pixels(np.zeros(shape, np.uint8), None, np.full(shape, 255, np.uint8), (4.0, 1.0, 1.0))
    assert all((cell(picture, 0, column)[14:-14, 14:-14] > 0).all() for column in range(3))


def test_colours_are_told_apart_without_colour() -> None:
    brightness = sorted(int(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in thumbnails._COLOURS.values())
    assert min(np.diff(brightness)) > 25


def test_equal_scenes_give_equal_bytes_and_small_files() -> None:
    grey, labels = grey_volume(brain(), ONE_MM), block(3, *CORNER)
    first, second = (draw(Scene(grey.copy(), labels.copy(), labels, ONE_MM)) for _ in range(2))
    assert first == second
    assert len(first) < 60_000


def test_labels_beyond_the_known_ones_are_drawn_like_a_resection_cavity() -> None:
    picture = pixels(block(4, *CORNER), block(200, *CORNER))
    assert all((cell(picture, 0, column) == (0, 114, 178)).all(-1).any() for column in range(2))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 50, 3), (2, 1, 90)])
def test_the_thinnest_crops_are_drawn(shape: tuple[int, int, int]) -> None:
    grey = grey_volume(np.ones(shape, np.float32), ONE_MM)
    png = draw(Scene(grey, np.ones(shape, np.uint8), None, ONE_MM))
    Image.open(io.BytesIO(png)).load()


def test_a_large_crop_is_thinned_along_its_finest_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "_MOST_GREY_VOXELS", 300)
    image = np.random.default_rng(1).uniform(1, 100, (5, 16, 15)).astype(np.float32)
    grey = grey_volume(image, (5.0, 0.5, 0.5))
    assert grey.shape == (5, 4, 8)


def test_thinned_voxels_are_means_also_at_an_odd_end() -> None:
    volume = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    means = thumbnails._means(volume, 2, 2)
    np.testing.assert_allclose(means[0, 0], [0.5, 2.5, 4.0])
    np.testing.assert_allclose(thumbnails._means(volume, 2, 1)[1, :, 0], [(15 + 20) / 2, 25])


def test_grey_is_0_outside_the_brain_only_and_spans_the_intensities_inside() -> None:
    image = brain()
    grey = grey_volume(image - 300 * (image > 0), ONE_MM)
    np.testing.assert_array_equal(grey > 0, image > 0)
    assert (grey[image > 0].min(), grey.max()) == (1, 255)


@pytest.mark.parametrize("value", [0.0, 7.0, 3e38, -3e38, 1e-45])
def test_extreme_images_give_a_grey_volume_without_a_warning(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "_MOST_GREY_VOXELS", 2000)
    image = np.full(SHAPE, value, np.float32)
    image[:3] = -image[:3]
    assert grey_volume(image, ONE_MM).dtype == np.uint8


def test_workers_start_without_the_libraries_that_draw() -> None:
    blocked = "import sys; sys.modules['PIL'] = sys.modules['matplotlib'] = None; "
    command = [sys.executable, "-c", f"{blocked}import goat_ray.pipeline.stages"]
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [2, 4, 7, 29, 64])
def test_a_coarse_voxel_is_the_mean_of_its_voxels_and_the_last_of_those_that_are_left(axis: int, step: int) -> None:
    image = brain()
    starts = range(0, image.shape[axis], step)
    expected = [np.take(image, range(s, min(s + step, image.shape[axis])), axis).mean(axis) for s in starts]
    np.testing.assert_allclose(thumbnails._means(image, step, axis), np.stack(expected, axis), rtol=1e-5)
