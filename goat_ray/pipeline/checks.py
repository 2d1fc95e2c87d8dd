"""Stages that only look at a case: label maps against their references, labelled cases before they are trusted."""

import json
from dataclasses import dataclass
from typing import Any

from goat_ray.cases import PREDICTION, Case
from goat_ray.errors import Category
from goat_ray.imaging.geometry import check_same_grid
from goat_ray.imaging.reading import load_case, load_labels
from goat_ray.labels import check_labels
from goat_ray.metrics.scoring import evaluate_labels, label_histogram
from goat_ray.metrics.specs import Policy
from goat_ray.pipeline.facts import grid_columns
from goat_ray.pipeline.rows import Row, run_stage
from goat_ray.pipeline.stages import NOTHING_TO_COMMIT
from goat_ray.pipeline.watchdog import Surroundings


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Reference row of a label map and its reference to scores; the only stage of `evaluate` before the commit."""

    policy: Policy
    official: bool
    surroundings: Surroundings

    def __call__(self, row: Row) -> Row:
        """Run the stage on one row."""
        return run_stage("evaluate", self._work, NOTHING_TO_COMMIT, row, self.surroundings)

    def _work(self, case: Case, _row: Row, context: dict[str, Any]) -> Row:
        loaded = load_labels(case.images[PREDICTION], PREDICTION, Category.MISSING_PREDICTION)
        evaluation = evaluate_labels(case, loaded.labels, loaded.grid, self.policy, official=self.official)
        context["inputs"] = {PREDICTION: loaded.file.to_dict(), **evaluation.inputs}
        case_row = {
            **grid_columns(loaded.grid),
            "pred_label_voxels": label_histogram(loaded.labels),
            "label_sha256": loaded.file.sha256,
            **evaluation.case,
        }
        tables = {"cases": [case_row], "regions": evaluation.regions, "lesions": evaluation.lesions}
        return {"tables": json.dumps(tables)}


@dataclass(frozen=True, slots=True)
class Inspect:
    """Reference row of a labelled case to what is known of it; the only stage before the commit of an inspection.

    The case must pass every check of a case that is predicted, and its reference must be on its grid and hold no
    other labels than ours.
    """

    surroundings: Surroundings

    def __call__(self, row: Row) -> Row:
        """Run the stage on one row."""
        return run_stage("inspect", self._work, NOTHING_TO_COMMIT, row, self.surroundings)

    def _work(self, case: Case, _row: Row, context: dict[str, Any]) -> Row:
        loaded = load_case(case)
        reference = load_labels(case.reference or "", "reference", Category.MISSING_REFERENCE)
        check_same_grid({"t1c": loaded.grid, "reference": reference.grid})
        check_labels(reference.labels, "the reference")
        files = {**loaded.inputs, "reference": reference.file}
        context["inputs"] = {role: file.to_dict() for role, file in files.items()}
        case_row = {
            **grid_columns(loaded.grid),
            "gt_label_voxels": label_histogram(reference.labels),
            "reference_sha256": reference.file.sha256,
            "scan_sha256": loaded.scan_sha256,
        }
        return {"tables": json.dumps({"cases": [case_row]})}
