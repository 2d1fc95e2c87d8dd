"""Ray as the engine of a job: from the session to the rows, for whatever pipeline a job builds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ray.data import Dataset

from goat_ray.cases import Case
from goat_ray.pipeline.checks import Evaluate, Inspect
from goat_ray.pipeline.cluster import check_slots, ray_session
from goat_ray.pipeline.dataset import build_check, rows_of
from goat_ray.pipeline.gate import Gate
from goat_ray.pipeline.job import Engine, Job
from goat_ray.pipeline.passes import Care, Stream
from goat_ray.pipeline.stopping import Stop
from goat_ray.pipeline.watchdog import Surroundings

Build = Callable[[Sequence[Case], Care], Dataset]

_CASE_TIMEOUT_S = {"cuda": 900.0, "cpu": 21600.0}
"""How long a stage may take over a case where the configuration does not say."""


def ray_engine(address: str | None, plan: Callable[[Gate], Build]) -> Engine:
    """The engine that runs pipelines on the Ray at `address`, or on the one that is at hand.

    Args:
        address: see `ray_session`.
        plan: called once Ray runs; gives what builds the pipeline over some cases, with the gate they pass.
    """

    @contextmanager
    def engine(stop: Stop) -> Iterator[Stream]:
        with ray_session(address), stop.on_signals():
            gate = Gate()
            build = plan(gate)
            yield lambda cases, care: stop.rows(rows_of(build(cases, care), gate), gate.close)

    return engine


def check_engine(job: Job, stage: Evaluate | Inspect) -> Engine:
    """The engine of a job whose stage only looks at cases."""

    def plan(gate: Gate) -> Build:
        slots = check_slots(job.config.workers)
        return lambda cases, care: build_check(stage, job.run_id, cases, care.slots(slots), gate)

    return ray_engine(job.config.address, plan)


def surroundings_of(job: Job, device: str = "cpu") -> Surroundings:
    """What every worker of a job knows of its run, on a device."""
    timeout_s = job.config.case_timeout_s or _CASE_TIMEOUT_S[device]
    return Surroundings(job.store.root, job.config.s3, timeout_s)
