"""A case's label map against its reference file: what `predict` and `evaluate` have in common."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from goat_ray.cases import Case
from goat_ray.errors import CaseError, Category
from goat_ray.imaging.components import foreground_box
from goat_ray.imaging.geometry import check_same_grid
from goat_ray.imaging.nifti import Grid
from goat_ray.imaging.reading import InputFile, load_labels
from goat_ray.labels import LabelMap
from goat_ray.metrics.specs import Policy

Row = dict[str, Any]

OK = "ok"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A scored case: columns of `cases`, rows of `regions` and `lesions`, the reference's file and labels (x, y, z)."""

    case: Row
    regions: list[Row]
    lesions: list[Row]
    reference: InputFile | None = None
    reference_labels: LabelMap | None = None

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """The reference's file as a commit records it."""
        return {"reference": self.reference.to_dict()} if self.reference else {}

    @classmethod
    def impossible(cls, error: CaseError) -> "Evaluation":
        """A case that could not be scored, and why."""
        return cls({"evaluation": str(error.category), "evaluation_message": error.message}, [], [])


def evaluate_labels(case: Case, labels: LabelMap, grid: Grid, policy: Policy, *, official: bool = False) -> Evaluation:
    """Score a case's label map (x, y, z) on `grid` against the case's reference.

    Args:
        case: names the reference, and the cohort if the policy goes by it.
        labels: uint8, any memory order.
        grid: where the labels lie.
        policy: what to score by.
        official: as for `score_case`.

    Raises:
        CaseError: `missing_reference`, `unknown_cohort`, `geometry_mismatch`, `invalid_labels`, or a reference
            that cannot be read.
    """
    # Only here: workers whose cases have no reference start 0.3 CPU-s faster without it and its scipy.
    from goat_ray.metrics.evaluation import score_case

    spec = policy.spec_of(case.cohort)
    if case.reference is None:
        raise CaseError(Category.MISSING_REFERENCE, "it has no reference.", "Add its reference, or leave the case out.")
    reference = load_labels(case.reference, "reference", Category.MISSING_REFERENCE)
    check_same_grid({"the reference": reference.grid, "the prediction": grid})
    score = score_case(reference.labels, labels, grid, spec, official=official)
    row = {
        "evaluation": OK,
        "spec": spec.name,
        "reference_sha256": reference.file.sha256,
        "gt_label_voxels": label_histogram(reference.labels),
    }
    return Evaluation(row, score.regions, score.lesions, reference.file, reference.labels)


def label_histogram(labels: LabelMap) -> list[int]:
    """Voxels of each label, from 0 to the largest there is."""
    crop = labels[foreground_box(labels)]
    counts = np.bincount(crop[crop != 0], minlength=1)
    counts[0] = labels.size - counts.sum()
    return [int(count) for count in counts]
