"""Lesions of a label map: the 26-connected components of every region, with their size and place."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from goat_ray.imaging.components import foreground_box, label_components
from goat_ray.imaging.nifti import Grid
from goat_ray.labels import REGIONS, LabelMap, region_mask


@dataclass(frozen=True, slots=True)
class LesionShape:
    """One lesion of one region; the fields are columns of the `lesions` table.

    `centroid_i` to `centroid_k` are voxel indices along the file's axes (x, y, z), the centroids in mm are
    world coordinates (RAS), `bbox_i0` to `bbox_k1` is the half-open box of voxel indices, and
    `equiv_diameter_mm` is the diameter of the ball of this volume.
    """

    region: str
    lesion_id: int
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


@dataclass(frozen=True, slots=True)
class RegionVolume:
    """How much of a region there is, and in how many 26-connected lesions."""

    volume_vox: int
    volume_ml: float
    n_lesions: int


def describe_lesions(labels: LabelMap, grid: Grid) -> list[LesionShape]:
    """Every lesion of every region, in the order of `REGIONS`, then by id.

    Args:
        labels: uint8 (x, y, z), any memory order.
        grid: where its voxels lie.

    Returns:
        Lesions; ids count from 1 per region, in C raster order (x, y, z) of the first voxel.
    """
    box = foreground_box(labels)
    offset = np.array([side.start for side in box])
    return [lesion for region in REGIONS for lesion in _lesions_of(region, labels[box], offset, grid)]


def region_volumes(lesions: Sequence[LesionShape], grid: Grid) -> dict[str, RegionVolume]:
    """Volume and number of the `lesions` of one label map on `grid`, for every region, empty ones too."""
    sizes_vox = {name: [lesion.volume_vox for lesion in lesions if lesion.region == name] for name in REGIONS}
    return {
        region: RegionVolume(sum(sizes), sum(sizes) * grid.voxel_volume_mm3 / 1000, len(sizes))
        for region, sizes in sizes_vox.items()
    }


def _lesions_of(region: str, crop: LabelMap, offset: NDArray[np.int64], grid: Grid) -> Iterator[LesionShape]:
    ids = label_components(region_mask(crop, region), 26)
    if not ids.any():
        return
    found = cc3d.statistics(ids, no_slice_conversion=True)
    centroids = found["centroids"][1:] + offset
    centroids_mm = centroids @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    # cc3d's boxes are (start, last) pairs of each axis; starts stay, ends become half open.
    boxes = found["bounding_boxes"][1:].astype(np.int64) + np.repeat(offset, 2) + [0, 1, 0, 1, 0, 1]
    sizes_vox = found["voxel_counts"][1:].tolist()
    voxel_volume_mm3 = grid.voxel_volume_mm3
    rows = zip(sizes_vox, centroids.tolist(), centroids_mm.tolist(), boxes.tolist(), strict=True)
    for lesion_id, (volume_vox, (i, j, k), (x, y, z), bbox) in enumerate(rows, start=1):
        i0, i1, j0, j1, k0, k1 = bbox
        volume_mm3 = volume_vox * voxel_volume_mm3
        diameter_mm = math.cbrt(6 * volume_mm3 / math.pi)
        yield LesionShape(
            *(region, lesion_id, volume_vox, volume_mm3),
            *(i, j, k, x, y, z),
            *(i0, i1, j0, j1, k0, k1),
            diameter_mm,
        )
