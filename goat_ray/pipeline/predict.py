"""The main job: a cohort goes in; labels, commits and tables come out."""

import platform
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TypeVar

from goat_ray.cases import Case, Discovery, FailedCase, discover
from goat_ray.commits import (
    RUN_KEY,
    Commit,
    Ledger,
    commit_key,
    encode_json,
    error_key,
    open_run,
    read_ledger,
    read_run,
    write_failure,
)
from goat_ray.config import RunConfig
from goat_ray.errors import ConfigError, GoatRayError, StorageError
from goat_ray.members.ensemble import Ensemble, check_members, load_ensemble, load_network
from goat_ray.members.plans import Preprocessing
from goat_ray.pipeline.cluster import Placement, place_on_this_cluster, ray_session
from goat_ray.pipeline.dataset import Stages, run_passes
from goat_ray.pipeline.progress import Reporter, Silent
from goat_ray.pipeline.stages import Finish, Predict, PredictSettings, Read, worker_lost
from goat_ray.storage import RunStore, absolute
from goat_ray.tables import build_tables, encode_table, table_key

Record = TypeVar("Record", Commit, FailedCase)


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

    def __post_init__(self) -> None:
        if self.discovered != self.ok + self.failed + self.skipped:
            raise GoatRayError(
                f"cases were lost: {self.discovered} discovered, but {self.ok} ok + {self.failed} failed + "
                f"{self.skipped} skipped; {self.out} is intact, run the same command again"
            )


@dataclass(frozen=True, slots=True)
class Job:
    """A run that passed every check and is ready to start."""

    config: RunConfig
    ensemble: Ensemble
    discovery: Discovery
    store: RunStore
    run_id: str


def predict_cohort(
    config: RunConfig, reporter: Reporter | None = None, *, overwrite: bool = False, retry_failed: bool = False
) -> RunSummary:
    """Segment a cohort into a run folder, or finish a run that was begun there.

    Args:
        config: what to do; see `RunConfig`.
        reporter: told of every case as it ends.
        overwrite: discard the run that is in the folder.
        retry_failed: try the cases again that an earlier call recorded as failed.

    Raises:
        ConfigError: nothing can be run as configured; raised before any work.
        EnsembleError: a member cannot be used; raised before any work.
        GoatRayError: the run itself broke. What was committed stays; the same call goes on from there.
    """
    reporter = reporter or Silent()
    started = time.monotonic()
    job = prepare(config, overwrite=overwrite)
    before = _withdraw_stale(job, read_ledger(job.store, job.run_id))
    pending = _pending(job, before, retry_failed)
    already_done = sum(case.case_id in before.commits for case in job.discovery.cases)
    unusable = [failed for failed in job.discovery.failures if failed.case_id not in before.commits]
    reporter.start(len(pending) + len(unusable), already_done)
    for failed in unusable:
        write_failure(job.store, failed)
        reporter.case_ended(failed.case_id, failed.failure)
    if pending:
        with ray_session(config.address):
            _process(job, pending, reporter)
    ledger = _of_this_cohort(job, read_ledger(job.store, job.run_id))
    for name, table in build_tables(ledger).items():
        job.store.write(table_key(name), encode_table(table))
    summary = _summarise(job, ledger, already_done, time.monotonic() - started)
    _record_end(job.store, summary)
    return summary


def prepare(config: RunConfig, *, overwrite: bool = False) -> Job:
    """Every check that needs no image data: ensemble, cohort, run folder; writes `run.json`.

    Raises:
        ConfigError: empty or missing cohort, a run folder with other settings, or storage out of reach.
        EnsembleError: unknown member, missing or altered weights, or weights of the wrong shapes.
    """
    try:
        return _checked(config, overwrite)
    except StorageError as error:
        raise ConfigError(str(error)) from error


def _checked(config: RunConfig, overwrite: bool) -> Job:
    ensemble = load_ensemble(config.ensemble, config.members)
    check_members(ensemble)
    for member in ensemble.members:
        load_network(member)  # strict, and next to free: weights of the wrong shapes must not cost a start-up
    discovery = discover(
        config.cohort,
        suffixes=config.suffixes,
        channels=config.channels,
        sites=config.sites,
    )
    if not discovery.discovered:
        raise ConfigError(f"{config.cohort}: no case was found")
    store = RunStore(absolute(config.out))
    about = {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config.model_dump(mode="json"),
        "versions": _versions(),
        "ensemble": {
            "name": ensemble.name,
            "sha256": ensemble.sha256,
            "members": {member.code: member.sha256 for member in ensemble.members},
        },
    }
    run_id = open_run(store, config.fingerprint(ensemble.sha256), about, overwrite)
    return Job(config, ensemble, discovery, store, run_id)


