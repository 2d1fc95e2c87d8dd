"""How far the members of an ensemble agree: the regions each would have drawn alone, compared pair by pair."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, pstdev

import numpy as np

from goat_ray.labels import LabelMap, region_mask

COMPARED_REGIONS = ("ET", "TC", "WT")

BitSets = Mapping[str, int]
"""The voxels of each compared region as the bits of a whole number: an eighth of a mask, and quickly counted."""


def bit_sets(labels: LabelMap) -> BitSets:
    """The compared regions of one member's labels, any shape; all members of a case in the same one."""
    return {
        region: int.from_bytes(np.packbits(region_mask(labels, region)).tobytes(), "big") for region in COMPARED_REGIONS
    }


def agreement(members: Iterable[BitSets]) -> dict[str, dict[str, float | None]]:
    """Columns of `regions` by region, from what each member would have drawn alone.

    `member_dice_mean` and `member_dice_min`: of the Dice of every pair of members, 1 where both are empty; None
    for one member and where no member found anything. `member_volume_cv`: standard deviation (of these members,
    not of a sample) over mean of the members' volumes; None in the same cases.
    """
    drawn = list(members)
    return {region: _spread([member[region] for member in drawn]) for region in COMPARED_REGIONS}


def _spread(regions: Sequence[int]) -> dict[str, float | None]:
    volumes = [region.bit_count() for region in regions]
    if len(regions) < 2 or not any(volumes):
        return dict.fromkeys(("member_dice_mean", "member_dice_min", "member_volume_cv"))
    dice = [_dice(*pair) for pair in combinations(zip(regions, volumes, strict=True), 2)]
    return {
        "member_dice_mean": round(fmean(dice), 6),
        "member_dice_min": round(min(dice), 6),
        "member_volume_cv": round(pstdev(volumes) / fmean(volumes), 6),
    }


def _dice(one: tuple[int, int], other: tuple[int, int]) -> float:
    (region, volume), (other_region, other_volume) = one, other
    if volume + other_volume == 0:
        return 1.0
    return 2 * (region & other_region).bit_count() / (volume + other_volume)
