"""Connected components of small boxes: where a label map is not empty, and which voxels hang together."""

from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

from goat_ray.labels import LabelMap, Mask

Connectivity = Literal[6, 26]
"""Neighbours of a voxel: 6 share a face; 26 share a face, an edge or a corner."""


def foreground_box(labels: LabelMap | Mask) -> tuple[slice, ...]:
    """Smallest box that holds every non-zero voxel (empty slices where there is none); any axis order."""
    box = [slice(None)] * labels.ndim
    # The axis that is farthest apart in memory is the cheapest to look along, and leaves less for the others.
    for axis in sorted(range(labels.ndim), key=lambda axis: -abs(labels.strides[axis])):
        box[axis] = _extent(labels[tuple(box)], axis)
    return tuple(box)


def label_components(mask: Mask, connectivity: Connectivity) -> NDArray[np.unsignedinteger[Any]]:
    """Component id of every voxel: 0 outside `mask`, else 1..n in C raster order of the first voxel.

    The numbering follows the array's axis order and not its memory order, so it is the same for every
    array that compares equal. A C-contiguous `mask` is read as it is, any other is copied.
    """
    # cc3d numbers in memory order; and as 0 and 1, because cc3d 4.1 raises on some thin boolean volumes.
    return cc3d.connected_components(np.ascontiguousarray(mask).view(np.uint8), connectivity=connectivity)


def _extent(labels: LabelMap | Mask, axis: int) -> slice:
    others = tuple(other for other in range(labels.ndim) if other != axis)
    occupied = np.flatnonzero(labels.max(axis=others, initial=0))
    return slice(int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else slice(0, 0)
