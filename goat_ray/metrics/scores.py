"""Scores of one region by the lesion-wise rule: of the whole volume, of every lesion, and their penalised mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from goat_ray.metrics.comparison import Comparison

TOLERANCES_MM = (0.5, 1.0)
NSD_GUARD = 1e-8
"""In the organisers' denominator: a perfect NSD is 0.999999995."""


@dataclass(frozen=True, slots=True)
class LesionScore:
    """One lesion: of the reference (`gt`), or predicted where there is none (`fp`); fields are columns of `lesions`.

    `scored` tells whether it enters the means. HD95 is None where it is undefined; `hd95_scored_mm` has the spec's
    penalty there. Scores of a missed lesion are 0, those of a false one None. `sq_` values are those of one-to-one
    matching.
    """

    kind: str
    lesion_id: int
    n_components: int
    scored: bool
    detected: bool | None
    pred_ids: tuple[int, ...] | None
    n_pred: int | None
    pred_volume_mm3: float | None
    intersection_mm3: float | None
    dice: float | None
    iou: float | None
    nsd_0_5: float | None
    nsd_1_0: float | None
    hd95_mm: float | None
    hd95_scored_mm: float | None
    shares_prediction: bool | None
    shell_match_only: bool | None
    sq_nsd: float | None = None
    sq_hd95_mm: float | None = None


@dataclass(frozen=True, slots=True)
class VolumeScore:
    """The whole region at once; fields are columns of `regions`. None is explained by `null_reason`."""

    gt_volume_vox: int
    pred_volume_vox: int
    dice: float | None
    nsd_0_5: float | None
    nsd_1_0: float | None
    hd95_mm: float | None
    sensitivity: float | None
    specificity: float | None
    precision: float | None
    null_reason: str | None


@dataclass(frozen=True, slots=True)
class MeanScore:
    """Counts, and means over scored lesions and false positives; fields are columns of `regions`."""

    n_gt: int
    n_gt_scored: int
    n_gt_ignored: int
    n_pred: int
    tp: int
    fp: int
    fn: int
    lw_dice: float
    lw_nsd_0_5: float
    lw_nsd_1_0: float
    lw_hd95_mm: float
    lw_hd95_found_mm: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """HD95 and NSD of every group of a comparison (0 is the whole region), infinite and 0 where undefined."""

    hd95_mm: NDArray[np.float64]
    nsd_0_5: NDArray[np.float64]
    nsd_1_0: NDArray[np.float64]


def distances(comparison: Comparison) -> Distances:
    """All distances that the lesion-wise rule needs."""
    nsd_0_5, nsd_1_0 = comparison.nsd(TOLERANCES_MM, NSD_GUARD)
    return Distances(comparison.hd95_mm(), nsd_0_5, nsd_1_0)


def volume_score(comparison: Comparison, found: Distances, n_voxels: int) -> VolumeScore:
    """Scores of the whole region; `n_voxels` is the size of the map.

    Correct ones: sensitivity, specificity and HD95 are of the masks, whatever the lesions' numbers are.
    """
    gt, pred = int(comparison.reference.sizes_vox.sum()), int(comparison.prediction.sizes_vox.sum())
    both = int(comparison.overlaps.counts.sum())
    reasons = {(False, False): "both_empty", (False, True): "gt_empty", (True, False): "pred_empty"}
    is_either, is_both = bool(gt or pred), bool(gt and pred)
    return VolumeScore(
        gt_volume_vox=gt,
        pred_volume_vox=pred,
        dice=2 * both / (gt + pred) if is_either else None,
        nsd_0_5=float(found.nsd_0_5[0]) if is_either else None,
        nsd_1_0=float(found.nsd_1_0[0]) if is_either else None,
        hd95_mm=float(found.hd95_mm[0]) if is_both else None,
        sensitivity=both / gt if gt else None,
        specificity=(n_voxels - gt - pred + both) / (n_voxels - gt) if n_voxels > gt else None,
        precision=both / pred if pred else None,
        null_reason=reasons.get((bool(gt), bool(pred))),
    )


