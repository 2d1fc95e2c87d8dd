"""Size and place of lesions, and the lesions of a label map that has no reference."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goat_ray.imaging.components import foreground_box, label_components
from goat_ray.imaging.nifti import Grid
from goat_ray.labels import REGIONS, LabelMap, region_mask


@dataclass(frozen=True, slots=True)
class LesionShape:
    """Size and place of one lesion; the fields are columns of the `lesions` table.

    `centroid_i` to `centroid_k` are voxel indices along the file's axes (x, y, z), the centroids in mm are
    world coordinates (RAS), `bbox_i0` to `bbox_k1` is the half-open box of voxel indices, and
    `equiv_diameter_mm` is the diameter of the ball of this volume.
    """

    volume_vox: int
    volume_mm3: float
    centroid_i: float
    centroid_j: float
    centroid_k: float
    centroid_x_mm: float
    centroid_y_mm: float
    centroid_z_mm: float
    bbox_i0: int
    bbox_i1: int
    bbox_j0: int
    bbox_j1: int
    bbox_k0: int
    bbox_k1: int
    equiv_diameter_mm: float


def lesion_shapes(
    voxels: NDArray[np.intp],
    owner: NDArray[Any],
    shape: tuple[int, ...],
    origin: tuple[int, ...],
    affine: NDArray[np.float64],
    voxel_volume_mm3: float,
) -> dict[int, LesionShape]:
    """Shape of each lesion, by id in ascending order.

    Args:
        voxels: flat indices (C order) of the lesions' voxels in a box.
        owner: lesion of each of them.
        shape: of the box (x, y, z).
        origin: voxel of the label map that the box starts at.
        affine: voxel indices of the label map to RAS mm.
        voxel_volume_mm3: volume of one voxel.
    """
    if not voxels.size:
        return {}
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    starts = np.flatnonzero(np.diff(owner, prepend=0))
    places = np.stack(np.unravel_index(voxels[order], shape)) + np.array(origin)[:, None]
    sizes = np.diff(starts, append=owner.size)
    centroids = (np.add.reduceat(places, starts, axis=1) / sizes).T
    centroids_mm = centroids @ affine[:3, :3].T + affine[:3, 3]
    lowest, highest = np.minimum.reduceat(places, starts, axis=1), np.maximum.reduceat(places, starts, axis=1)
    boxes = np.stack([lowest, highest + 1], axis=1).reshape(6, -1).T  # i0 i1 j0 j1 k0 k1
    rows = zip(sizes.tolist(), centroids.tolist(), centroids_mm.tolist(), boxes.tolist(), strict=True)
    shapes = (_shape(voxel_volume_mm3, *row) for row in rows)
    return dict(zip(owner[starts].tolist(), shapes, strict=True))


def predicted_shapes(labels: LabelMap, grid: Grid) -> dict[str, dict[int, LesionShape]]:
    """The 26-connected lesions of every region of `REGIONS`, by id.

    Args:
        labels: uint8 (x, y, z), any memory order.
        grid: where its voxels lie.

    Returns:
        Shapes; ids count from 1 per region, in C raster order (x, y, z) of the first voxel.
    """
    box = foreground_box(labels)
    crop, origin = np.ascontiguousarray(labels[box]), tuple(side.start for side in box)
    found = {}
    for region in REGIONS:
        mask = region_mask(crop, region)
        voxels = np.flatnonzero(mask)
        owner = label_components(mask, 26).reshape(-1)[voxels]
        found[region] = lesion_shapes(voxels, owner, mask.shape, origin, grid.affine, grid.voxel_volume_mm3)
    return found


def total_volume_vox(shapes: Mapping[int, LesionShape]) -> int:
    """Voxels of all lesions together."""
    return sum(shape.volume_vox for shape in shapes.values())


def _shape(
    voxel_volume_mm3: float, volume_vox: int, centroid: list[float], centroid_mm: list[float], box: list[int]
) -> LesionShape:
    (i, j, k), (x, y, z), (i0, i1, j0, j1, k0, k1) = centroid, centroid_mm, box
    volume_mm3 = volume_vox * voxel_volume_mm3
    diameter_mm = math.cbrt(6 * volume_mm3 / math.pi)
    return LesionShape(volume_vox, volume_mm3, i, j, k, x, y, z, i0, i1, j0, j1, k0, k1, diameter_mm)
