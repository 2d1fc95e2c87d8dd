"""What counts as one lesion: components merged by dilation, small ones dropped, tissues joined, and who meets whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goat_ray.imaging.components import foreground_box, label_components
from goat_ray.labels import LabelMap, Mask
from goat_ray.metrics.dilation import dilate
from goat_ray.metrics.specs import RegionPolicy

MARGIN_VOX = 4
"""Empty voxels around everything in a `Frame`, so that neighbours can be looked up without bounds."""

_DENSE_PAIRS = 2**20

Ids = NDArray[np.unsignedinteger[Any]]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Frame:
    """A padded box around a region: arrays of `shape`, C order, whose voxel 0 is voxel `origin` of the label maps.

    `inside` is the part of the arrays that lies in the maps. `filled` is the part without the padding, `tight` its
    place in the crops that the frame was made for.
    """

    origin: tuple[int, ...]
    shape: tuple[int, ...]
    inside: tuple[slice, ...]
    filled: tuple[slice, ...]
    tight: tuple[slice, ...]

    @property
    def strides(self) -> tuple[int, int, int]:
        """Steps in the flattened array from a voxel to its next along (x, y, z)."""
        return self.shape[1] * self.shape[2], self.shape[2], 1


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """The lesions of one region in one label map.

    Attributes:
        ids: lesion of each voxel of the frame, 0 is none, else 1..n.
        zones: the same for the lesions grown by the policy's dilation, where there is one; else the ids again.
        voxels: flat indices of the voxels with a lesion, in order.
        owner: the lesion of each of them.
        sizes_vox: voxels of lesion 0 (always 0) to n; numbers that do not occur have none.
        n_components: 26-connected pieces of lesion 0 (always 0) to n.
    """

    ids: Ids
    zones: Ids
    voxels: Indices
    owner: Ids
    sizes_vox: Indices
    n_components: Indices

    @property
    def highest(self) -> int:
        """The largest lesion number that may occur."""
        return len(self.sizes_vox) - 1

    @property
    def count(self) -> int:
        """Number of lesions."""
        return int(np.count_nonzero(self.sizes_vox))


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Distinct pairs of ids, sorted, and how many voxels each pair shares."""

    first: Indices
    second: Indices
    counts: Indices


def frame_of(
    reference: LabelMap, prediction: LabelMap, policy: RegionPolicy, origin: tuple[int, ...], shape: tuple[int, ...]
) -> Frame:
    """The box that a region needs in two crops (x, y, z) of label maps of `shape`; the crops start at `origin`."""
    present = _mask_of(reference, policy.labels) | _mask_of(prediction, policy.labels)
    tight = foreground_box(present.view(np.uint8))
    # Lesions are numbered as in the whole map: in the raster order of their grown shapes.
    pad = policy.dilation_vox + MARGIN_VOX
    size = tuple(side.stop - side.start + 2 * pad for side in tight)
    start = tuple(side.start + o - pad for side, o in zip(tight, origin, strict=True))
    in_map = tuple(slice(max(0, -s), min(n - s, e)) for s, e, n in zip(start, size, shape, strict=True))
    filled = tuple(slice(pad, e - pad) for e in size)
    return Frame(start, size, in_map, filled, tight)


def region_in(frame: Frame, labels: LabelMap, policy: RegionPolicy) -> Mask:
    """The region's mask in `frame`; `labels` is one of the crops that the frame was made for."""
    mask = np.zeros(frame.shape, np.bool_)
    mask[frame.filled] = _mask_of(labels[frame.tight], policy.labels)
    return mask


def reference_lesions(mask: Mask, frame: Frame, policy: RegionPolicy) -> Lesions:
    """Reference lesions: all voxels in one component of the grown mask are one lesion, whatever its size.

    They are numbered in C raster order (x, y, z) of the grown components.
    """
    components = label_components(mask, 26)
    if not policy.dilation_vox:
        return _as_they_are(mask, components)
    grown = np.zeros_like(mask)
    grown[frame.inside] = dilate(mask, policy.dilation_vox)[frame.inside]
    zones = label_components(grown, 26)
    voxels = np.flatnonzero(mask)
    owner = zones.reshape(-1)[voxels]
    sizes_vox = np.bincount(owner, minlength=1)
    pieces = count_pairs(owner, components.reshape(-1)[voxels]).first
    return Lesions(zones * mask, zones, voxels, owner, sizes_vox, np.bincount(pieces, minlength=sizes_vox.size))


def predicted_lesions(mask: Mask, frame: Frame, policy: RegionPolicy) -> Lesions:
    """Predicted lesions: components as they are, or merged like the reference's and the small ones dropped.

    Dropped lesions leave gaps in the numbering, as in the organisers' program.
    """
    if policy.min_pred_vox is None:
        return _as_they_are(mask, label_components(mask, 26))
    merged = reference_lesions(mask, frame, policy)
    return _relabelled(merged, np.where(merged.sizes_vox > policy.min_pred_vox, np.arange(merged.highest + 1), 0))


