"""A case's label map against its reference file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from goat_ray.cases import Case
from goat_ray.errors import CaseError, Category
from goat_ray.imaging.nifti import Grid, encode_labels
from goat_ray.labels import LabelMap
from goat_ray.metrics.scoring import Evaluation, evaluate_labels, label_histogram
from goat_ray.metrics.specs import find_policy
from tests.metrics.maps import ET, NETC, grid_of, volume

LABELS = volume(((4, 4, 4), 6, ET), ((5, 5, 5), 3, NETC))
GRID = grid_of(LABELS)


def case_of(folder: Path, reference: LabelMap | None, grid: Grid = GRID, cohort: str | None = None) -> Case:
    uri = None
    if reference is not None:
        (folder / "case-seg.nii.gz").write_bytes(encode_labels(reference, grid))
        uri = str(folder / "case-seg.nii.gz")
    return Case("case", {}, uri, cohort=cohort)


def category_of(case: Case, spec: str = "brats2023-gli") -> tuple[Category, str]:
    with pytest.raises(CaseError) as failed:
        evaluate_labels(case, LABELS, GRID, find_policy(spec))
    assert failed.value.hint
    return failed.value.category, failed.value.message


def test_a_scored_case_names_its_spec_and_its_reference(tmp_path: Path) -> None:
    found = evaluate_labels(case_of(tmp_path, LABELS, cohort="met"), LABELS, GRID, find_policy("goat2025"))
    assert (found.case["evaluation"], found.case["spec"]) == ("ok", "goat2025-met")
    assert found.case["gt_label_voxels"] == [LABELS.size - 216, 27, 0, 189]
    assert found.inputs["reference"]["name"] == "case-seg.nii.gz"
    assert found.case["reference_sha256"] == found.inputs["reference"]["sha256"]
    assert {row["region"]: row["lw_dice"] for row in found.regions}["TC"] == 1.0


def test_a_case_without_reference_cannot_be_scored(tmp_path: Path) -> None:
    assert category_of(case_of(tmp_path, None))[0] == Category.MISSING_REFERENCE
    gone = Case("case", {}, str(tmp_path / "gone-seg.nii.gz"))
    assert category_of(gone)[0] == Category.MISSING_REFERENCE


def test_a_cohort_without_a_spec_is_told_with_what_there_is(tmp_path: Path) -> None:
    category, message = category_of(case_of(tmp_path, LABELS, cohort="GoAT"), "goat2025")
    assert category == Category.UNKNOWN_COHORT
    assert "GoAT" in message
    assert "MET" in message


def test_another_grid_is_told_with_the_difference(tmp_path: Path) -> None:
    wider = case_of(tmp_path, LABELS, Grid(LABELS.shape, np.diag([1.0, 1.0, 1.2, 1.0])))
    category, message = category_of(wider)
    assert category == Category.GEOMETRY_MISMATCH
    assert "1×1×1.2 mm" in message


def test_a_case_that_cannot_be_scored_says_why_in_its_row() -> None:
    row = Evaluation.impossible(CaseError(Category.GEOMETRY_MISMATCH, "shape differs")).case
    assert row == {"evaluation": "geometry_mismatch", "evaluation_message": "shape differs"}


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_histogram_counts_every_voxel_once(order: str) -> None:
    labels = np.random.default_rng(0).integers(0, 5, (7, 8, 9)).astype(np.uint8)
    assert label_histogram(np.array(labels, order=order)) == np.bincount(labels.ravel()).tolist()
    assert label_histogram(np.zeros((3, 4, 5), np.uint8)) == [60]


def test_a_worker_that_scores_nothing_does_not_load_what_scores_need():
    code = "import sys, goat_ray.pipeline.stages as _; sys.exit('scipy.spatial' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
