"""How far two sets of label maps agree, in the words that results use."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from goat_ray.labels import Label, LabelMap


def agreement(labels: Sequence[LabelMap], others: Sequence[LabelMap]) -> dict[str, Any]:
    """Voxels that differ over all cases, as a share of all and of the others' tumour, and Dice of each label.

    Args:
        labels: one map a case, any shape.
        others: maps of the same shapes; Dice is None for a label that neither has.
    """
    a, b = (np.concatenate([volume.ravel() for volume in volumes]) for volumes in (labels, others))
    differing = int(np.count_nonzero(a != b))
    return {
        "differing_vox": differing,
        "equal_share": 1 - differing / a.size,
        "differing_share_of_tumour": round(differing / max(int(np.count_nonzero(b)), 1), 6),
        "dice": {label.name: _dice(a == int(label), b == int(label)) for label in list(Label)[1:]},
    }


def _dice(a: np.ndarray, b: np.ndarray) -> float | None:
    voxels = np.count_nonzero(a) + np.count_nonzero(b)
    return round(float(2 * np.count_nonzero(a & b) / voxels), 6) if voxels else None
