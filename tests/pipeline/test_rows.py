"""The stage boundary: which faults become rows, and which stop the run."""

import json

import pytest

from goat_ray.cases import Case
from goat_ray.config import S3Config
from goat_ray.errors import CaseError, Category
from goat_ray.labels import MODALITIES
from goat_ray.pipeline.rows import Row, decode_failure, reference_row, run_stage
from goat_ray.pipeline.watchdog import Surroundings

HERE = Surroundings("run", S3Config(), 60.0)
CASE = Case("case-1", {modality: f"{modality}.nii.gz" for modality in MODALITIES}, None, "north", None)


def raising(error: BaseException) -> Row:
    def work(_case: Case, _row: Row, _context: dict[str, object]) -> Row:
        raise error

    return run_stage("read", work, {"payload": b""}, reference_row(CASE), HERE)


def test_work_gets_its_case_and_its_payload_travels() -> None:
    def work(case: Case, _row: Row, context: dict[str, object]) -> Row:
        context["seen"] = case.site
        return {"payload": case.images["t1c"].encode()}

    row = run_stage("read", work, {"payload": b""}, reference_row(CASE), HERE)
    context = json.loads(row["context"])
    assert (row["payload"], row["error"], row["fatal"], context["seen"]) == (b"t1c.nii.gz", "", "", "north")
    assert context["timings_s"]["read"] >= 0


def test_a_case_error_becomes_a_row_with_the_same_columns() -> None:
    row = raising(CaseError(Category.TOO_LARGE, "it is huge", "crop it"))
    failure = decode_failure(row["error"])
    assert (failure.category, failure.message, failure.hint, failure.stage) == (
        Category.TOO_LARGE,
        "it is huge",
        "crop it",
        "read",
    )
    assert row["payload"] == b""
    assert not row["fatal"]


def test_running_out_of_memory_is_the_cases_fault() -> None:
    assert decode_failure(raising(MemoryError())["error"]).category == Category.OUT_OF_MEMORY


@pytest.mark.parametrize("error", [KeyError("bug"), SystemExit(3)])
def test_anything_unexpected_stops_the_run_with_its_traceback(error: BaseException) -> None:
    row = raising(error)
    assert "stage read, case case-1" in row["fatal"]
    assert type(error).__name__ in row["fatal"]


def test_a_failed_row_passes_through_later_stages_untouched() -> None:
    failed = raising(CaseError(Category.TOO_LARGE, "it is huge"))

    def never(_case: Case, _row: Row, _context: dict[str, object]) -> Row:
        raise AssertionError("a failed row was worked on")

    later = run_stage("predict", never, {"labels": b""}, failed, HERE)
    assert (later["error"], later["labels"], later["fatal"]) == (failed["error"], b"", "")
