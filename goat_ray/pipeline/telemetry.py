"""What a run tells Prometheus: counters that Ray exports on the metrics port of every node, as `ray_<name>`.

The driver counts: it alone sees lost cases, and a worker that Ray ends as idle takes with it what it has not reported.
Nothing here may fail or delay a case.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import ray
from ray.util import metrics

from goat_ray.errors import Failure
from goat_ray.pipeline.rows import Row

_LOGGER = logging.getLogger(__name__)

CASES = metrics.Counter("goat_ray_cases_total", "Cases that ended.", ("run", "outcome", "category"))
STAGE_SECONDS = metrics.Counter("goat_ray_stage_seconds_total", "Time in stages that a case passed.", ("run", "stage"))
STAGE_CPU_SECONDS = metrics.Counter(
    "goat_ray_stage_cpu_seconds_total", "Processor time of workers in stages that a case passed.", ("run", "stage")
)
READ_BYTES = metrics.Counter("goat_ray_read_bytes_total", "Sizes of the input files that were read.", ("run",))
WRITTEN_BYTES = metrics.Counter(
    "goat_ray_written_bytes_total", "Sizes of the output files that were committed.", ("run",)
)


class CaseCounter:
    """A reporter that counts cases by outcome, and failed ones by category."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._waiting: Counter[tuple[str, str]] = Counter()

    def start(self, total: int, already_done: int, what: str, run_id: str) -> None:
        """See `Reporter`."""

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """See `Reporter`."""
        self._waiting["failed" if failure else "ok", str(failure.category) if failure else ""] += 1
        with _harmless():
            if ray.is_initialized():  # what is counted before is lost
                for (outcome, category), cases in self._waiting.items():
                    CASES.inc(cases, {"run": self._run_id, "outcome": outcome, "category": category})
                self._waiting.clear()


def work_of(context: Mapping[str, Any], written_bytes: int) -> str:
    """What a case took, for the driver to count.

    Args:
        context: what its stages noted.
        written_bytes: size of the outputs that were committed.
    """
    # Only whole stages have a processor's time, their parts have none.
    stages = {stage: (context["timings_s"][stage], cpu_s) for stage, cpu_s in context["cpu_s"].items()}
    read_bytes = sum(file.get("size", 0) for file in context.get("inputs", {}).values())
    return json.dumps({"stages": stages, "read_bytes": read_bytes, "written_bytes": written_bytes})


def counted(rows: Iterator[Row], run_id: str) -> Iterator[Row]:
    """The rows of a run, once the work that each tells of is counted."""
    for row in rows:
        with _harmless():
            _count_work(run_id, json.loads(row["work"]))
        yield row


def _count_work(run_id: str, work: Mapping[str, Any]) -> None:
    for stage, (seconds, cpu_s) in work["stages"].items():
        tags = {"run": run_id, "stage": stage}
        _add(STAGE_SECONDS, seconds, tags)
        _add(STAGE_CPU_SECONDS, cpu_s, tags)
    _add(READ_BYTES, work["read_bytes"], {"run": run_id})
    _add(WRITTEN_BYTES, work["written_bytes"], {"run": run_id})


def _add(counter: metrics.Counter, value: float, tags: dict[str, str]) -> None:
    if value > 0:  # Ray refuses 0
        counter.inc(value, tags)


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a number too few is no reason to lose a case
        _tell_once(repr(error))


@cache
def _tell_once(error: str) -> None:
    _LOGGER.warning("metrics are incomplete: %s", error)
