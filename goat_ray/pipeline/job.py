"""The life of a run, whatever it computes: what is pending, what became of it, its tables and its summary."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from goat_ray.cases import Case, Discovery, FailedCase
from goat_ray.commits import (
    RUN_KEY,
    Commit,
    Ledger,
    commit_key,
    encode_json,
    error_key,
    read_ledger,
    read_run,
    write_failure,
)
from goat_ray.errors import GoatRayError
from goat_ray.pipeline.cluster import ray_session
from goat_ray.pipeline.dataset import Build, run_passes
from goat_ray.pipeline.progress import Reporter
from goat_ray.pipeline.provenance import run_row
from goat_ray.pipeline.stages import worker_lost
from goat_ray.report.summary import COLUMNS, MeanScores, mean_scores
from goat_ray.storage import RunStore
from goat_ray.tables import Penalties, read_table, write_run_table, write_tables

Record = TypeVar("Record", Commit, FailedCase)
MakeBuild = Callable[[], Build]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run stands now. `discovered = ok + failed + skipped` always holds."""

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

    def __post_init__(self) -> None:
        if self.discovered != self.ok + self.failed + self.skipped:
            raise GoatRayError(
                f"cases were lost: {self.discovered} discovered, but {self.ok} ok + {self.failed} failed + "
                f"{self.skipped} skipped; {self.out} is intact, run the same command again"
            )


@dataclass(frozen=True, slots=True)
class Job:
    """A run that passed every check and is ready to start.

    Attributes:
        discovery: the cases as they are now.
        store: the run folder.
        run_id: of its fingerprint.
        watched: the files (by modality or role) that a case is done again for when they are others than before.
        attempts: how often a case may lose its worker before it is given up.
        address: Ray cluster to use.
        limit: only the first cases in id order.
        warnings: what else a user should know at the end.
        penalties: rows of `regions` that a failed case is given.
        started: when, for the time it took.
    """

    discovery: Discovery
    store: RunStore
    run_id: str
    watched: tuple[str, ...]
    attempts: int
    address: str | None = None
    limit: int | None = None
    warnings: Callable[[Ledger], tuple[str, ...]] = lambda ledger: ()
    penalties: Penalties = lambda failed: ()
    started: float = field(default_factory=time.monotonic)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases within the limit."""
        return self.discovery.cases[: self.limit]


def carry_out(job: Job, make_build: MakeBuild, reporter: Reporter, *, retry_failed: bool = False) -> RunSummary:
    """Do what is left of a job: every pending case ends as a commit or an error object; then tables.

    Args:
        job: what is to be done.
        make_build: gives, once Ray runs, what makes the pipeline over some cases; not called without pending cases.
        reporter: told of every case as it ends.
        retry_failed: try the cases again that an earlier call recorded as failed.
    """
    before = _withdraw_stale(job, read_ledger(job.store, job.run_id))
    pending = _pending(job, before, retry_failed)
    already_done = sum(case.case_id in before.commits for case in job.discovery.cases)
    unusable = [failed for failed in job.discovery.failures if failed.case_id not in before.commits]
    reporter.start(len(pending) + len(unusable), already_done)
    for failed in unusable:
        write_failure(job.store, failed)
        reporter.case_ended(failed.case_id, failed.failure)
    if pending:
        with ray_session(job.address):
            lost = run_passes(make_build(), pending, job.attempts, reporter.case_ended)
        _end_lost_cases(job, lost, reporter)
    ledger = _of_this_cohort(job, read_ledger(job.store, job.run_id))
    write_tables(job.store, ledger, job.penalties)
    summary = _summarise(job, ledger, already_done)
    _record_end(job, summary)
    return summary


def _end_lost_cases(job: Job, lost: Sequence[Case], reporter: Reporter) -> None:
    """End cases that no pass brought to an end, unless they were committed and only the news of it was lost."""
    committed = read_ledger(job.store, job.run_id).commits if lost else {}
    for case in lost:
        failure = None
        if case.case_id not in committed:
            failure = worker_lost(job.attempts)
            write_failure(job.store, FailedCase(case.case_id, failure, case.site, case.cohort))
        reporter.case_ended(case.case_id, failure)


def _pending(job: Job, before: Ledger, retry_failed: bool) -> list[Case]:
    """Cases to do now. Failures of earlier calls stay, unless discovery found them or they are to be retried."""
    pending = []
    for case in job.cases:
        failed = before.failures.get(case.case_id)
        if failed is not None and not retry_failed and failed.failure.stage != "discover":
            continue
        if failed is not None:
            job.store.delete(error_key(case.case_id))
        if case.case_id not in before.commits:
            pending.append(case)
    return pending


def _withdraw_stale(job: Job, ledger: Ledger) -> Ledger:
    """Forget commits that were made from other files than the case has now."""
    now = {case.case_id: case.file_names for case in job.discovery.cases}
    stale = {
        case_id
        for case_id, commit in ledger.commits.items()
        if case_id in now and any(now[case_id].get(role) != commit.file_names.get(role) for role in job.watched)
    }
    for case_id in stale:
        job.store.delete(commit_key(case_id))
    kept = {case_id: commit for case_id, commit in ledger.commits.items() if case_id not in stale}
    return replace(ledger, commits=kept)


def _of_this_cohort(job: Job, ledger: Ledger) -> Ledger:
    """Only the cases of the cohort as it is now, with the site and cohort that it names now."""
    places = {case.case_id: (case.site, case.cohort) for case in job.discovery.cases}
    places |= {failed.case_id: (failed.site, failed.cohort) for failed in job.discovery.failures}

    def placed(records: dict[str, Record]) -> dict[str, Record]:
        return {
            case_id: replace(record, site=places[case_id][0], cohort=places[case_id][1])
            for case_id, record in records.items()
            if case_id in places
        }

    return Ledger(ledger.run_id, placed(ledger.commits), placed(ledger.failures))


def _summarise(job: Job, ledger: Ledger, already_done: int) -> RunSummary:
    beyond_limit = job.discovery.cases[len(job.cases) :]
    skipped = sum(case.case_id not in ledger.commits | ledger.failures for case in beyond_limit)
    failures = tuple(sorted(ledger.failures.values(), key=lambda failed: failed.case_id))
    evaluations = read_table(job.store, "cases", ("status", "evaluation")).to_pylist()
    return RunSummary(
        run_id=job.run_id,
        out=job.store.root,
        discovered=job.discovery.discovered,
        ok=len(ledger.commits),
        failed=len(failures),
        skipped=skipped,
        already_done=already_done,
        failures=failures,
        warnings=(*job.discovery.warnings, *job.warnings(ledger)),
        elapsed_s=time.monotonic() - job.started,
        scores=tuple(mean_scores(read_table(job.store, "regions", COLUMNS))),
        unscored=sum(row["status"] == "ok" and row["evaluation"] not in (None, "ok") for row in evaluations),
    )


def _record_end(job: Job, summary: RunSummary) -> None:
    counts = {name: getattr(summary, name) for name in ("discovered", "ok", "failed", "skipped", "already_done")}
    end = {
        "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "elapsed_s": round(summary.elapsed_s, 1),
    }
    document = {**read_run(job.store), "counts": counts, **end}
    job.store.write(RUN_KEY, encode_json(document))
    write_run_table(job.store, run_row(document, read_table(job.store, "timings", ("cpu_seconds",))))
