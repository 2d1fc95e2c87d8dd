"""The Ray Data pipeline itself: stages wired to resources, and the rows that come out of it."""

import logging
import os
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
from goat_ray.errors import GoatRayError
from goat_ray.pipeline.checks import Evaluate, Inspect
from goat_ray.pipeline.gate import Gate
from goat_ray.pipeline.memory import KEPT_MEMORY
from goat_ray.pipeline.passes import Care
from goat_ray.pipeline.placement import CHECK_CPUS, Placement, Pool
from goat_ray.pipeline.rows import NOT_STARTED, Row, reference_row
from goat_ray.pipeline.stages import CommitCase, Finish, Predict, PredictSettings, Read, Shard
from goat_ray.pipeline.watchdog import Surroundings

# Ray must not retry on its own: by default it retries a case that kills its worker for ever. Lost cases
# are tried again in the next pass, where attempts are counted. Actors themselves are always replaced.
_TASK: Any = {"max_retries": 0}
_ACTOR: Any = {"max_restarts": -1, "max_task_retries": 0}


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of a prediction, configured."""

    read: Read
    predict: PredictSettings
    finish: Finish
    surroundings: Surroundings
    run_id: str
    worker: type[Predict] = Predict


def build_prediction(stages: Stages, cases: Sequence[Case], placement: Placement, care: Care, gate: Gate) -> Dataset:
    """The lazy prediction pipeline over `cases`: one case a row, one row a block."""
    room = placement.alone() if care.alone else placement
    with _quiet_warnings():
        read = _references(cases).map(
            _gated("read_case", stages.read, gate),
            num_cpus=room.read_cpus,
            compute=TaskPoolStrategy(size=min(room.read_slots, len(cases))),
            **_environment(),
            **_TASK,
        )
        predicted = _predicted(read, stages, room.pools, care, gate)
        finish = _committed("finish_case", stages.finish, stages.surroundings, stages.run_id)
        return predicted.map(finish, num_cpus=room.finish_cpus, **_environment(), **_TASK)


def _predicted(dataset: Dataset, stages: Stages, pools: Sequence[Pool], care: Care, gate: Gate) -> Dataset:
    """The cases on their way through every pool of members."""
    for place, pool in enumerate(pools):
        shard = Shard(pool.members, first=place == 0, last=place == len(pools) - 1)
        where: Any = {"accelerator_type": pool.gpu_type} if pool.gpu_type else {}
        dataset = dataset.map(
            _actor(stages.worker, gate),
            fn_constructor_args=(replace(stages.predict, shard=shard),),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            # Of a fixed size: workers that wait for a GPU make an autoscaler bring one, a pool that may grow does not
            # (ray#59144). And a second case queued on a worker dies with the one before it.
            compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=1 if care.careful else 2),
            **where,
            **_environment(pool.python),
            **_ACTOR,
        )
    return dataset


def build_check(stage: Evaluate | Inspect, run_id: str, cases: Sequence[Case], slots: int, gate: Gate) -> Dataset:
    """The lazy pipeline of a stage that only looks at `cases`, at most `slots` of them in work at a time."""
    name = f"{type(stage).__name__.lower()}_case"
    with _quiet_warnings():
        return _references(cases).map(
            _gated(name, _committed(name, stage, stage.surroundings, run_id), gate),
            num_cpus=CHECK_CPUS,
            compute=TaskPoolStrategy(size=min(slots, len(cases))),
            **_environment(),
            **_TASK,
        )


def _environment(python: str | None = None) -> dict[str, Any]:
    """What a stage's workers are started in."""
    environment: dict[str, Any] = {"py_executable": python} if python else {}
    # Those of an embedded Ray inherit it, and so are there before they are asked for.
    if not KEPT_MEMORY.items() <= os.environ.items():
        environment["env_vars"] = KEPT_MEMORY
    return {"runtime_env": environment} if environment else {}


def _references(cases: Sequence[Case]) -> Dataset:
    _quiet()
    rows = pa.Table.from_pylist([reference_row(case) for case in cases])
    return ray.data.from_arrow(rows).repartition(target_num_rows_per_block=1)


def _committed(name: str, stage: Callable[[Row], Row], surroundings: Surroundings, run_id: str) -> Callable[[Row], Row]:
    """A last stage and the commit of what it makes, in one task: what nobody else needs never leaves its worker."""
    commit = CommitCase(surroundings, run_id)
    return _named(name, lambda row: commit(stage(row)))


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # Ray 2.60 has no other way to bound retries; the version is pinned.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield


def rows_of(dataset: Dataset, gate: Gate) -> Iterator[Row]:
    """Run a pipeline built with `gate`; its rows, in the order they are ready.

    Raises:
        GoatRayError: Ray itself failed.
    """
    # Said of a last pass in which a case died again; there is nothing to configure.
    warnings.filterwarnings("ignore", "The m(in|ax)imum number of concurrent", UserWarning)
    context = dataset.context
    context.print_on_execution_start = False
    # A block that dies with its worker is not the end of the run: the next pass tries its case again.
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = 5
    # A case may take hours on a small machine, and a cluster may take as long to grow.
    context.execution_no_progress_timeout_s = -1
    try:
        # Not `iter_rows`: it holds each row back until the next one is there.
        batches: Any = dataset.iter_batches(prefetch_batches=0, batch_size=None, batch_format="pyarrow")
        for batch in batches:
            yield from batch.to_pylist()
            _forget_statistics(dataset)
    except (RayError, SystemException, ExecutionTimeoutError) as error:
        raise GoatRayError(f"the Ray pipeline failed: {error}") from error
    finally:
        gate.dismiss()


def _forget_statistics(dataset: Dataset) -> None:
    """Drop what Ray Data keeps of every block that was made, kilobytes a case; nobody asks for its statistics."""
    executor: Any = dataset._current_executor  # Ray 2.60 cannot be told to keep none; the version is pinned
    for operator in (executor and executor._topology) or ():
        getattr(operator, "_output_blocks_stats", []).clear()


def _gated(name: str, stage: Callable[[Row], Row], gate: Gate) -> Callable[[Row], Row]:
    """A first stage that touches no case once the gate is closed."""

    def call(row: Row) -> Row:
        return stage(row if gate.admits(row["case_id"]) else {**row, "fatal": NOT_STARTED})

    return _named(name, call)


def _named(name: str, stage: Callable[[Row], Row]) -> Callable[[Row], Row]:
    def call(row: Row) -> Row:
        return stage(row)

    call.__name__ = call.__qualname__ = name
    return call


def _actor(stage: Any, gate: Gate) -> Any:  # noqa: ANN401 - Ray takes a class here, which its annotations deny
    """A stage that Ray holds in an actor until the pass ends."""

    def start(self: object, *args: object) -> None:
        gate.register()
        stage.__init__(self, *args)

    return type(stage.__name__, (stage,), {"__init__": start, "__doc__": stage.__doc__})


def _quiet() -> None:
    """Keep what Ray Data says of the datasets to come off the terminal; it stays in the session's log folder."""
    DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The traceback of every lost worker; passes tell of lost cases in a line.
    logging.getLogger("ray.data._internal.execution.streaming_executor_state").setLevel(logging.CRITICAL)
