"""Scoring of label maps that are there already: ours, a peer's or a challenge submission's."""

from typing import Any

from goat_ray.cases import PREDICTION, FailedCase, discover_pairs
from goat_ray.config import EvaluateConfig
from goat_ray.errors import CaseError, Category, ConfigError, StorageError
from goat_ray.filesystems import use_s3
from goat_ray.metrics.specs import Policy, Spec, find_policy
from goat_ray.pipeline.checks import Evaluate
from goat_ray.pipeline.engine import check_engine, surroundings_of
from goat_ray.pipeline.job import NOTHING_AGAIN, Again, Job, RunSummary, carry_out
from goat_ray.pipeline.progress import Reporter, Silent
from goat_ray.pipeline.provenance import about_run
from goat_ray.report.exports import export_files
from goat_ray.runs import open_run
from goat_ray.storage import RunStore, absolute
from goat_ray.tables import read_table


def evaluate_cohort(
    config: EvaluateConfig, reporter: Reporter | None = None, *, overwrite: bool = False, again: Again = NOTHING_AGAIN
) -> RunSummary:
    """Score label maps against their references into a run folder, or finish a run that was begun there.

    Args:
        config: what to do; see `EvaluateConfig`.
        reporter: told of every case as it ends.
        overwrite: discard the run that is in the folder.
        again: what of an earlier call's work is looked at again.

    Raises:
        ConfigError: nothing can be scored as configured; raised before any work.
        GoatRayError: the run itself broke. What was committed stays; the same call goes on from there.
    """
    policy = find_policy(config.spec)
    job = prepare(config, policy, overwrite=overwrite)
    engine = check_engine(job, stage_of(config, policy, job))
    summary = carry_out(job, engine, reporter or Silent(), again)
    if config.exports:
        _write_exports(job, summary)
    return summary


def prepare(config: EvaluateConfig, policy: Policy, *, overwrite: bool = False) -> Job:
    """Every check that needs no label map to be opened; writes `run.json`.

    Raises:
        ConfigError: no case in common, a run folder with other settings, or storage out of reach.
    """
    use_s3(config.s3)
    try:
        discovery = discover_pairs(config.labels, config.references, sites=config.sites)
        store = RunStore(absolute(config.out))
        about = {
            **about_run("evaluate", config.model_dump(mode="json"), discovery),
            "specs": [spec.model_dump(mode="json") for spec in policy.specs],
        }
        run_id = open_run(store, config.fingerprint(policy.fingerprint()), about, overwrite)
    except StorageError as error:
        raise ConfigError(str(error)) from error
    warnings = policy.warnings(case.cohort for case in discovery.cases)
    return Job(
        discovery=discovery,
        store=store,
        run_id=run_id,
        watched=(PREDICTION, "reference"),
        config=config,
        warnings=lambda _ledger: warnings,
        penalties=lambda failed: _penalties(failed, policy) if config.missing == "penalise" else (),
    )


def stage_of(config: EvaluateConfig, policy: Policy, job: Job) -> Evaluate:
    """The stage that scores a case."""
    return Evaluate(policy, config.official or config.exports, surroundings_of(job))


def _penalties(failed: FailedCase, policy: Policy) -> list[dict[str, Any]]:
    """Scores of a case without prediction, as the organisers give them: 0 everywhere and the largest distance."""
    if failed.failure.category != Category.MISSING_PREDICTION:
        return []
    try:
        spec = policy.spec_of(failed.cohort)
    except CaseError:
        return []
    return [
        {
            "region": region,
            "spec": spec.name,
            "region_labels": list(region_policy.labels),
            "official": region_policy.official,
            "penalised": True,
            "hd95_penalty_mm": spec.missing_penalty,
            "null_reason": str(failed.failure.category),
            **_worst(spec),
        }
        for region, region_policy in spec.regions.items()
    ]


def _worst(spec: Spec) -> dict[str, float]:
    if spec.matching == "one-to-one":
        return {"sq_dice": 0.0, "sq_nsd": 0.0, "sq_hd95_mm": spec.missing_penalty, "match_f1": 0.0}
    return {"lw_dice": 0.0, "lw_nsd_0_5": 0.0, "lw_nsd_1_0": 0.0, "lw_hd95_mm": spec.missing_penalty}


def _write_exports(job: Job, summary: RunSummary) -> None:
    rows = read_table(job.store, "regions").to_pylist()
    missing = [case.case_id for case in summary.failures if case.failure.category == Category.MISSING_PREDICTION]
    for key, data in export_files(rows, missing).items():
        job.store.write(key, data)
