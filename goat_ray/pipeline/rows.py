"""The rows that travel between stages, and the one boundary where a case's fault becomes data.

Every row has the columns of `reference_row`; a stage adds or replaces payload columns. A row whose `error`
is set is passed on untouched, with empty payloads, so that all rows of a stage have the same columns.
"""

import json
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from goat_ray.cases import Case
from goat_ray.commits import Suspect
from goat_ray.errors import CaseError, Category, DeviceLostError, Failure
from goat_ray.filesystems import use_s3
from goat_ray.pipeline.logs import of_case, set_up_worker
from goat_ray.pipeline.watchdog import Surroundings, abandon, watched

NOT_STARTED = "not started"
"""`fatal` of a row whose case was not let in, because the run is to stop."""

Row = dict[str, Any]
Work = Callable[[Case, Row, dict[str, Any]], Row]

_COMMON = ("case_id", "case", "context", "error", "fatal")


def reference_row(case: Case) -> Row:
    """The row a case starts with: references only, no image data."""
    return {
        "case_id": case.case_id,
        "case": json.dumps(case.to_dict()),
        "context": json.dumps({"timings_s": {}, "cpu_s": {}}),
        "error": "",
        "fatal": "",
    }


def run_stage(name: str, work: Work, empty: Mapping[str, Any], row: Row, surroundings: Surroundings) -> Row:
    """Run one stage on one row.

    `work` gets the case, the row and the case's context (plain values that it may extend; they travel as
    JSON) and returns payload columns. A `CaseError` ends the case; anything unexpected is carried to the
    driver as `fatal`, which stops the run there: raised here, Ray would drop the row or hang. A case that takes
    too long, or loses the device, ends the process.
    """
    result = {**{column: row[column] for column in _COMMON}, **empty}
    if row["error"] or row["fatal"]:
        return result
    context = json.loads(row["context"])
    started, cpu_started = time.perf_counter(), time.process_time()
    use_s3(surroundings.s3)
    set_up_worker()
    try:
        with of_case(row["case_id"], name), watched(surroundings, row["case_id"], name):
            payload = work(Case.from_dict(json.loads(row["case"])), row, context)
    except DeviceLostError as error:
        abandon(surroundings, Suspect(row["case_id"], Category.MODEL_FAILED, str(error), name))
        raise
    except CaseError as error:
        return {**result, "error": encode_failure(Failure.of(error, name))}
    except MemoryError:
        return {**result, "error": encode_failure(Failure.of(_out_of_memory(name), name))}
    except (Exception, SystemExit):  # noqa: BLE001 - see the docstring
        return {**result, "fatal": f"stage {name}, case {row['case_id']}:\n{traceback.format_exc()}"}
    _add_time(context["timings_s"], name, time.perf_counter() - started)
    _add_time(context["cpu_s"], name, time.process_time() - cpu_started)
    return {**result, **payload, "context": json.dumps(context)}


def encode_failure(failure: Failure) -> str:
    """A failure as the `error` column carries it."""
    return json.dumps(failure.to_dict())


def decode_failure(text: str) -> Failure:
    """Inverse of `encode_failure`."""
    return Failure.from_dict(json.loads(text))


def _add_time(spent_s: dict[str, float], stage: str, more_s: float) -> None:
    """Count what a worker took; a case may pass several of one stage."""
    spent_s[stage] = round(spent_s.get(stage, 0.0) + more_s, 4)


def _out_of_memory(stage: str) -> CaseError:
    return CaseError(
        Category.OUT_OF_MEMORY,
        f"the worker ran out of memory in stage {stage}",
        "give the workers more memory, or run fewer of them (--workers)",
    )
