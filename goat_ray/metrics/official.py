"""Numbers that the organisers published although their definition went wrong; for comparison with them only."""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from goat_ray.imaging.components import foreground_box
from goat_ray.metrics.comparison import Comparison
from goat_ray.metrics.lesions import Ids
from goat_ray.metrics.surfaces import (
    Spacing,
    lengths_mm,
    neighbourhood_codes,
    surfel_areas,
    weighted_percentile_95,
)


@dataclass(frozen=True, slots=True)
class OfficialScore:
    """Whole-volume values of 2025 that took lesion numbers for masks; HD95 is None where the program had infinity."""

    official_hd95_mm: float | None
    official_sensitivity: float
    official_specificity: float


def scores_on_ids(comparison: Comparison, n_voxels: int) -> OfficialScore:
    """Whole-volume HD95, sensitivity and specificity as BraTS-2024-Metrics computes them for GLI, MET, PED and SSA.

    Lesion numbers go where masks are expected: only lesions numbered 1 in both maps count as hits while every
    voxel counts as often as its number, and neighbourhood codes are sums of numbers modulo 256.
    """
    reference, prediction = comparison.reference.ids, comparison.prediction.ids
    either = (reference != 0) | (prediction != 0)
    gt, pred = reference[either].astype(np.int64), prediction[either].astype(np.int64)
    hits = np.count_nonzero((gt == 1) & (pred == 1))
    neither = n_voxels - np.count_nonzero((gt == 1) | (pred == 1))
    sensitivity = float(hits / (gt.sum() + sys.float_info.min)) if gt.any() or pred.any() else 1.0
    specificity = float(neither / (neither + pred.sum() - hits + sys.float_info.min))
    if not gt.any() and not pred.any():
        return OfficialScore(0.0, sensitivity, specificity)
    box = foreground_box(either.view(np.uint8))
    hd95_mm = _hd95_mm(reference[box], prediction[box], comparison.spacing_mm)
    return OfficialScore(hd95_mm if np.isfinite(hd95_mm) else None, sensitivity, specificity)


def _hd95_mm(reference: Ids, prediction: Ids, spacing_mm: Spacing) -> float:
    codes = [_codes(ids) for ids in (reference, prediction)]
    surfaces = [(code != 0) & (code != 255) for code in codes]
    areas = surfel_areas(spacing_mm)
    ways = []
    for (code, surface), other in zip(zip(codes, surfaces, strict=True), reversed(surfaces), strict=True):
        if not (surface.any() and other.any()):
            return float("inf")
        # Only the nearest point's place: the distance of every voxel would take four times the memory.
        nearest = distance_transform_edt(~other, sampling=spacing_mm, return_distances=False, return_indices=True)
        offsets = np.argwhere(surface) - nearest[:, surface].T
        ways.append(weighted_percentile_95(lengths_mm(offsets, np.array(spacing_mm)), areas[code[surface]]))
    return max(ways)


def _codes(ids: Ids) -> NDArray[np.uint8]:
    padded = np.pad(ids.astype(np.uint8), 1)  # modulo 256, as the organisers' cast
    strides = (padded.shape[1] * padded.shape[2], padded.shape[2], 1)
    codes = np.zeros(padded.size, np.uint8)
    cells = neighbourhood_codes(padded.reshape(-1), strides)
    codes[: cells.size] = cells
    return codes.reshape(padded.shape)[:-1, :-1, :-1]
