"""The lesions of one region in two label maps, who meets whom, and the distances between their surfaces."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from goat_ray.labels import Mask
from goat_ray.metrics.lesions import Frame, Indices, Lesions, Pairs, count_pairs, surface_voxels
from goat_ray.metrics.surfaces import (
    Floats,
    Groups,
    Points,
    Spacing,
    Targets,
    nearest_mm,
    percentile_95_mm,
    surfels,
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A reference and a prediction in one frame.

    Scores come as arrays over groups: group 0 is the whole region, group i is reference lesion i together with the
    predicted lesions that `matches` pairs it with. Where the region is one lesion that meets everything predicted,
    the two are computed once.
    """

    reference: Lesions
    prediction: Lesions
    frame: Frame
    spacing_mm: Spacing
    matches: Pairs
    overlaps: Pairs

    @property
    def is_matched(self) -> Mask:
        """Whether a reference lesion (from 1; entry 0 is False) meets a predicted one."""
        matched = np.zeros(self.reference.highest + 1, np.bool_)
        matched[self.matches.first] = True
        return matched

    @cached_property
    def _whole_is_lesion_1(self) -> bool:
        return self.reference.count == 1 and len(self.matches.second) == self.prediction.count > 0

    def hd95_mm(self) -> Floats:
        """Per group: area-weighted 95 % point of the distances of surface elements, the larger of both directions.

        Infinite where one side is empty.
        """
        ours, theirs = (surfels(side, self.frame, self.spacing_mm) for side in (self.reference, self.prediction))
        forth = percentile_95_mm(self._reference_groups(ours), self._targets(theirs))
        back = percentile_95_mm(self._prediction_groups(theirs), self._targets(ours))
        return self.with_whole(np.maximum(forth, back))

    def border_distances_mm(self, limit_mm: float = np.inf) -> tuple[tuple[Groups, Floats], tuple[Groups, Floats]]:
        """Distance of each border voxel to the border of the other map, by group: from the reference, then back.

        A border voxel has a face neighbour outside its region. Distances beyond `limit_mm` are infinite.
        """
        ours, theirs = (_border(side, self.frame) for side in (self.reference, self.prediction))
        forth, back = self._reference_groups(ours), self._prediction_groups(theirs)
        return (
            (forth, nearest_mm(forth, self._targets(theirs), limit_mm)),
            (back, nearest_mm(back, self._targets(ours), limit_mm)),
        )

    def nsd(self, tolerances_mm: tuple[float, ...], guard: float) -> list[Floats]:
        """Per tolerance and group: normalised surface Dice; 0 where one side is empty or nothing is matched.

        nnU-Net's variant, with border voxels unweighted and each side's share within the tolerance counting equally;
        `guard` is added to the denominator.
        """
        sides = self.border_distances_mm(max(tolerances_mm))
        n = self.reference.highest + 1
        numbers = [np.bincount(groups.group, minlength=n) for groups, _ in sides]
        scores = []
        for tolerance_mm in tolerances_mm:
            hits = [np.bincount(groups.group, d <= tolerance_mm, minlength=n) for groups, d in sides]
            with np.errstate(invalid="ignore"):
                within = sum(hit / number for hit, number in zip(hits, numbers, strict=True))
                beyond = sum((number - hit) / number for hit, number in zip(hits, numbers, strict=True))
                score = within / (within + beyond + guard)
            scores.append(self.with_whole(np.where(np.minimum(*numbers) > 0, score, 0.0)))
        return scores

    def with_whole(self, per_group: Floats) -> Floats:
        """Fill in group 0 where it was left out because it equals group 1."""
        if self._whole_is_lesion_1:
            per_group[0] = per_group[1]
        return per_group

    def _targets(self, points: Points) -> Targets:
        return Targets.of(points, self.frame, self.spacing_mm)

    def _reference_groups(self, points: Points) -> Groups:
        """Every reference point with the whole, and again with its lesion if that is matched."""
        accepts = np.zeros((self.reference.highest + 1, self.prediction.highest + 1), np.bool_)
        accepts[0, 1:] = True
        accepts[self.matches.first, self.matches.second] = True
        members = [np.flatnonzero(self.is_matched[points.owner])]
        groups = [points.owner[members[0]].astype(np.intp)]
        return self._groups(points, members, groups, accepts)

    def _prediction_groups(self, points: Points) -> Groups:
        """Every predicted point with the whole, and again with each lesion that its own is matched to."""
        accepts = np.eye(self.reference.highest + 1, dtype=np.bool_)
        accepts[0] = True
        accepts[0, 0] = False
        order = np.argsort(points.owner, kind="stable")
        ends = np.searchsorted(points.owner[order], np.arange(self.prediction.highest + 2))
        members = [order[ends[p] : ends[p + 1]] for p in self.matches.second.tolist()]
        groups = [np.full(m.size, g) for m, g in zip(members, self.matches.first.tolist(), strict=True)]
        return self._groups(points, members, groups, accepts)

    def _groups(self, points: Points, members: list[Indices], groups: list[Indices], accepts: Mask) -> Groups:
        if not self._whole_is_lesion_1:
            members = [np.arange(points.index.size), *members]
            groups = [np.zeros(points.index.size, np.intp), *groups]
        chosen = np.concatenate([*members, np.zeros(0, np.intp)])
        group = np.concatenate([*groups, np.zeros(0, np.intp)])
        return Groups(points.index[chosen], chosen, group, points.area[chosen], accepts)


def compare(reference: Lesions, prediction: Lesions, frame: Frame, spacing_mm: Spacing) -> Comparison:
    """Compare lesions that lie in one frame; a predicted lesion meets every reference lesion whose zone it touches."""
    zones, ids = (volume.reshape(-1)[prediction.voxels] for volume in (reference.zones, reference.ids))
    matches, overlaps = count_pairs(zones, prediction.owner), count_pairs(ids, prediction.owner)
    return Comparison(reference, prediction, frame, spacing_mm, matches, overlaps)


def _border(lesions: Lesions, frame: Frame) -> Points:
    index, owner = surface_voxels(lesions, frame)
    return Points(index, owner, np.ones(index.size))