def _pending(job: Job, before: Ledger, retry_failed: bool) -> list[Case]:
    """Cases to do now. Failures of earlier calls stay, unless discovery found them or they are to be retried."""
    pending = []
    for case in _within_limit(job):
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
    now = {case.case_id: _file_names(case) for case in job.discovery.cases}
    stale = {
        case_id
        for case_id, commit in ledger.commits.items()
        if case_id in now and now[case_id] != {modality: file["name"] for modality, file in commit.inputs.items()}
    }
    for case_id in stale:
        job.store.delete(commit_key(case_id))
    kept = {case_id: commit for case_id, commit in ledger.commits.items() if case_id not in stale}
    return replace(ledger, commits=kept)


def _file_names(case: Case) -> dict[str, str]:
    return {modality: uri.rpartition("/")[2] for modality, uri in case.images.items()}


def _within_limit(job: Job) -> tuple[Case, ...]:
    return job.discovery.cases[: job.config.limit]


def _process(job: Job, pending: list[Case], reporter: Reporter) -> None:
    config = job.config
    placement = place_on_this_cluster(config.device, config.workers, config.threads)
    stages = stages_of(job, placement)
    lost = run_passes(stages, pending, placement, config.attempts, reporter.case_ended)
    committed = read_ledger(job.store, job.run_id).commits if lost else {}
    for case in lost:
        if case.case_id in committed:  # only the news of it was lost
            reporter.case_ended(case.case_id, None)
            continue
        failure = worker_lost(config.attempts)
        write_failure(job.store, FailedCase(case.case_id, failure, case.site, case.cohort))
        reporter.case_ended(case.case_id, failure)


def stages_of(job: Job, placement: Placement, worker: type[Predict] = Predict) -> Stages:
    """The stages of a job, with `worker` holding the members."""
    config = job.config
    preprocessings = _preprocessings(job.ensemble)
    settings = PredictSettings(
        ensemble=absolute(config.ensemble),
        members=config.members,
        ensemble_sha256=job.ensemble.sha256,
        preprocessings=preprocessings,
        blending=config.blending,
        decode=config.decode,
        mirroring=config.mirroring,
        windows_per_batch=config.windows_per_batch,
        device=placement.device,
        threads=placement.threads,
    )
    return Stages(
        read=Read(preprocessings),
        predict=settings,
        finish=Finish(job.run_id, config.decode, config.postprocess),
        root=job.store.root,
        worker=worker,
    )


def _preprocessings(ensemble: Ensemble) -> tuple[Preprocessing, ...]:
    """Each distinct preprocessing once, in member order: members that agree share one volume."""
    return tuple(dict.fromkeys(member.preprocessing for member in ensemble.members))


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


def _summarise(job: Job, ledger: Ledger, already_done: int, elapsed_s: float) -> RunSummary:
    beyond_limit = job.discovery.cases[len(_within_limit(job)) :]
    skipped = sum(case.case_id not in ledger.commits | ledger.failures for case in beyond_limit)
    failures = tuple(sorted(ledger.failures.values(), key=lambda failed: failed.case_id))
    return RunSummary(
        run_id=job.run_id,
        out=job.store.root,
        discovered=job.discovery.discovered,
        ok=len(ledger.commits),
        failed=len(failures),
        skipped=skipped,
        already_done=already_done,
        failures=failures,
        warnings=job.discovery.warnings,
        elapsed_s=elapsed_s,
    )


def _record_end(store: RunStore, summary: RunSummary) -> None:
    counts = {name: getattr(summary, name) for name in ("discovered", "ok", "failed", "skipped", "already_done")}
    end = {
        "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "elapsed_s": round(summary.elapsed_s, 1),
    }
    store.write(RUN_KEY, encode_json({**read_run(store), "counts": counts, **end}))


def _versions() -> dict[str, str]:
    packages = ("goat-ray", "torch", "numpy", "ray", "connected-components-3d", "nibabel", "pyarrow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
