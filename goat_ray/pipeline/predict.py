"""The main job: a cohort goes in; labels, commits and tables come out."""

import logging
from dataclasses import dataclass
from math import prod

from goat_ray.cases import NO_CASES, Case, Discovery
from goat_ray.config import RunConfig
from goat_ray.errors import ConfigError, StorageError
from goat_ray.filesystems import use_s3
from goat_ray.labels import MODALITIES
from goat_ray.ledger import Ledger
from goat_ray.members.ensemble import Ensemble, check_members, load_ensemble, load_network
from goat_ray.members.plans import Preprocessing
from goat_ray.metrics.specs import Policy
from goat_ray.pipeline.cluster import this_cluster
from goat_ray.pipeline.cutting import Need
from goat_ray.pipeline.dataset import Stages, build_prediction
from goat_ray.pipeline.engine import Build, ray_engine, surroundings_of
from goat_ray.pipeline.gate import Gate
from goat_ray.pipeline.job import NOTHING_AGAIN, Again, Engine, Job, RunSummary, carry_out
from goat_ray.pipeline.placement import Placement, Wishes, plan_placement
from goat_ray.pipeline.progress import Reporter, Silent
from goat_ray.pipeline.provenance import about_run
from goat_ray.pipeline.stages import Finish, Predict, PredictSettings, Read
from goat_ray.preflight import find_cases, policy_of
from goat_ray.runs import open_run
from goat_ray.storage import RunStore, absolute

_LOGGER = logging.getLogger(__name__)

_LARGEST_CROP = (155, 240, 240)
"""Of BraTS's grid at 1 mm: what memory is planned for. A larger case finds room by smaller batches, or on the host."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction that passed every check and is ready to start."""

    config: RunConfig
    ensemble: Ensemble
    policy: Policy | None
    job: Job
    left_out: tuple[Case, ...] = ()  # of the cohort, because they have a label map already


def predict_cohort(
    config: RunConfig, reporter: Reporter | None = None, *, overwrite: bool = False, again: Again = NOTHING_AGAIN
) -> RunSummary:
    """Segment a cohort into a run folder, or finish a run that was begun there.

    Args:
        config: what to do; see `RunConfig`.
        reporter: told of every case as it ends.
        overwrite: discard the run that is in the folder.
        again: what of an earlier call's work is looked at again.

    Raises:
        ConfigError: nothing can be run as configured; raised before any work.
        EnsembleError: a member cannot be used; raised before any work.
        GoatRayError: the run itself broke. What was committed stays; the same call goes on from there.
    """
    prediction = prepare(config, overwrite=overwrite)
    return carry_out(prediction.job, engine_of(prediction), reporter or Silent(), again)


def engine_of(prediction: Prediction) -> Engine:
    """What a prediction runs on: Ray, its processors divided between the stages."""
    config = prediction.config

    def plan(gate: Gate) -> Build:
        placement = place_members(config, prediction.ensemble)
        _LOGGER.info("%s", placement.explain())
        stages = stages_of(prediction, placement.device, placement.threads)
        return lambda cases, care: build_prediction(stages, cases, placement, care, gate)

    return ray_engine(config.address, plan)


def place_members(config: RunConfig, ensemble: Ensemble) -> Placement:
    """Where the members go on the Ray that this process is connected to.

    Raises:
        ConfigError: nowhere; see `plan_placement`.
    """
    # Only here: it needs torch, which takes a while to import.
    from goat_ray.members.footprint import canvas_bytes

    wishes = Wishes(config.device, config.workers, config.threads, config.placement, config.pools)
    cluster = this_cluster(with_gpus=config.device != "cpu")
    is_divided = config.pools or config.placement == "shard" or (config.device != "cpu" and cluster.gpus_at_most)
    needs = _needs(config, ensemble) if is_divided else [Need(member.code) for member in ensemble.members]
    placement = plan_placement(cluster, needs, canvas_bytes(_LARGEST_CROP), wishes)
    if placement.device == "cpu" and config.precision == "float16":
        raise ConfigError("precision float16 needs a GPU; on CPUs the fast one is bfloat16")
    if placement.device != "cpu" and config.compiled:
        raise ConfigError("compiled networks are for CPUs; on a GPU use --precision float16, which has graphs")
    return placement


def _needs(config: RunConfig, ensemble: Ensemble) -> list[Need]:
    """What each member takes of a device, which is seconds of work to find out."""
    from goat_ray.members.footprint import footprint

    taken = [footprint(member) for member in ensemble.members]
    windows = config.windows_per_batch if config.precision == "float32" else config.windows_per_batch / 2
    return [
        Need(
            member.code,
            its.weights_bytes,
            int(its.activation_bytes * windows),
            its.flops / prod(member.patch_size),
        )
        for member, its in zip(ensemble.members, taken, strict=True)
    ]


