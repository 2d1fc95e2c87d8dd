"""Surfaces of many lesions at once, and how far they are from the surfaces they are compared with.

Two kinds of surface are in use. HD95 takes surface elements at the corners of voxels with the areas that marching cubes
gives them (Nikolov et al., arXiv:1809.04430); NSD takes the voxels that lose a face neighbour, unweighted (MedPy).
Both are points of a `Frame`'s flattened array. Which points may be near which is a matter of lesions: every point
belongs to a group, and a group accepts the targets of some owners only.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from goat_ray.labels import Mask
from goat_ray.metrics.lesions import MARGIN_VOX, Frame, Ids, Indices, Lesions

Spacing = tuple[float, float, float]
Floats = NDArray[np.float64]

_REACH_VOX = MARGIN_VOX - 1  # how far offsets are looked up before a search tree takes over
_GUARD = 1e-9  # sums of up to 10^7 areas are certain to this, relative

# Marching-cubes triangles of each 2×2×2 neighbourhood, as in DeepMind's surface-distance (Apache-2.0,
# `_NEIGHBOUR_CODE_TO_NORMALS`): every letter is a triangle, coded by the size of its normal's components in eighths.
# Codes 128 to 255 are the same neighbourhoods inside out and mirror the first half.
_NORMALS = {
    "a": (1, 1, 1),
    "b": (2, 2, 2),
    "c": (3, 3, 3),
    "u": (0, 2, 2),
    "v": (2, 0, 2),
    "w": (2, 2, 0),
    "x": (4, 0, 0),
    "y": (0, 4, 0),
    "z": (0, 0, 4),
}
_TRIANGLES = (
    "- a a ww a vv aa xba a aa vv xba ww xba xba xx a uu aa yba aa zba aaa abba aa uua vva acuv aww cuaw xaba xab "
    "a aa uu yab aa avv uua cuav aa aaa zba bbaa aww xbaa ucaw xba ww yba yab yy wwa cvaw ayba yba aww ybaa cwav yba "
    "wwww wwa aww ww a aa aa aww uu zba uua cuaw aa aaa avv xbaa yba bbaa vcua xba vv zba avv vcwa zba zz aabz abz "
    "vva zbaa vvvv avv vcwa zba avv vv aa aaa auu yaba uua zbaa uuuu uua aaa aaaa zbaa aaa ybaa aaa uua aa xba baba "
    "cuav yba cwua abz auu uu xbaa aaa vva aa wwa aa aa a"
)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points of a frame: flat indices, the lesion each belongs to, and its area where that counts."""

    index: Indices
    owner: Ids
    area: Floats


@lru_cache(maxsize=64)
def surfel_areas(spacing_mm: Spacing) -> Floats:
    """Area in mm² of the surface element of each of the 256 neighbourhood codes."""
    x, y, z = spacing_mm
    scale = np.array([y * z, x * z, x * y])
    area_of = {name: float(np.linalg.norm(np.array(normal) / 8 * scale)) for name, normal in _NORMALS.items()}
    half = [sum(area_of[name] for name in triangles if name != "-") for triangles in _TRIANGLES.split()]
    return np.array([*half, *half[::-1]], dtype=np.float64)


