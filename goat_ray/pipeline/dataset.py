"""The Ray Data pipeline itself: stages wired to resources, and passes over it until no case is missing."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from goat_ray.cases import Case
from goat_ray.errors import Failure, GoatRayError
from goat_ray.pipeline.cluster import COMMIT_CPUS, EVALUATE_CPUS, Placement
from goat_ray.pipeline.rows import Row, decode_failure, reference_row
from goat_ray.pipeline.stages import CommitCase, Evaluate, Finish, Predict, PredictSettings, Read

# Ray must not retry on its own: by default it retries a case that kills its worker for ever. Lost cases
# are tried again in the next pass, where attempts are counted. Actors themselves are always replaced.
_TASK: Any = {"max_retries": 0}
_ACTOR: Any = {"max_restarts": -1, "max_task_retries": 0}


@dataclass(frozen=True, slots=True)
class Care:
    """How much a pass risks: a careful one queues no case behind another, a lonely one takes one case at a time."""

    careful: bool = False
    alone: bool = False

    def slots(self, wanted: int) -> int:
        """How many cases may be in work at a time, of the number wanted."""
        return 1 if self.alone else wanted


Build = Callable[[Sequence[Case], Care], Dataset]


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of a prediction, configured."""

    read: Read
    predict: PredictSettings
    finish: Finish
    root: str
    run_id: str
    worker: type[Predict] = Predict


def build_prediction(stages: Stages, cases: Sequence[Case], placement: Placement, care: Care) -> Dataset:
    """The lazy prediction pipeline over `cases`: one case a row, one row a block."""
    room = replace(placement, workers=1, read_slots=1) if care.alone else placement
    with _quiet_warnings():
        return _committed(
            _references(cases)
            .map(
                _named("read_case", stages.read),
                num_cpus=room.read_cpus,
                compute=TaskPoolStrategy(size=min(room.read_slots, len(cases))),
                **_TASK,
            )
            .map(
                _actor(stages.worker),
                fn_constructor_args=(stages.predict,),
                num_cpus=room.predict_cpus,
                num_gpus=room.predict_gpus or None,
                # A second case queued on a worker dies with the one before it.
                compute=ActorPoolStrategy(size=room.workers, max_tasks_in_flight_per_actor=1 if care.careful else 2),
                **_ACTOR,
            )
            .map(_named("finish_case", stages.finish), num_cpus=room.finish_cpus, **_TASK),
            stages.root,
            stages.run_id,
            room.commit_cpus,
        )


def build_evaluation(stage: Evaluate, root: str, run_id: str, cases: Sequence[Case], slots: int) -> Dataset:
    """The lazy scoring pipeline over `cases`, at most `slots` of them in work at a time."""
    with _quiet_warnings():
        return _committed(
            _references(cases).map(
                _named("evaluate_case", stage),
                num_cpus=EVALUATE_CPUS,
                compute=TaskPoolStrategy(size=min(slots, len(cases))),
                **_TASK,
            ),
            root,
            run_id,
            COMMIT_CPUS,
        )


def _references(cases: Sequence[Case]) -> Dataset:
    rows = pa.Table.from_pylist([reference_row(case) for case in cases])
    return ray.data.from_arrow(rows).repartition(target_num_rows_per_block=1)


def _committed(dataset: Dataset, root: str, run_id: str, cpus: float) -> Dataset:
    return dataset.map(
        _actor(CommitCase),
        fn_constructor_args=(root, run_id),
        num_cpus=cpus,
        compute=ActorPoolStrategy(size=1),
        **_ACTOR,
    )


def run_passes(
    build: Build, cases: Sequence[Case], attempts: int, case_ended: Callable[[str, Failure | None], None]
) -> list[Case]:
    """Run passes over the cases that have not ended yet; returns those that never did.

    The second pass queues no case behind another; the last one takes one case at a time, so that what is lost
    in it was lost alone.

    Args:
        build: makes the pipeline over some cases.
        cases: what to do.
        attempts: number of passes.
        case_ended: told of every case as it ends.

    Raises:
        GoatRayError: a stage met something that is no case's fault, or Ray itself failed.
    """
    _quiet()
    missing = list(cases)
    for attempt in range(attempts):
        if attempt:
            logging.getLogger(__name__).warning("%d case(s) lost their worker; trying them again", len(missing))
        ended = set()
        care = Care(careful=attempt > 0, alone=0 < attempt == attempts - 1)
        for row in _stream(build(missing, care)):
            if row["fatal"]:
                raise GoatRayError(f"unexpected error in {row['fatal']}")
            ended.add(row["case_id"])
            case_ended(row["case_id"], decode_failure(row["error"]) if row["error"] else None)
        missing = [case for case in missing if case.case_id not in ended]
        if not missing:
            break
    return missing


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # Ray 2.60 has no other way to bound retries; the version is pinned.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield


def _stream(dataset: Dataset) -> Iterator[Row]:
    context = dataset.context
    context.print_on_execution_start = False
    # A block that dies with its worker is not the end of the run: the next pass tries its case again.
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = 5
    # A case may take hours on a small machine, and a cluster may take as long to grow.
    context.execution_no_progress_timeout_s = -1
    try:
        yield from dataset.iter_rows()
    except (RayError, SystemException, ExecutionTimeoutError) as error:
        raise GoatRayError(f"the Ray pipeline failed: {error}") from error


def _named(name: str, stage: Callable[[Row], Row]) -> Callable[[Row], Row]:
    def call(row: Row) -> Row:
        return stage(row)

    call.__name__ = call.__qualname__ = name
    return call


def _actor(stage: type) -> Any:  # noqa: ANN401 - Ray takes a class here, which its annotations deny
    return stage


def _quiet() -> None:
    """Keep Ray Data's own messages off the terminal; they stay in the session's log folder."""
    DataContext.get_current().enable_progress_bars = False
    # Said of a last pass in which a case died again; there is nothing to configure.
    warnings.filterwarnings("ignore", "The m(in|ax)imum number of concurrent", UserWarning)
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
