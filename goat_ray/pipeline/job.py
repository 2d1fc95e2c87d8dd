"""The life of a run, whatever it computes: what is pending, what became of it, its tables and its summary."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from goat_ray.cases import Case, Discovery, FailedCase
from goat_ray.commits import commit_key, error_key, withdraw, write_failure
from goat_ray.config import JobConfig
from goat_ray.costs import COLUMNS as COSTS_OF
from goat_ray.costs import Costs
from goat_ray.errors import Category, Failure, GoatRayError
from goat_ray.ledger import Done, Ledger, read_ledger, read_outcomes
from goat_ray.pipeline.freshness import without_stale
from goat_ray.pipeline.logs import of_case
from goat_ray.pipeline.passes import Stream, run_passes
from goat_ray.pipeline.progress import Reporter, Several
from goat_ray.pipeline.provenance import run_row
from goat_ray.pipeline.stopping import Stop, StopRule
from goat_ray.pipeline.suspicion import Suspicion
from goat_ray.pipeline.telemetry import CaseCounter, counted
from goat_ray.report.summary import COLUMNS, MeanScores, mean_scores
from goat_ray.runs import update_run
from goat_ray.storage import RunStore
from goat_ray.tables import (
    SCHEMA_VERSION,
    Penalties,
    read_table,
    tables_are_there,
    write_run_table,
    write_tables,
)

_LOGGER = logging.getLogger(__name__)

Record = TypeVar("Record", Done, FailedCase)
Engine = Callable[[Stop], AbstractContextManager[Stream]]
"""Gets ready what the work runs on, and gives what makes rows of cases as long as the context lasts."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run stands now. `discovered = ok + failed + skipped` always holds.

    `skipped` cases are those beyond a limit and, in a run that was `stopped` (which says why), those not reached.
    `ledger` has every case that ended, as the run folder holds it.
    """

    run_id: str
    out: str
    discovered: int
    ok: int
    failed: int
    skipped: int
    already_done: int
    failures: tuple[FailedCase, ...]
    warnings: tuple[str, ...]
    elapsed_s: float
    scores: tuple[MeanScores, ...] = ()
    unscored: int = 0
    stopped: str = ""
    ledger: Ledger = field(default_factory=lambda: Ledger("", {}, {}), repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many cases are where."""
        return {name: getattr(self, name) for name in ("discovered", "ok", "failed", "skipped", "already_done")}

    @property
    def facts(self) -> dict[str, Any]:
        """The summary in short, in plain values."""
        return {"run_id": self.run_id, "out": self.out, **self.counts}

    def __post_init__(self) -> None:
        if self.discovered != self.ok + self.failed + self.skipped:
            raise GoatRayError(
                f"cases were lost: {self.discovered} discovered, but {self.ok} ok + {self.failed} failed + "
                f"{self.skipped} skipped; {self.out} is intact, run the same command again"
            )


@dataclass(frozen=True, slots=True)
class Again:
    """What of an earlier call's work is looked at again.

    Attributes:
        retry: categories of failed cases that are tried again.
        verify: whether the outputs of committed cases are read and compared with their hashes.
    """

    retry: Collection[Category] = ()
    verify: bool = False


NOTHING_AGAIN = Again()


