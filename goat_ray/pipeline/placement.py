"""Which members live where: how a cluster's processors and GPUs are divided between the stages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from goat_ray.config import Mode, PoolConfig
from goat_ray.errors import ConfigError
from goat_ray.pipeline.cutting import Need, Part, cut_ensemble
from goat_ray.pipeline.hardware import SMALLEST_CPUS, Cluster

_THREADS_ON_CPU = 8  # one case scales well up to about here; beyond it, more workers gain more
_THREADS_ON_GPU = 2  # a worker mostly waits for its GPU; the other processors read and finish cases for it
_READS_PER_GPU = 4  # a read mostly waits for the store
_RESERVED_CPUS = 1.25  # Ray Data's own repartition task asks for a whole CPU
_READ_CPUS, _FINISH_CPUS = 0.45, 0.35
CHECK_CPUS = 0.45
_GPU_CPUS = 1.5  # of a worker whose node is not up yet


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the configuration asks of a placement; whatever is unset is chosen."""

    device: str | None = None
    workers: int | None = None
    threads: int | None = None
    mode: Mode | None = None
    pools: tuple[PoolConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class Pool:
    """Predict workers that hold the same members, and the logical resources of each."""

    members: tuple[str, ...]
    workers: int
    cpus: float
    gpus: float = 0.0
    gpu_type: str | None = None
    python: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Logical resources of each stage. A case passes the pools in order.

    The CPU shares of neighbouring stages always differ: Ray Data fuses a task stage into a following actor
    stage that asks for the same resources, and the pipeline would no longer overlap.
    """

    device: str
    threads: int
    pools: tuple[Pool, ...]
    reason: str
    read_slots: int = 2
    read_cpus: float = _READ_CPUS
    finish_cpus: float = _FINISH_CPUS

    @property
    def mode(self) -> Mode:
        """Whether every worker holds every member, or a case goes from pool to pool."""
        return "resident" if len(self.pools) == 1 else "shard"

    @property
    def workers(self) -> int:
        """Predict workers of all pools."""
        return sum(pool.workers for pool in self.pools)

    def alone(self) -> "Placement":
        """The same for one case at a time."""
        return replace(self, read_slots=1, pools=tuple(replace(pool, workers=1) for pool in self.pools))

    def explain(self) -> str:
        """One line for the log."""
        what = "1 GPU" if self.pools[0].gpus else f"{self.threads} CPU thread{'s' * (self.threads > 1)}"
        pools = " → ".join(_told(pool, whole=len(self.pools) == 1) for pool in self.pools)
        return f"placement {self.mode}: {pools}, {what} each; {self.read_slots} cases read at a time ({self.reason})"


def _told(pool: Pool, *, whole: bool) -> str:
    members = f"all {len(pool.members)} members" if whole else "+".join(pool.members)
    kind = f" on {pool.gpu_type}" if pool.gpu_type else ""
    return f"{pool.workers} worker{'s' * (pool.workers > 1)} with {members}{kind}"


def plan_placement(cluster: Cluster, needs: Sequence[Need], canvas_bytes: int, wishes: Wishes) -> Placement:
    """Divide a cluster; predict workers leave a whole CPU free on every node for the other stages.

    Every member goes into every worker wherever a device holds them all and the largest peak; see `cut_ensemble`.
    Sums are taken in the same order either way, so both give the same bits. Threads per worker do not depend on
    the number of workers, as they can change a float's last bits.

    Args:
        cluster: what there is.
        needs: of every member, in the ensemble's order.
        canvas_bytes: device memory of the largest case beside the networks.
        wishes: what is asked for.

    Raises:
        ConfigError: the plan could never start: no node large enough, more GPUs than there are or may come, fewer
            workers or GPUs than pools; or see `cut_ensemble`.
    """
    if not cluster.usable:
        raise ConfigError(f"no node of this Ray has {SMALLEST_CPUS:g} logical CPUs, the least that the pipeline needs")
    device = wishes.device or ("cuda" if cluster.gpus_at_most else "cpu")
    on_gpu = device.startswith("cuda")
    most_threads = _THREADS_ON_GPU if on_gpu else _THREADS_ON_CPU
    threads = wishes.threads or max(1, min(most_threads, int(min(node.cpus for node in cluster.usable))))
    cut = cut_ensemble(needs, canvas_bytes, cluster if on_gpu else None, wishes.mode, wishes.pools)
    if on_gpu:
        workers = _gpu_workers(cluster, cut.parts, wishes.workers)
        cpus = _gpu_share(cluster, sum(workers), threads)
    else:
        workers = _cpu_workers(cluster, cut.parts, wishes.workers, threads)
        cpus = _cpu_share(cluster, sum(workers), threads)
    pools = tuple(
        Pool(part.codes, number, cpus, float(on_gpu), part.gpu_type, part.python)
        for part, number in zip(cut.parts, workers, strict=True)
    )
    read_slots = max(2, pools[0].workers * (_READS_PER_GPU if on_gpu else 1))
    return Placement(device, threads, pools, cut.reason, read_slots)


def _gpu_workers(cluster: Cluster, parts: Sequence[Part], asked: int | None) -> list[int]:
    """One worker a GPU, divided between the parts by their work; a type that is named has GPUs of its own."""
    total = asked or cluster.gpus() or cluster.most_gpus
    if total > cluster.gpus_at_most or not total:
        raise ConfigError(f"{total} worker(s) with a GPU each were asked for, but this Ray has {cluster.gpus_at_most}")
    kinds = {part.gpu_type for part in parts}
    there: dict[str | None, int] = {kind: min(total, cluster.gpus(kind)) for kind in kinds if kind}
    there[None] = total - sum(there.values())
    workers: dict[int, int] = {}
    for kind in kinds:
        places = [place for place, part in enumerate(parts) if part.gpu_type == kind]
        group = [parts[place] for place in places]
        if there[kind] < _fewest(group):
            raise ConfigError(
                f"pools of members need {_fewest(group)} GPU(s){f' of type {kind}' if kind else ''}, and there are "
                f"{max(there[kind], 0)}: the run would never start"
            )
        workers |= dict(zip(places, _allot(group, there[kind]), strict=True))
    return [workers[place] for place in range(len(parts))]


def _cpu_workers(cluster: Cluster, parts: Sequence[Part], asked: int | None, threads: int) -> list[int]:
    if any(part.gpu_type for part in parts):
        raise ConfigError("pools name an accelerator_type, and this run is on CPUs")
    total = asked or max(_fewest(parts), int(sum(node.cpus for node in cluster.usable)) // threads)
    if total < _fewest(parts):
        raise ConfigError(f"the pools of members need {_fewest(parts)} workers, and {total} were asked for")
    return _allot(parts, total)


def _fewest(parts: Sequence[Part]) -> int:
    return sum(part.workers or 1 for part in parts)


def _allot(parts: Sequence[Part], total: int) -> list[int]:
    """Workers of each part: as configured, and the others where a worker has most to do."""
    workers = [part.workers or 1 for part in parts]
    free = [place for place, part in enumerate(parts) if part.workers is None]
    for _ in range(total - sum(workers) if free else 0):
        workers[max(free, key=lambda place: parts[place].cost / workers[place])] += 1
    return workers


def _gpu_share(cluster: Cluster, workers: int, threads: int) -> float:
    nodes = [node for node in cluster.usable if node.gpus]
    return min((_share(node.cpus, min(node.gpus, workers), threads) for node in nodes), default=_GPU_CPUS)


def _cpu_share(cluster: Cluster, workers: int, threads: int) -> float:
    nodes = cluster.usable
    return _share(min(node.cpus for node in nodes), math.ceil(workers / len(nodes)), threads)


def _share(cpus: float, workers: int, threads: int) -> float:
    """CPU share of one of the `workers` on a node, never that of a neighbouring stage."""
    share = round(min((cpus - _RESERVED_CPUS) / workers, float(threads)), 4)
    return round(share - 0.01, 4) if share in (_READ_CPUS, _FINISH_CPUS) else share
