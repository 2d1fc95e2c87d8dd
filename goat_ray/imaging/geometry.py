"""Where file order (x, y, z) and network order (z, y, x in LPS) meet, and where volumes are cropped."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import cc3d
import numpy as np
from nibabel.orientations import aff2axcodes, io_orientation
from numpy.typing import ArrayLike, NDArray

from goat_ray.errors import CaseError, Category
from goat_ray.imaging.nifti import Grid
from goat_ray.labels import Mask

AFFINE_TOLERANCE = 1e-3
"""How far two affines may differ, element by element, and still be one grid (mm)."""

_NETWORK_SIGNS = (1, -1, -1)
"""Direction of the network axes (z, y, x) along RAS: superior, posterior, left."""

Scalar = TypeVar("Scalar", bound=np.generic)


def check_same_grid(grids: Mapping[str, Grid]) -> None:
    """Require equal grids: shapes exactly, affines to `AFFINE_TOLERANCE`.

    Args:
        grids: grid of each image by the name messages use; the first is the one the others are held against.

    Raises:
        CaseError: `geometry_mismatch`.
    """
    (first, expected), *others = grids.items()
    for name, grid in others:
        difference = _difference(grid, expected)
        if difference:
            raise CaseError(
                Category.GEOMETRY_MISMATCH,
                f"{name} is not on {first}'s grid: {difference}.",
                "Co-register and resample all images of the case to one grid.",
            )


def _difference(grid: Grid, expected: Grid) -> str | None:
    def close(a: ArrayLike, b: ArrayLike) -> bool:
        return np.allclose(a, b, rtol=0, atol=AFFINE_TOLERANCE)

    if grid.shape != expected.shape:
        return f"shape {_times(grid.shape)} instead of {_times(expected.shape)}"
    if close(grid.affine, expected.affine):
        return None
    if not close(grid.spacing_mm, expected.spacing_mm):
        return f"spacing {_times(grid.spacing_mm)} mm instead of {_times(expected.spacing_mm)} mm"
    if not close(grid.affine[:3, :3], expected.affine[:3, :3]):
        found, wanted = _orientation(grid), _orientation(expected)
        return f"orientation {found} instead of {wanted}" if found != wanted else "its axes are rotated"
    shift = np.abs(grid.affine[:3, 3] - expected.affine[:3, 3]).max()
    return f"its origin is {shift:.3g} mm away"


def _orientation(grid: Grid) -> str:
    return "".join(aff2axcodes(grid.affine))  # type: ignore[no-untyped-call]  # nibabel leaves this untyped


def _times(values: Iterable[float]) -> str:
    return "×".join(f"{value:.6g}" for value in values)


def _network_axes(affine: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """For each network axis (z, y, x): the nearest file axis, and the slice that points it the right way."""
    orientation = io_orientation(affine)  # type: ignore[no-untyped-call]  # nibabel leaves this untyped
    order = [int(np.flatnonzero(orientation[:, 0] == world)[0]) for world in (2, 1, 0)]
    steps = (int(orientation[axis, 1]) * sign for axis, sign in zip(order, _NETWORK_SIGNS, strict=True))
    return tuple(order), tuple(slice(None, None, step) for step in steps)


def to_network_axes(data: NDArray[Scalar], affine: NDArray[np.float64]) -> NDArray[Scalar]:
    """View a volume (x, y, z) in the file's orientation as (z, y, x) in LPS: axes swapped and flipped only.

    Oblique images keep their voxels; each axis goes to the anatomical axis it is nearest to.
    """
    order, directions = _network_axes(affine)
    return data.transpose(order)[directions]


def from_network_axes(data: NDArray[Scalar], affine: NDArray[np.float64]) -> NDArray[Scalar]:
    """View a volume (z, y, x) in LPS as (x, y, z) in the file's orientation: undoes `to_network_axes`."""
    order, directions = _network_axes(affine)
    return data[directions].transpose(np.argsort(order))


def network_spacing_mm(grid: Grid) -> tuple[float, float, float]:
    """Voxel edge lengths along the network axes (z, y, x)."""
    order, _ = _network_axes(grid.affine)
    z, y, x = (grid.spacing_mm[axis] for axis in order)
    return z, y, x


def check_values(images: Mapping[str, NDArray[Any]]) -> None:
    """Require finite values in every image that could hold others.

    Raises:
        CaseError: `invalid_values`, with the image and the number of NaN and infinite voxels.
    """
    for name, data in images.items():
        if data.dtype.kind == "f" and (wrong := data.size - np.count_nonzero(np.isfinite(data))):
            raise CaseError(
                Category.INVALID_VALUES,
                f"{name} is not finite everywhere; NaN or infinite voxels: {wrong}.",
                "Replace them, with 0 outside the brain, before you run the case.",
            )


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box of voxels (z, y, x)."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in a volume (z, y, x)."""
        z, y, x = map(slice, self.start, self.stop)
        return z, y, x

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        z, y, x = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return z, y, x


def brain_mask_box(images: Iterable[NDArray[Any]]) -> tuple[Mask, Box]:
    """Where any image is not zero, holes filled, and the smallest box around it.

    Equal to nnU-Net's `crop_to_nonzero`, but only the box is filled: holes lie inside it, and background that
    reaches a face of the box is connected to the outside there.

    Args:
        images: volumes (z, y, x) of one shape, any number type; a (c, z, y, x) array serves as well.

    Returns:
        The mask cropped to the box, and the box.

    Raises:
        CaseError: `empty_image` when all images are zero everywhere.
    """
    first, *others = images
    support = first != 0
    for image in others:
        support |= image != 0
    if not support.any():
        raise CaseError(Category.EMPTY_IMAGE, "All images are zero everywhere.", "Check how the case was exported.")
    extents = [np.flatnonzero(support.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    z, y, x = ((int(extent[0]), int(extent[-1]) + 1) for extent in extents)
    box = Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))
    return _fill_holes(support[box.slices]), box


def _fill_holes(mask: Mask) -> Mask:
    # One layer of padding joins all background that reaches the border into the component of the corner.
    background = np.pad(~mask, 1, constant_values=True)
    components = cc3d.connected_components(background, connectivity=6, binary_image=True)
    filled: Mask = components[1:-1, 1:-1, 1:-1] != components[0, 0, 0]
    return filled


def uncrop(crop: NDArray[Scalar], box: Box, shape: tuple[int, int, int]) -> NDArray[Scalar]:
    """A volume (z, y, x) of `shape` that holds `crop` in `box` and zero elsewhere."""
    volume = np.zeros(shape, dtype=crop.dtype)
    volume[box.slices] = crop
    return volume