def prepare(
    config: RunConfig, *, overwrite: bool = False, kind: str = "predict", labelled: Discovery = NO_CASES
) -> Prediction:
    """Every check that needs no image data: ensemble, cohort, run folder; writes `run.json`.

    Args:
        config: what to do.
        overwrite: discard the run that is in the folder.
        kind: what `run.json` calls the run.
        labelled: cases that have a label map already and are not to be predicted.

    Raises:
        ConfigError: empty or missing cohort, a run folder with other settings, or storage out of reach.
        EnsembleError: unknown member, missing or altered weights, or weights of the wrong shapes.
    """
    try:
        return _checked(config, overwrite, kind, labelled)
    except StorageError as error:
        raise ConfigError(str(error)) from error


def _checked(config: RunConfig, overwrite: bool, kind: str, labelled: Discovery) -> Prediction:
    use_s3(config.s3)
    policy = policy_of(config)
    ensemble = load_ensemble(config.ensemble, config.members)
    check_members(ensemble)
    for member in ensemble.members:
        load_network(member)  # strict, and next to free: weights of the wrong shapes must not cost a start-up
    found = find_cases(config, elsewhere=labelled.case_ids)
    discovery = found.without(labelled.case_ids)
    if not discovery.discovered:
        raise ConfigError(f"{config.cohort}: no case was found{' that has no label map yet' * bool(labelled.case_ids)}")
    store = RunStore(absolute(config.out))
    about = {
        **about_run(kind, config.model_dump(mode="json"), discovery),
        "specs": [spec.model_dump(mode="json") for spec in policy.specs] if policy else [],
        "ensemble": {
            "name": ensemble.name,
            "sha256": ensemble.sha256,
            "members": {member.code: member.sha256 for member in ensemble.members},
        },
    }
    fingerprint = config.fingerprint(ensemble.sha256, policy.fingerprint() if policy else {})
    job = Job(
        discovery=discovery,
        store=store,
        run_id=open_run(store, fingerprint, about, overwrite),
        watched=MODALITIES,
        config=config,
        warnings=lambda ledger: _warnings(policy, discovery, ledger, config.out),
    )
    left_out = tuple(case for case in found.cases if case.case_id in labelled.case_ids)
    return Prediction(config, ensemble, policy, job, left_out)


def _warnings(policy: Policy | None, discovery: Discovery, ledger: Ledger, out: str) -> tuple[str, ...]:
    """What the scores need said, if there are any to be had."""
    references = {case.case_id: case.file_names["reference"] for case in discovery.cases if case.reference}
    if policy is None or not references:
        return ()
    told = [*policy.warnings(case.cohort for case in discovery.cases if case.reference)]
    late = [
        case_id
        for case_id, commit in ledger.commits.items()
        if case_id in references and commit.file_names.get("reference") != references[case_id]
    ]
    if late:
        told.append(
            f"{len(late)} case(s) were done before they had these references, and are not scored by them; "
            f"this scores them without predicting again: goat-ray evaluate {out} --references REFERENCES --out OTHER"
        )
    return tuple(told)


def stages_of(prediction: Prediction, device: str, threads: int, worker: type[Predict] = Predict) -> Stages:
    """The stages of a prediction on a device, with `worker` holding the members."""
    config = prediction.config
    preprocessings = _preprocessings(prediction.ensemble)
    surroundings = surroundings_of(prediction.job, device)
    settings = PredictSettings(
        ensemble=absolute(config.ensemble),
        members=config.members,
        ensemble_sha256=prediction.ensemble.sha256,
        preprocessings=preprocessings,
        blending=config.blending,
        decode=config.decode,
        mirroring=config.mirroring,
        precision=config.precision,
        compiled=config.compiled,
        windows_per_batch=config.windows_per_batch,
        save_probabilities=config.save_probabilities,
        device=device,
        threads=threads,
        surroundings=surroundings,
    )
    return Stages(
        read=Read(preprocessings, config.thumbnails, surroundings),
        predict=settings,
        finish=Finish(config.decode, config.postprocess, prediction.policy, surroundings),
        surroundings=surroundings,
        run_id=prediction.job.run_id,
        worker=worker,
    )


def _preprocessings(ensemble: Ensemble) -> tuple[Preprocessing, ...]:
    """Each distinct preprocessing once, in member order: members that agree share one volume."""
    return tuple(dict.fromkeys(member.preprocessing for member in ensemble.members))
