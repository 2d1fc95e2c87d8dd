"""Cutting an ensemble into parts that each fit a device; one part wherever that is possible."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from goat_ray.config import Mode, PoolConfig
from goat_ray.errors import ConfigError
from goat_ray.pipeline.hardware import Cluster

_CONTEXT_BYTES = 800 * 2**20  # a CUDA context with cuDNN's and cuBLAS's own


@dataclass(frozen=True, slots=True)
class Need:
    """What a member takes of a device: its weights, the peak of a batch beside them, and time, in any unit."""

    code: str
    weights_bytes: int = 0
    peak_bytes: int = 0
    cost: float = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """Members that go together, and where."""

    needs: tuple[Need, ...]
    gpu_type: str | None = None
    python: str | None = None
    workers: int | None = None

    @property
    def codes(self) -> tuple[str, ...]:
        """Of its members."""
        return tuple(need.code for need in self.needs)

    @property
    def cost(self) -> float:
        """Of all its members."""
        return sum(need.cost for need in self.needs)


@dataclass(frozen=True, slots=True)
class Cut:
    """An ensemble in parts, and why."""

    parts: tuple[Part, ...]
    reason: str


def cut_ensemble(
    needs: Sequence[Need], canvas_bytes: int, cluster: Cluster | None, mode: Mode | None, pools: Sequence[PoolConfig]
) -> Cut:
    """The parts of an ensemble, in its order: as configured or forced, else as few as the devices hold.

    Args:
        needs: of every member, in the ensemble's order.
        canvas_bytes: device memory of the largest case beside the networks.
        cluster: whose GPUs hold the members; None on CPUs, where members share nothing by being apart.
        mode: `resident` or `shard` whatever the memory is; None to choose.
        pools: which members go together.

    Raises:
        ConfigError: `pools` are not the ensemble in its order, one member cannot be divided, or one is too large.
    """
    if pools:
        return Cut(_as_configured(needs, pools), "as configured")
    if mode == "shard":
        return Cut(_halves(needs), "as asked")
    whole = (Part(tuple(needs)),)
    if cluster is None:
        return Cut(whole, "as on CPUs nothing is gained by dividing them")
    taken = f"members and the largest case take {_gb(_bytes_of(needs, canvas_bytes))}, {_rooms(cluster)}"
    if mode == "resident":
        return Cut(whole, f"as asked; {taken}")
    return _fitting(needs, canvas_bytes, cluster, taken)


def _as_configured(needs: Sequence[Need], pools: Sequence[PoolConfig]) -> tuple[Part, ...]:
    by_code = {need.code: need for need in needs}
    asked = [code for pool in pools for code in pool.members]
    if asked != [*by_code]:
        raise ConfigError(
            f"pools hold {', '.join(asked)}; expected every member once and in the ensemble's order, "
            f"{', '.join(by_code)}: sums are taken in that order"
        )
    return tuple(
        Part(tuple(by_code[code] for code in pool.members), pool.accelerator_type, pool.python, pool.workers)
        for pool in pools
    )


def _halves(needs: Sequence[Need]) -> tuple[Part, ...]:
    if len(needs) < 2:
        raise ConfigError("placement shard divides an ensemble, and this one has a single member")
    return _balanced(_cuts(needs, 2))


def _fitting(needs: Sequence[Need], canvas_bytes: int, cluster: Cluster, taken: str) -> Cut:
    """Whole where every GPU holds it, else on the commonest type that does, else in the fewest parts that fit."""
    types, whole = cluster.gpu_types, _bytes_of(needs, canvas_bytes)
    holding = [kind for kind in types if whole <= cluster.room(kind)]
    if len(holding) == len(types):
        return Cut((Part(tuple(needs)),), taken)
    if holding:
        best = max(holding, key=lambda kind: (cluster.gpus(kind), cluster.room(kind)))
        return Cut((Part(tuple(needs), best),), f"{taken}; {cluster.gpus() - cluster.gpus(best)} GPU(s) stay idle")
    room = min(cluster.room(kind) for kind in types)
    for number in range(2, len(needs) + 1):
        cuts = [cut for cut in _cuts(needs, number) if all(_bytes_of(part, canvas_bytes) <= room for part in cut)]
        if cuts:
            return Cut(_balanced(cuts), taken)
    raise ConfigError(
        f"{_largest(needs, canvas_bytes)}, {_rooms(cluster)}; lower windows_per_batch, use --device cpu, or "
        "--placement resident to try it anyway"
    )


def _largest(needs: Sequence[Need], canvas_bytes: int) -> str:
    need = max(needs, key=lambda need: need.weights_bytes + need.peak_bytes)
    return f"member {need.code} and the largest case take {_gb(_bytes_of([need], canvas_bytes))} of GPU memory"


def _cuts(needs: Sequence[Need], number: int) -> list[list[tuple[Need, ...]]]:
    """Every way to cut a sequence into so many parts."""
    places = [(0, *inner, len(needs)) for inner in combinations(range(1, len(needs)), number - 1)]
    return [[tuple(needs[first:last]) for first, last in pairwise(ends)] for ends in places]


def _balanced(cuts: Sequence[list[tuple[Need, ...]]]) -> tuple[Part, ...]:
    """The cut whose dearest part is cheapest."""
    return min((tuple(map(Part, cut)) for cut in cuts), key=lambda parts: max(part.cost for part in parts))


def _bytes_of(needs: Sequence[Need], canvas_bytes: int) -> int:
    """Memory of a worker: weights stay, peaks take turns."""
    weights = sum(need.weights_bytes for need in needs)
    return _CONTEXT_BYTES + weights + max(need.peak_bytes for need in needs) + canvas_bytes


def _rooms(cluster: Cluster) -> str:
    return ", ".join(
        f"{kind or 'a GPU'} has {_gb(cluster.gpu_bytes[kind])}"
        if kind in cluster.gpu_bytes
        else f"{kind or 'a GPU'} has an unknown number of them"
        for kind in cluster.gpu_types
    )


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