def joined(lesions: Lesions, frame: Frame, partners: Sequence[tuple[Lesions, Frame]]) -> Lesions:
    """Lesions that touch one and the same lesion of a partner tissue become one.

    The organisers' rule, quirks included: a lesion follows only the first partner lesion it touches, nothing
    happens for a single contact, partners come one after the other, and the result is numbered 1..n.
    """
    lookup = np.arange(lesions.highest + 1)
    voxels, owner = surface_voxels(lesions, frame)
    for partner, its_frame in partners:
        pairs = _contacts(voxels, lookup[owner], frame, partner, its_frame)
        if len(pairs.first) > 1:
            fresh: dict[int, int] = {}
            follows: dict[int, int] = {}
            for mine, other in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
                fresh.setdefault(other, int(lookup.max()) + 1 + len(fresh))
                follows.setdefault(mine, fresh[other])
            lookup = np.array([follows.get(i, i) for i in lookup.tolist()])
    present = lesions.sizes_vox > 0
    present[0] = True
    compact = np.zeros_like(lookup)
    compact[present] = np.unique(lookup[present], return_inverse=True)[1]
    return _relabelled(lesions, compact)


def count_pairs(first: NDArray[Any], second: NDArray[Any]) -> Pairs:
    """How often each pair of non-zero ids stands at one place in two equally long lists of ids."""
    both = np.flatnonzero((first != 0) & (second != 0))
    a, b = first[both].astype(np.intp), second[both].astype(np.intp)
    width = int(b.max(initial=0)) + 1
    keys = a * width + b
    if (int(a.max(initial=0)) + 1) * width <= _DENSE_PAIRS:
        counts = np.bincount(keys)
        found = np.flatnonzero(counts)
        counts = counts[found]
    else:
        found, counts = np.unique(keys, return_counts=True)
    return Pairs(found // width, found % width, counts)


def surface_voxels(lesions: Lesions, frame: Frame) -> tuple[Indices, Ids]:
    """Flat indices of the voxels with a face neighbour outside their region, and the lesion of each."""
    mask = lesions.ids.reshape(-1) != 0
    is_surface = np.zeros(lesions.voxels.size, np.bool_)
    for step in frame.strides:
        is_surface |= ~mask[lesions.voxels - step]
        is_surface |= ~mask[lesions.voxels + step]
    return lesions.voxels[is_surface], lesions.owner[is_surface]


def _mask_of(labels: LabelMap, values: tuple[int, ...]) -> Mask:
    first, *others = values
    mask: Mask = labels == first
    for value in others:
        mask |= labels == value
    return mask


def _contacts(voxels: Indices, owner: Indices, frame: Frame, partner: Lesions, its_frame: Frame) -> Pairs:
    """Pairs (lesion, partner lesion) that are 18-adjacent, in order."""
    theirs = np.zeros(frame.shape, partner.ids.dtype)
    mine, its = _common(frame, its_frame)
    theirs[mine] = partner.ids[its]
    flat = theirs.reshape(-1)
    steps = [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if 0 < abs(i) + abs(j) + abs(k) < 3]
    neighbours = [flat[voxels + int(np.dot(step, frame.strides))] for step in steps]
    return count_pairs(np.tile(owner, len(steps)), np.concatenate(neighbours))


def _common(a: Frame, b: Frame) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where two frames overlap, as slices of each."""
    starts = np.maximum(a.origin, b.origin)
    stops = np.minimum(np.add(a.origin, a.shape), np.add(b.origin, b.shape)).clip(starts)
    in_a, in_b = (
        tuple(slice(int(s - o), int(e - o)) for s, e, o in zip(starts, stops, f.origin, strict=True)) for f in (a, b)
    )
    return in_a, in_b


def _as_they_are(mask: Mask, components: Ids) -> Lesions:
    voxels = np.flatnonzero(mask)
    owner = components.reshape(-1)[voxels]
    sizes_vox = np.bincount(owner, minlength=1)
    return Lesions(components, components, voxels, owner, sizes_vox, (sizes_vox > 0).astype(np.intp))


def _relabelled(lesions: Lesions, lookup: Indices) -> Lesions:
    """The lesions by other numbers; several may become one, and those that become 0 are dropped."""
    narrow = lookup.astype(lesions.ids.dtype)
    owner = narrow[lesions.owner]
    kept = owner != 0
    sizes_vox, n_components = (
        np.bincount(lookup, counts).astype(np.intp) for counts in (lesions.sizes_vox, lesions.n_components)
    )
    sizes_vox[0] = n_components[0] = 0
    return Lesions(
        ids=narrow[lesions.ids],
        zones=narrow[lesions.zones],
        voxels=lesions.voxels[kept],
        owner=owner[kept],
        sizes_vox=sizes_vox,
        n_components=n_components,
    )
