"""Ray as the engine of a job: from the session to the rows, for whatever pipeline a job builds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ray.data import Dataset

from goat_ray.cases import Case
from goat_ray.pipeline.cluster import ray_session
from goat_ray.pipeline.dataset import rows_of
from goat_ray.pipeline.gate import Gate
from goat_ray.pipeline.job import Engine
from goat_ray.pipeline.passes import Care, Stream
from goat_ray.pipeline.stopping import Stop

Build = Callable[[Sequence[Case], Care], Dataset]

CASE_TIMEOUT_S = {"cuda": 900.0, "cpu": 21600.0}
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