@dataclass(frozen=True, slots=True)
class Job:
    """A run that passed every check and is ready to start.

    Attributes:
        discovery: the cases as they are now.
        store: the run folder.
        run_id: of its fingerprint.
        watched: the files (by modality or role) that a case is done again for when they are others than before.
        config: limits, attempts, where to run.
        warnings: what else a user should know at the end.
        penalties: rows of `regions` that a failed case is given.
        what: what its cases are called while they are worked on.
        started: when, for the time it took.
    """

    discovery: Discovery
    store: RunStore
    run_id: str
    watched: tuple[str, ...]
    config: JobConfig
    warnings: Callable[[Ledger], tuple[str, ...]] = lambda ledger: ()
    penalties: Penalties = lambda failed: ()
    what: str = "cases"
    started: float = field(default_factory=time.monotonic)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases within the limit."""
        return self.discovery.cases[: self.config.limit]


def carry_out(job: Job, engine: Engine, reporter: Reporter, again: Again) -> RunSummary:
    """Do what is left of a job: every pending case ends as a commit or an error object; then tables.

    Args:
        job: what is to be done.
        engine: what the work runs on; not called without pending cases.
        reporter: told of every case as it ends.
        again: what of an earlier call's work is looked at again.
    """
    job.store.sweep()
    record = update_run(job.store, {"expected": job.discovery.discovered, "state": "running"})
    before = read_ledger(job.store, job.run_id, verify=again.verify)
    before = without_stale(before, job.discovery, job.watched, job.store)
    pending = _pending(job, before, again)
    _withdraw_void(job, before, pending)
    already_done = sum(case.case_id in before.commits for case in job.discovery.cases)
    unusable = [failed for failed in job.discovery.failures if failed.case_id not in before.commits]
    reporter = Several(reporter, CaseCounter(job.run_id))
    reporter.start(len(pending) + len(unusable), already_done, job.what, job.run_id)
    for failed in unusable:
        write_failure(job.store, failed)
        reporter.case_ended(failed.case_id, failed.failure)
    stop = Stop(job.config.grace_s)
    suspicion = Suspicion(job.store)
    if pending:
        _work(job, pending, engine, reporter, stop, suspicion)
    after = _after(job, before, [*pending, *unusable])
    suspicion.acquit(after.case_ids)
    ledger = _of_this_cohort(job, after)
    facts = f"{ledger.sha256}, schema {SCHEMA_VERSION}"
    if record.get("tables_of") != facts or not tables_are_there(job.store):
        write_tables(job.store, ledger, job.penalties)
    summary = _summarise(job, ledger, already_done, stop.reason)
    _record_end(job, summary, facts)
    return summary


def _work(
    job: Job, pending: Sequence[Case], engine: Engine, reporter: Reporter, stop: Stop, suspicion: Suspicion
) -> None:
    """Bring every pending case to its end, unless the run is stopped before."""
    rule = StopRule(stop, job.config.max_failure_rate)

    def case_ended(case_id: str, failure: Failure | None) -> None:
        reporter.case_ended(case_id, failure)
        rule.case_ended(failure)

    with engine(stop) as stream:
        lost = run_passes(
            lambda cases, care: counted(stream(cases, care), job.run_id),
            pending,
            job.config.attempts,
            suspicion,
            stop,
            case_ended,
        )
        _end_lost_cases(job, lost, suspicion, reporter)


def _end_lost_cases(job: Job, lost: Sequence[Case], suspicion: Suspicion, reporter: Reporter) -> None:
    """End cases that lost too many workers, unless they were committed and only the news of it was lost."""
    committed = read_outcomes(job.store, job.run_id, [case.case_id for case in lost]).commits
    for case in lost:
        failure = None
        if case.case_id not in committed:
            failure = suspicion.failure(case.case_id)
            write_failure(job.store, FailedCase(case.case_id, failure, case.site, case.cohort))
        reporter.case_ended(case.case_id, failure)


def _pending(job: Job, before: Ledger, again: Again) -> list[Case]:
    """Cases to do now. Failures of earlier calls stay, unless discovery found them or they are to be retried."""
    pending = []
    for case in job.cases:
        failed = before.failures.get(case.case_id)
        if failed is not None:
            failure = failed.failure
            if failure.category not in again.retry and failure.stage != "discover":
                continue
            job.store.delete(error_key(case.case_id))
        if case.case_id not in before.commits:
            pending.append(case)
    return pending


def _withdraw_void(job: Job, before: Ledger, pending: Sequence[Case]) -> None:
    """Clear the way for the commits to come; exclusive creation would give way to what counts for nothing."""
    for case in pending:
        sha256 = before.void.get(commit_key(case.case_id))
        if sha256 is not None:
            with of_case(case.case_id):
                _LOGGER.warning("its commit or its outputs are damaged or of another run; done again")
            withdraw(job.store, case.case_id, sha256)


def _after(job: Job, before: Ledger, worked_on: Sequence[Case | FailedCase]) -> Ledger:
    """The ledger as it is now: what it was before, and what became of the cases worked on."""
    case_ids = [case.case_id for case in worked_on]
    now = read_outcomes(job.store, job.run_id, case_ids)
    untouched = {case_id: failed for case_id, failed in before.failures.items() if case_id not in set(case_ids)}
    return Ledger(job.run_id, {**before.commits, **now.commits}, {**untouched, **now.failures})


def _of_this_cohort(job: Job, ledger: Ledger) -> Ledger:
    """Only the cases of the cohort as it is now, with the site and cohort that it names now."""
    places = {case.case_id: (case.site, case.cohort) for case in job.discovery.cases}
    places |= {failed.case_id: (failed.site, failed.cohort) for failed in job.discovery.failures}

    def placed(records: Mapping[str, Record]) -> dict[str, Record]:
        return {
            case_id: replace(record, site=places[case_id][0], cohort=places[case_id][1])
            for case_id, record in records.items()
            if case_id in places
        }

    return Ledger(ledger.run_id, placed(ledger.commits), placed(ledger.failures))


def _summarise(job: Job, ledger: Ledger, already_done: int, stopped: str) -> RunSummary:
    not_reached = job.discovery.cases if stopped else job.discovery.cases[len(job.cases) :]
    ended = ledger.commits.keys() | ledger.failures.keys()
    failures = tuple(sorted(ledger.failures.values(), key=lambda failed: failed.case_id))
    evaluations = read_table(job.store, "cases", ("status", "evaluation")).to_pylist()
    return RunSummary(
        run_id=job.run_id,
        out=job.store.root,
        discovered=job.discovery.discovered,
        ok=len(ledger.commits),
        failed=len(failures),
        skipped=sum(case.case_id not in ended for case in not_reached),
        already_done=already_done,
        failures=failures,
        warnings=(*job.discovery.warnings, *job.warnings(ledger)),
        elapsed_s=time.monotonic() - job.started,
        scores=tuple(mean_scores(read_table(job.store, "regions", COLUMNS))),
        unscored=sum(row["status"] == "ok" and row["evaluation"] not in (None, "ok") for row in evaluations),
        stopped=stopped,
        ledger=ledger,
    )


def _record_end(job: Job, summary: RunSummary, facts: str) -> None:
    end = {
        "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "elapsed_s": round(summary.elapsed_s, 1),
        "state": summary.stopped or "finished",
        "tables_of": facts,
    }
    timings = read_table(job.store, "timings", COSTS_OF)
    document = update_run(job.store, {"counts": summary.counts, "costs": Costs.of(timings).to_dict(), **end})
    write_run_table(job.store, run_row(document, timings))