def neighbourhood_codes(flat: NDArray[np.uint8], strides: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Code of the 2×2×2 cell that starts at each voxel of a flattened array: first voxel bit 7, last voxel bit 0.

    Values other than 0 and 1 are added up modulo 256, bit by bit.
    """
    along_x, along_y, _ = strides
    lines = (flat[:-1] << np.uint8(1)) + flat[1:]
    squares = (lines[:-along_y] << np.uint8(2)) + lines[along_y:]
    codes: NDArray[np.uint8] = (squares[:-along_x] << np.uint8(4)) + squares[along_x:]
    return codes


def surfels(lesions: Lesions, frame: Frame, spacing_mm: Spacing) -> Points:
    """Surface elements of every lesion.

    Cells of different lesions never overlap (26-connectivity), so a lesion's are those of the whole region that
    touch it.
    """
    flat = lesions.ids.reshape(-1)
    codes = neighbourhood_codes((flat != 0).view(np.uint8), frame.strides)
    index = np.flatnonzero(codes - np.uint8(1) < 254)  # neither 0 nor 255
    codes = codes[index]
    return Points(index, flat[index + _first_voxel(frame.strides)[codes]], surfel_areas(spacing_mm)[codes])


@lru_cache(maxsize=8)
def _first_voxel(strides: tuple[int, int, int]) -> Indices:
    """For each code, the step from its cell's start to a voxel of the cell that is set."""
    along_x, along_y, along_z = strides
    corners = [i * along_x + j * along_y + k * along_z for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    return np.array([0, *(corners[8 - code.bit_length()] for code in range(1, 256))])


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What distances are measured to: the points of one label map, as a volume of owners and as a list."""

    volume: NDArray[Any]
    points: Points
    frame: Frame
    spacing_mm: Spacing

    @classmethod
    def of(cls, points: Points, frame: Frame, spacing_mm: Spacing) -> "Targets":
        """Targets at `points`."""
        volume = np.zeros(int(np.prod(frame.shape)), points.owner.dtype)
        volume[points.index] = points.owner
        return cls(volume, points, frame, spacing_mm)


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Points by group, and which owners' targets each group accepts.

    A point of several groups is listed for each of them: `point` is its number, the same in all. `accepts[group,
    owner]` is False for owner 0.
    """

    index: Indices
    point: Indices
    group: Indices
    area: Floats
    accepts: Mask


def nearest_mm(groups: Groups, targets: Targets, limit_mm: float = np.inf) -> Floats:
    """Distance of each point to the nearest target that its group accepts; infinite beyond `limit_mm`."""
    found = _Search(groups, targets)
    found.look_around(limit_mm)
    if limit_mm > found.reach_mm:
        found.ask_tree(np.flatnonzero(found.pending))
    return np.where(found.distance_mm <= limit_mm, found.distance_mm, np.inf)


def percentile_95_mm(groups: Groups, targets: Targets) -> Floats:
    """For each group the area-weighted 95 % point of its points' distances, infinite for a group without points.

    Equal to the bit to sorting all distances with their areas and searching the cumulative sum for 0.95: distances
    beyond the 95 % point are left out only where no rounding of the sum could reach them.
    """
    found = _Search(groups, targets)
    found.look_around(np.inf, enough=0.95 + _GUARD)
    n = len(groups.accepts)
    order = np.argsort(groups.group, kind="stable")
    ends = np.searchsorted(groups.group[order], np.arange(n + 1))
    result = np.full(n, np.inf)
    for group in range(n):
        members = order[ends[group] : ends[group + 1]]
        if members.size:
            result[group] = _percentile(found, members)
    return result


def _percentile(found: "_Search", members: Indices) -> float:
    value = _settled(found.shell[members], found.groups.area[members], found.lengths_mm)
    if value is not None:
        return value
    found.ask_tree(members[found.pending[members]])
    return weighted_percentile_95(found.distance_mm[members], found.groups.area[members])


def weighted_percentile_95(distances_mm: Floats, areas: Floats) -> float:
    """The distance at which 95 % of the area is reached, summed in order of distance, then area."""
    order = np.lexsort((areas, distances_mm))
    areas = areas[order]
    place = int(np.searchsorted(np.cumsum(areas) / np.sum(areas), 0.95))
    return float(distances_mm[order[min(place, len(order) - 1)]])


def _settled(shell: Indices, area: Floats, lengths_mm: Floats) -> float | None:
    """The 95 % point when the points found near by decide it, whatever the order of summation."""
    weights = np.bincount(shell, area, minlength=len(lengths_mm) + 1)
    share = np.cumsum(weights[:-1]) / weights.sum()
    place = int(np.searchsorted(share, 0.95))
    if place == len(share) or np.abs(share - 0.95).min() < _GUARD:
        return None
    return float(lengths_mm[place])


class _Search:
    """The state of a nearest-target search: near offsets are looked up for all points at once, the rest asks a tree."""

    def __init__(self, groups: Groups, targets: Targets) -> None:
        self.groups, self.targets = groups, targets
        self.lengths_mm, self._shells = _offsets(targets.spacing_mm, targets.frame.strides)
        self.reach_mm = float(self.lengths_mm[-1])
        self.distance_mm = np.full(groups.index.size, np.inf)
        self.shell = np.full(groups.index.size, len(self.lengths_mm))
        self.pending = np.ones(groups.index.size, np.bool_)
        self._nearest_of_all = np.full(int(groups.point.max(initial=-1)) + 1, -1)

    def look_around(self, limit_mm: float, enough: float = 1.0) -> None:
        """Settle what lies within reach, in order of distance, until `enough` of every group's area is settled."""
        groups = self.groups
        total = np.bincount(groups.group, groups.area)
        done = np.zeros_like(total)
        left = np.arange(groups.index.size)
        for shell, (length_mm, steps) in enumerate(zip(self.lengths_mm.tolist(), self._shells, strict=True)):
            if not left.size or length_mm > limit_mm:
                break
            hit = self._hits(left, steps)
            now = left[hit]
            self.distance_mm[now], self.shell[now], self.pending[now] = length_mm, shell, False
            done += np.bincount(groups.group[now], groups.area[now], minlength=len(total))
            left = left[~hit]
            left = left[(done <= enough * total)[groups.group[left]]]

    def ask_tree(self, members: Indices) -> None:
        """Settle these points, all of them still pending, as far as their groups accept any target.

        A point's nearest target of all is also its nearest in every group that accepts it.
        """
        groups, owner = self.groups, self.targets.points.owner
        for group in np.unique(groups.group[members]).tolist() if owner.size else ():
            mine, accepts = members[groups.group[members] == group], groups.accepts[group]
            known = self._nearest_of_all[groups.point[mine]]
            usable = (known >= 0) & accepts[owner[known]]
            self._settle(mine[usable], known[usable])
            rest, accepted = mine[~usable], np.flatnonzero(accepts[owner])
            if rest.size and accepted.size:
                nearest = accepted[_nearest(groups.index[rest], accepted, self.targets)]
                self._settle(rest, nearest)
                if accepted.size == owner.size:
                    self._nearest_of_all[groups.point[rest]] = nearest

    def _settle(self, members: Indices, nearest: Indices) -> None:
        shape = self.targets.frame.shape
        ends = (self.groups.index[members], self.targets.points.index[nearest])
        here, there = (np.stack(np.unravel_index(end, shape), axis=1) for end in ends)
        # From whole numbers of voxels, so that equal distances are equal to the bit.
        self.distance_mm[members] = lengths_mm(here - there, np.array(self.targets.spacing_mm))
        self.pending[members] = False

    def _hits(self, left: Indices, steps: Indices) -> Mask:
        groups, volume = self.groups, self.targets.volume
        width = groups.accepts.shape[1]
        accepts = groups.accepts.reshape(-1)
        places, rows = groups.index[left], groups.group[left] * width
        hit = np.zeros(left.size, np.bool_)
        for step in steps.tolist():
            hit |= accepts[rows + volume[places + step]]
        return hit


def _nearest(index: Indices, accepted: Indices, targets: Targets) -> Indices:
    """For each flat index, which of the `accepted` targets is nearest, as a place in that list."""
    ends = (index, targets.points.index[accepted])
    here, there = (np.stack(np.unravel_index(end, targets.frame.shape), axis=1) * targets.spacing_mm for end in ends)
    nearest: Indices = cKDTree(there, balanced_tree=False, compact_nodes=False).query(here)[1]
    return nearest


def lengths_mm(offsets: Indices, spacing_mm: Floats) -> Floats:
    """Length of each offset, given in whole voxels along (x, y, z): shape (n, 3) to (n,)."""
    x, y, z = ((offsets * spacing_mm) ** 2).T
    lengths: Floats = np.sqrt((x + y) + z)
    return lengths


@lru_cache(maxsize=64)
def _offsets(spacing_mm: Spacing, strides: tuple[int, int, int]) -> tuple[Floats, list[Indices]]:
    """Every offset up to a length, as steps in the flattened array: the distinct lengths, and the steps of each."""
    span = np.arange(-_REACH_VOX, _REACH_VOX + 1)
    offsets = np.stack(np.meshgrid(span, span, span, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = lengths_mm(offsets, np.array(spacing_mm))
    # Complete up to the first length that an offset outside the cube could have.
    usable = np.flatnonzero(lengths <= _REACH_VOX * min(spacing_mm))
    ordered = usable[np.argsort(lengths[usable], kind="stable")]
    shells = [
        (length, np.array([offsets[i] @ strides for i in same]))
        for length, same in ((length, list(members)) for length, members in groupby(ordered, lambda i: lengths[i]))
    ]
    return np.array([length for length, _ in shells]), [steps for _, steps in shells]
