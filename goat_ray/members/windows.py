"""Where the sliding windows of a volume lie: nnU-Net's padding and its grid of overlapping patches."""

from itertools import product
from math import ceil

Shape = tuple[int, int, int]
Slices = tuple[slice, slice, slice]


def padded_grid(shape: Shape, patch: Shape) -> tuple[Shape, Slices]:
    """Shape with no axis shorter than the patch, and where the content lies in it.

    The content stays in the middle; an odd voxel of padding goes after it, as in nnU-Net.
    """
    z, y, x = (max(n, p) for n, p in zip(shape, patch, strict=True))
    before = ((z - shape[0]) // 2, (y - shape[1]) // 2, (x - shape[2]) // 2)
    return (z, y, x), window_slices(before, shape)


def window_starts(size: Shape, patch: Shape, step: float = 0.5) -> list[Shape]:
    """First voxel of every window that covers a volume, in nnU-Net's order (last axis fastest).

    Windows are spread evenly, at most `step` patches apart.

    Args:
        size: shape of the padded volume in voxels, no axis shorter than `patch`.
        patch: size of one window in voxels, axes as in `size`.
        step: largest distance between neighbours as a fraction of the patch.
    """
    z, y, x = (_axis_starts(n, p, step) for n, p in zip(size, patch, strict=True))
    return list(product(z, y, x))


def _axis_starts(size: int, patch: int, step: float) -> list[int]:
    last = size - patch
    gaps = ceil(last / (patch * step))
    # Division before multiplication as in nnU-Net: starts half-way between two voxels depend on it.
    return [round(last / gaps * i) for i in range(gaps + 1)] if gaps else [0]


def window_slices(start: Shape, patch: Shape) -> Slices:
    """The window of size `patch` that begins at `start`, as an index of the last three axes."""
    z, y, x = (slice(first, first + length) for first, length in zip(start, patch, strict=True))
    return z, y, x