def lesion_scores(
    comparison: Comparison, found: Distances, voxel_volume_mm3: float, min_volume_mm3: float, penalty_mm: float | None
) -> list[LesionScore]:
    """Every reference lesion by number, then every predicted lesion that meets none."""
    reference, prediction, matches = comparison.reference, comparison.prediction, comparison.matches
    n = reference.highest + 1
    pred_vox = np.bincount(matches.first, prediction.sizes_vox[matches.second], minlength=n).astype(int)
    both_vox = np.bincount(comparison.overlaps.first, comparison.overlaps.counts, minlength=n).astype(int)
    meets = [tuple(matches.second[matches.first == i].tolist()) for i in range(n)]
    shared = np.flatnonzero(np.bincount(matches.second) > 1).tolist()
    rows = []
    for i in range(1, n):
        gt_vox, pred, both = int(reference.sizes_vox[i]), int(pred_vox[i]), int(both_vox[i])
        hd95_mm = float(found.hd95_mm[i])
        is_found = bool(meets[i])
        rows.append(
            LesionScore(
                kind="gt",
                lesion_id=i,
                n_components=int(reference.n_components[i]),
                scored=gt_vox * voxel_volume_mm3 > min_volume_mm3,
                detected=is_found,
                pred_ids=meets[i],
                n_pred=len(meets[i]),
                pred_volume_mm3=pred * voxel_volume_mm3,
                intersection_mm3=both * voxel_volume_mm3,
                dice=2 * both / (gt_vox + pred),
                iou=both / (gt_vox + pred - both),
                nsd_0_5=float(found.nsd_0_5[i]) if is_found else 0.0,
                nsd_1_0=float(found.nsd_1_0[i]) if is_found else 0.0,
                hd95_mm=hd95_mm if is_found else None,
                hd95_scored_mm=hd95_mm if is_found else penalty_mm,
                shares_prediction=any(p in shared for p in meets[i]),
                shell_match_only=is_found and not both,
            )
        )
    return rows + [_false_positive(int(p), int(prediction.n_components[p]), penalty_mm) for p in unmatched(comparison)]


def unmatched(comparison: Comparison) -> NDArray[np.intp]:
    """Predicted lesions that meet no reference lesion, in order."""
    return np.setdiff1d(np.flatnonzero(comparison.prediction.sizes_vox), comparison.matches.second)


def mean_score(lesions: Sequence[LesionScore], n_pred: int) -> MeanScore:
    """The organisers' mean over N scored reference lesions and F false positives; 1, 1, 1 and 0 mm when N + F = 0."""
    gt = [lesion for lesion in lesions if lesion.kind == "gt"]
    scored = [lesion for lesion in gt if lesion.scored]
    found = [lesion.hd95_mm for lesion in scored if lesion.hd95_mm is not None]
    false = [lesion for lesion in lesions if lesion.kind == "fp"]
    n = len(scored) + len(false)

    def mean(values: list[float | None], nothing: float) -> float:
        return math.fsum(value for value in values if value is not None) / n if n else nothing

    return MeanScore(
        n_gt=len(gt),
        n_gt_scored=len(scored),
        n_gt_ignored=len(gt) - len(scored),
        n_pred=n_pred,
        tp=sum(bool(lesion.detected) for lesion in scored),
        fp=len(false),
        fn=sum(not lesion.detected for lesion in scored),
        lw_dice=mean([lesion.dice for lesion in scored], 1.0),
        lw_nsd_0_5=mean([lesion.nsd_0_5 for lesion in scored], 1.0),
        lw_nsd_1_0=mean([lesion.nsd_1_0 for lesion in scored], 1.0),
        lw_hd95_mm=mean([lesion.hd95_scored_mm for lesion in (*scored, *false)], 0.0),
        lw_hd95_found_mm=math.fsum(found) / len(found) if found else None,
    )


def _false_positive(lesion_id: int, n_components: int, penalty_mm: float | None) -> LesionScore:
    return LesionScore(
        kind="fp",
        lesion_id=lesion_id,
        n_components=n_components,
        scored=True,
        detected=None,
        pred_ids=None,
        n_pred=None,
        pred_volume_mm3=None,
        intersection_mm3=None,
        dice=None,
        iou=None,
        nsd_0_5=None,
        nsd_1_0=None,
        hd95_mm=None,
        hd95_scored_mm=penalty_mm,
        shares_prediction=None,
        shell_match_only=None,
    )
