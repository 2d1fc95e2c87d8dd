"""Runs without Ray: the same stages, one case after the other in this process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from goat_ray.cases import Case
from goat_ray.config import EvaluateConfig, RunConfig
from goat_ray.metrics.specs import find_policy
from goat_ray.pipeline import evaluate, inspection, predict, pseudolabel
from goat_ray.pipeline.job import NOTHING_AGAIN, Again, Engine, RunSummary, carry_out
from goat_ray.pipeline.passes import Care, Stream
from goat_ray.pipeline.progress import Reporter, Silent
from goat_ray.pipeline.rows import Row, reference_row
from goat_ray.pipeline.stages import CommitCase, Predict, Shard
from goat_ray.pipeline.stopping import Stop
from goat_ray.pseudolabel.config import PseudoLabelConfig

Stage = Callable[[Row], Row]


def engine_of(make_stages: Callable[[], Sequence[Stage]]) -> Engine:
    """An engine that takes each case through all stages before the next; no case is started once a stop is asked."""

    @contextmanager
    def engine(stop: Stop) -> Iterator[Stream]:
        stages = make_stages()

        def stream(cases: Sequence[Case], _care: Care) -> Iterator[Row]:
            for case in cases:
                if stop.asked:
                    return
                row = reference_row(case)
                for stage in stages:
                    row = stage(row)
                yield row

        yield stream

    return engine


def predict_inline(
    config: RunConfig, again: Again = NOTHING_AGAIN, *, overwrite: bool = False, worker: type[Predict] = Predict
) -> RunSummary:
    """`predict_cohort` without Ray; members go together as `config.pools` says."""
    prediction = predict.prepare(config, overwrite=overwrite)
    return carry_out(prediction.job, _prediction_engine(prediction, worker), Silent(), again)


def _prediction_engine(prediction: predict.Prediction, worker: type[Predict]) -> Engine:
    stages = predict.stages_of(prediction, "cpu", 1, worker)
    pools = [pool.members for pool in prediction.config.pools] or [None]
    shards = [Shard(held, held == pools[0], held == pools[-1]) for held in pools]

    def make() -> Sequence[Stage]:
        workers = [worker(replace(stages.predict, shard=shard)) for shard in shards]
        return stages.read, *workers, stages.finish, CommitCase(stages.surroundings, stages.run_id)

    return engine_of(make)


def evaluate_inline(config: EvaluateConfig, again: Again = NOTHING_AGAIN, *, overwrite: bool = False) -> RunSummary:
    """`evaluate_cohort` without Ray; exports are left out."""
    policy = find_policy(config.spec)
    job = evaluate.prepare(config, policy, overwrite=overwrite)
    stage = evaluate.stage_of(config, policy, job)
    return carry_out(job, engine_of(lambda: (stage, CommitCase(stage.surroundings, job.run_id))), Silent(), again)


def pseudo_label_inline(
    config: PseudoLabelConfig,
    again: Again = NOTHING_AGAIN,
    *,
    overwrite: bool = False,
    worker: type[Predict] = Predict,
    reporter: Reporter | None = None,
) -> pseudolabel.PseudoLabelSummary:
    """`pseudo_label_cohort` without Ray."""
    work = pseudolabel.prepare(config, overwrite=overwrite)
    stage, job = inspection.stage_of(work.inspection), work.inspection
    inspecting = engine_of(lambda: (stage, CommitCase(stage.surroundings, job.run_id)))
    engines = inspecting, _prediction_engine(work.prediction, worker)
    return pseudolabel.carry_out_both(work, engines, reporter or Silent(), again)
