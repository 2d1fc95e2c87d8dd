"""Getting a Ray to run on, and what it has."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.state import state as ray_state
from ray._private.utils import get_num_cpus
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from goat_ray.errors import GoatRayError
from goat_ray.members.devices import device_memory_bytes
from goat_ray.pipeline.hardware import SMALLEST_CPUS, Cluster, Node
from goat_ray.pipeline.memory import KEPT_MEMORY, share_heaps

_LOGGER = logging.getLogger(__name__)

_PROBE_S = 60.0
_TYPE_PREFIX = "accelerator_type:"


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """A Ray to run on: the one this process already has, the one at `address` or `RAY_ADDRESS`, or an embedded one.

    Raises:
        GoatRayError: the cluster cannot be reached.
    """
    share_heaps()
    if ray.is_initialized():
        yield
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        _start(target)
    except Exception as error:  # Ray raises a plain one where a node starts too slowly
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
    # Ray ends a worker that was idle for a second; the next one spends seconds of a processor on imports.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
    # The C++ side writes to the terminal, past every Python logger, on each restartable actor.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ |= KEPT_MEMORY
    with _muted_stderr():
        ray.init(
            address=target,
            num_cpus=max(int(get_num_cpus()), int(SMALLEST_CPUS)),  # a container's share, not the machine
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


def check_slots(workers: int | None) -> int:
    """How many cases this Ray scores or inspects at a time: one a CPU, as that uses a single thread."""
    state: Any = ray
    return workers or max(1, int(state.cluster_resources().get("CPU", 1)))


def this_cluster(*, with_gpus: bool = True) -> Cluster:
    """The Ray that this process is connected to; each type of GPU is asked for its memory, if they matter."""
    state: Any = ray
    alive = [node for node in state.nodes() if node["Alive"]]
    nodes = [_node(found["Resources"]) for found in alive]
    first_of_type = {node.gpu_type: found["NodeID"] for node, found in zip(nodes, alive, strict=True) if node.gpus}
    memory = {kind: _gpu_bytes(node_id) for kind, node_id in first_of_type.items() if with_gpus}
    return Cluster(tuple(nodes), {kind: found for kind, found in memory.items() if found}, _most_gpus())


def _node(resources: Mapping[str, float]) -> Node:
    types = [name.removeprefix(_TYPE_PREFIX) for name in sorted(resources) if name.startswith(_TYPE_PREFIX)]
    gpus = int(resources.get("GPU", 0))
    return Node(resources.get("CPU", 0.0), gpus, types[0] if types and gpus else None)


def _gpu_bytes(node_id: str) -> int | None:
    """Memory of a node's GPUs; None where they are only logical, or all are taken."""
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    probe = ray.remote(device_memory_bytes).options(num_cpus=0, num_gpus=0.01, scheduling_strategy=there, max_retries=0)
    try:
        found: int | None = ray.get(probe.remote(), timeout=_PROBE_S)
    except (RayError, TimeoutError):
        return None
    return found


def _most_gpus() -> int:
    """GPUs that the autoscaler may bring this cluster to; 0 where there is none."""
    limits = ray_state.get_max_resources_from_cluster_config() or {}
    return int(limits.get("GPU", 0))
