"""Small pictures of a case: three planes through the tumour, labels over the image, in radiological convention.

Volumes are crops (z, y, x) in LPS, so the patient's right is on the left of axial and coronal planes.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from goat_ray.labels import LabelMap

Picture = NDArray[np.uint8]
"""Rows and columns of palette indices."""

_MOST_GREY_VOXELS = 1_200_000
_WINDOW_PERCENTILES = (1.0, 99.5)

_SIDE, _MARGIN, _STRIP = 200, 13, 18  # pixels: longest side of the brain, room for a letter, a line of text
_GREYS = 48
_FILL = 0.3
# Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart by their brightness too: 114, 157, 211 and 87 of 255.
_COLOURS = {1: (213, 94, 0), 2: (86, 180, 233), 3: (240, 228, 66), 4: (0, 114, 178)}
_NAMES = {1: "NETC", 2: "SNFH", 3: "ET", 4: "RC"}
_OUTLINE = _GREYS * (len(_COLOURS) + 1)
_WHITE = _OUTLINE + len(_COLOURS)


@dataclass(frozen=True, slots=True)
class _Plane:
    """A plane through a crop: the axis it is perpendicular to, and what lies at its four sides."""

    axis: int
    is_upside_down: bool
    top: str
    bottom: str
    left: str
    right: str


_PLANES = (
    _Plane(0, False, *"APRL"),
    _Plane(1, True, *"SIRL"),
    _Plane(2, True, *"SIAP"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What a picture shows.

    Attributes:
        grey: the image, from `grey_volume`.
        prediction: labels (z, y, x) of the crop.
        reference: labels of the crop, if there are any to compare with.
        spacing_mm: voxel edge lengths of the crop (z, y, x).
    """

    grey: NDArray[np.uint8]
    prediction: LabelMap
    reference: LabelMap | None
    spacing_mm: tuple[float, float, float]


def grey_volume(image: NDArray[np.float32], spacing_mm: tuple[float, float, float]) -> NDArray[np.uint8]:
    """A coarse grey image of a crop (z, y, x), about 1 MB at most; 0 outside the brain.

    Args:
        image: intensities, 0 outside the brain.
        spacing_mm: voxel edge lengths (z, y, x); the finest axes are thinned first.
    """
    coarse = image
    with np.errstate(over="ignore", invalid="ignore"):  # extreme intensities cost the picture, not the case
        for axis, step in enumerate(_steps(image.shape, spacing_mm)):
            coarse = _means(coarse, step, axis)
        inside = coarse != 0
        low, high = np.percentile(coarse[inside], _WINDOW_PERCENTILES) if inside.any() else (0.0, 1.0)
        scaled = np.nan_to_num((coarse - np.float32(low)) * np.float32(254 / max(high - low, 1e-12)))
        grey: NDArray[np.uint8] = (np.clip(scaled, 0, 254) + 1).astype(np.uint8)
    return grey * inside


def _means(volume: NDArray[np.float32], step: int, axis: int) -> NDArray[np.float32]:
    """Means of `step` neighbours along an axis, and of what is left at its end."""
    if step == 1:
        return volume
    starts = np.arange(0, volume.shape[axis], step)
    counts = np.diff(starts, append=volume.shape[axis]).astype(np.float32)
    sums: NDArray[np.float32] = np.add.reduceat(volume, starts, axis=axis)
    sums /= np.expand_dims(counts, tuple(other for other in range(volume.ndim) if other != axis))
    return sums


def _steps(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[int]:
    """Voxels of a crop that make one voxel of its grey volume, along each axis."""
    steps = [1] * len(shape)
    while math.prod(-(-size // step) for size, step in zip(shape, steps, strict=True)) > _MOST_GREY_VOXELS:
        finest = min(range(len(shape)), key=lambda axis: (steps[axis] * spacing_mm[axis], -shape[axis]))
        steps[finest] *= 2
    return steps


def draw(scene: Scene) -> bytes:
    """The PNG of a scene: equal scenes give equal bytes.

    The planes cut the predicted whole tumour where it is largest, or the reference's if nothing was predicted, or
    the middle. With a reference, both are side by side and a plane is a row; else the planes stand in one row.
    """
    maps = {"prediction": scene.prediction}
    if scene.reference is not None:
        maps["reference"] = scene.reference
    sizes = _sizes_px(scene)
    panels = [[_panel(scene, labels, plane, sizes) for labels in maps.values()] for plane in _indexed(scene)]
    if scene.reference is None:
        panels = [[panel for (panel,) in panels]]
    canvas = np.vstack([np.hstack(row) for row in panels])
    canvas = np.pad(canvas, ((_STRIP, _STRIP), (0, 0)))
    width = _SIDE + 2 * _MARGIN
    titles = [(column * width + _MARGIN, 3, _title(name, labels)) for column, (name, labels) in enumerate(maps.items())]
    _write(canvas, [*titles, *_letters(len(panels), len(panels[0]))])
    _draw_legend(canvas, with_cavity=scene.reference is not None and bool((scene.reference == 4).any()))
    return _png(canvas)
