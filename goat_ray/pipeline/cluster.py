"""Getting a Ray to run on, and dividing its processors between the stages."""

import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.utils import get_num_cpus

from goat_ray.errors import ConfigError, GoatRayError

_LOGGER = logging.getLogger(__name__)

_THREADS_PER_WORKER = 8  # one case scales well up to about here; beyond it, more workers gain more
_RESERVED_CPUS = 1.25  # Ray Data's own repartition task asks for a whole CPU; the commit actor needs a little
_SMALLEST_CPUS = 2.0
_READ_CPUS, _FINISH_CPUS = 0.45, 0.35
COMMIT_CPUS, CHECK_CPUS = 0.1, 0.45


@dataclass(frozen=True, slots=True)
class Placement:
    """Logical resources of each stage.

    The CPU shares of neighbouring stages always differ: Ray Data fuses a task stage into a following actor
    stage that asks for the same resources, and the pipeline would no longer overlap.
    """

    device: str
    workers: int
    threads: int
    predict_cpus: float
    predict_gpus: float
    read_slots: int = 2
    read_cpus: float = _READ_CPUS
    finish_cpus: float = _FINISH_CPUS
    commit_cpus: float = COMMIT_CPUS

    def explain(self) -> str:
        """One line for the log."""
        what = "1 GPU" if self.predict_gpus else f"{self.threads} CPU threads"
        return f"{self.workers} predict worker(s) with {what} each, {self.read_slots} reading tasks"


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """A Ray to run on: the one this process already has, the one at `address` or `RAY_ADDRESS`, or an embedded one.

    Raises:
        GoatRayError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        _start(target)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise GoatRayError(f"no Ray cluster could be reached at {target!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(target: str) -> None:
    if target != "local":
        ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR)
        return
    # Ray 2.60 would otherwise create a token in the home directory and switch itself to token mode.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The C++ side writes to the terminal, past every Python logger, on each restartable actor.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _muted_stderr():
        ray.init(
            address=target,
            num_cpus=max(int(get_num_cpus()), int(_SMALLEST_CPUS)),  # a container's share, not the machine
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Silence the process's stderr itself: a log level that Ray takes from the environment is announced there."""
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def plan_placement(
    node_cpus: Sequence[float], gpus: int, device: str | None, workers: int | None, threads: int | None
) -> Placement:
    """Divide a cluster's resources; predict workers leave a whole CPU free on every node for the other stages.

    Threads per worker do not depend on the number of workers: they can change a float's last bits, and the
    same labels must come out whatever the number of workers is.

    Args:
        node_cpus: logical CPUs of each node; nodes with fewer than two are left to Ray's other work.
        gpus: GPUs of the whole cluster.
        device: cuda, cpu, or None to choose.
        workers: predict workers, or None to choose.
        threads: CPU threads of one predict worker, or None to choose.

    Raises:
        ConfigError: a GPU is asked for where there is none, or no node is large enough for any plan.
    """
    nodes = [cpus for cpus in node_cpus if cpus >= _SMALLEST_CPUS]
    if not nodes:
        raise ConfigError(f"no node of this Ray has {_SMALLEST_CPUS:g} logical CPUs, the least that the pipeline needs")
    device = device or ("cuda" if gpus else "cpu")
    threads = threads or max(1, min(_THREADS_PER_WORKER, int(min(nodes))))
    on_gpu = device.startswith("cuda")
    workers = workers or (gpus if on_gpu else max(1, int(sum(nodes)) // threads))
    if on_gpu and (workers > gpus or not gpus):
        raise ConfigError(f"{workers} worker(s) with a GPU each were asked for, but this Ray has {gpus} GPU(s)")
    placement = Placement(
        device=device,
        workers=workers,
        threads=threads,
        predict_cpus=_predict_share(min(nodes), math.ceil(workers / len(nodes)), threads),
        predict_gpus=1.0 if on_gpu else 0.0,
        read_slots=max(2, workers),
    )
    _LOGGER.info("%s", placement.explain())
    return placement


def _predict_share(cpus: float, workers: int, threads: int) -> float:
    """CPU share of one of the `workers` on a node, never that of a neighbouring stage."""
    share = round(min((cpus - _RESERVED_CPUS) / workers, float(threads)), 4)
    return round(share - 0.01, 4) if share in (_READ_CPUS, _FINISH_CPUS) else share


def check_slots(workers: int | None) -> int:
    """How many cases this Ray scores or inspects at a time: one a CPU, as that uses a single thread."""
    state: Any = ray
    return workers or max(1, int(state.cluster_resources().get("CPU", 1)))


def place_on_this_cluster(device: str | None, workers: int | None, threads: int | None) -> Placement:
    """`plan_placement` for the Ray this process is connected to."""
    state: Any = ray
    nodes = [node["Resources"] for node in state.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    return plan_placement([node.get("CPU", 0.0) for node in nodes], gpus, device, workers, threads)
