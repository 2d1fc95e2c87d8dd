"""Scores of one region by one-to-one matching, as BraTS 2026 has them: detection counts, and quality where detected.

The numbers are those of panoptica 2.1 as BraTS_evaluation 0.0.10 configures it; the code is our own.
"""

import sys
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from goat_ray.metrics.comparison import Comparison
from goat_ray.metrics.lesions import Pairs

_GUARD = sys.float_info.min
_GLOBAL_TOLERANCE_VOX = 0.5


@dataclass(frozen=True, slots=True)
class MatchedPair:
    """A reference lesion that is assigned to a predicted one; NSD is at the smallest voxel spacing."""

    lesion_id: int
    dice: float
    sq_nsd: float
    sq_hd95_mm: float


@dataclass(frozen=True, slots=True)
class OneToOneScore:
    """Detection and segmentation quality; fields are columns of `regions`.

    `sq_` values are mean and population standard deviation over matched pairs: 0 (HD95: None) when nothing is
    matched, None when both maps are empty. The `official_global_` values are computed in voxels, whatever the
    spacing is, and the NSD at half a voxel, as the organisers' program does.
    """

    n_gt: int
    n_pred: int
    tp: int
    fp: int
    fn: int
    match_precision: float | None
    match_recall: float | None
    match_f1: float | None
    sq_dice: float | None
    sq_dice_std: float | None
    sq_nsd: float | None
    sq_nsd_std: float | None
    sq_hd95_mm: float | None
    sq_hd95_std_mm: float | None
    official_global_nsd: float | None
    official_global_hd95_vox: float | None


def assigned(comparison: Comparison) -> Comparison:
    """The comparison with every lesion matched to at most one: overlapping pairs with the largest total Dice."""
    found = comparison.overlaps
    rows, row = np.unique(found.first, return_inverse=True)
    columns, column = np.unique(found.second, return_inverse=True)
    dice = np.zeros((rows.size, columns.size))
    dice[row, column] = _dice(comparison)
    best_row, best_column = linear_sum_assignment(dice, maximize=True)
    chosen = np.zeros(dice.shape, np.bool_)
    chosen[best_row, best_column] = True
    kept = chosen[row, column]
    pairs = Pairs(found.first[kept], found.second[kept], found.counts[kept])
    return replace(comparison, matches=pairs, overlaps=pairs)


def matched_pairs(comparison: Comparison) -> list[MatchedPair]:
    """Quality of every matched pair of an `assigned` comparison, by reference lesion."""
    matches = comparison.matches
    if not matches.first.size:
        return []
    # The organisers' program holds arrays as (z, y, x) and spacings as (x, y, z), and confuses the two.
    turned = replace(comparison, spacing_mm=comparison.spacing_mm[::-1])
    nsd = turned.nsd((min(turned.spacing_mm),), _GUARD)[0]
    hd95_mm = _pooled_hd95(turned)
    dice = _dice(comparison)
    return [
        MatchedPair(lesion, overlap, float(nsd[lesion]), float(hd95_mm[lesion]))
        for lesion, overlap in zip(matches.first.tolist(), dice.tolist(), strict=True)
    ]


def one_to_one_score(comparison: Comparison, pairs: list[MatchedPair]) -> OneToOneScore:
    """Counts and means of an `assigned` comparison."""
    n_gt, n_pred, tp = comparison.reference.count, comparison.prediction.count, len(pairs)
    is_either = bool(n_gt or n_pred)
    dice, dice_std = _mean_and_std([pair.dice for pair in pairs], is_either)
    nsd, nsd_std = _mean_and_std([pair.sq_nsd for pair in pairs], is_either)
    hd95_mm, hd95_std_mm = _mean_and_std([pair.sq_hd95_mm for pair in pairs], is_either)
    global_nsd, global_hd95_vox = _global(comparison) if tp else (0.0 if is_either else None, None)
    return OneToOneScore(
        n_gt=n_gt,
        n_pred=n_pred,
        tp=tp,
        fp=n_pred - tp,
        fn=n_gt - tp,
        match_precision=tp / n_pred if n_pred else None,
        match_recall=tp / n_gt if n_gt else None,
        match_f1=2 * tp / (n_gt + n_pred) if is_either else None,
        sq_dice=dice,
        sq_dice_std=dice_std,
        sq_nsd=nsd,
        sq_nsd_std=nsd_std,
        sq_hd95_mm=hd95_mm if tp else None,
        sq_hd95_std_mm=hd95_std_mm,
        official_global_nsd=global_nsd,
        official_global_hd95_vox=global_hd95_vox,
    )


def _dice(comparison: Comparison) -> NDArray[np.float64]:
    """Dice of each overlapping pair."""
    found = comparison.overlaps
    sizes = comparison.reference.sizes_vox[found.first] + comparison.prediction.sizes_vox[found.second]
    return np.asarray(2 * found.counts / sizes)


def _mean_and_std(values: list[float], is_either: bool) -> tuple[float | None, float | None]:
    if values:
        return float(np.mean(values)), float(np.std(values))
    return (0.0 if is_either else None), None


def _global(comparison: Comparison) -> tuple[float, float]:
    none = np.zeros(0, np.intp)
    in_voxels = replace(comparison, matches=Pairs(none, none, none), spacing_mm=(1.0, 1.0, 1.0))
    nsd = in_voxels.nsd((_GLOBAL_TOLERANCE_VOX,), _GUARD)[0]
    return float(nsd[0]), float(_pooled_hd95(in_voxels)[0])


def _pooled_hd95(comparison: Comparison) -> NDArray[np.float64]:
    """Per group: 95th percentile, interpolated, of the border distances of both directions together."""
    sides = comparison.border_distances_mm()
    result = np.full(comparison.reference.highest + 1, np.inf)
    for group in np.unique(np.concatenate([groups.group for groups, _ in sides])).tolist():
        pooled = np.concatenate([distances[groups.group == group] for groups, distances in sides])
        result[group] = np.percentile(pooled, 95)
    return comparison.with_whole(result)
