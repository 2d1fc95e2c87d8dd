"""What there is to run on: nodes, their processors and GPUs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

SMALLEST_CPUS = 2.0
_USABLE_MEMORY = 0.9


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, as Ray counts it."""

    cpus: float
    gpus: int = 0
    gpu_type: str | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What there is to run on.

    Attributes:
        nodes: those that are up.
        gpu_bytes: memory of a GPU, by type; a type that is not in it is taken to have enough.
        most_gpus: GPUs that the cluster may grow to.
    """

    nodes: tuple[Node, ...]
    gpu_bytes: Mapping[str | None, int] = field(default_factory=dict)
    most_gpus: int = 0

    @property
    def usable(self) -> list[Node]:
        """Nodes with processors enough for any plan; the others are left to Ray's other work."""
        return [node for node in self.nodes if node.cpus >= SMALLEST_CPUS]

    @property
    def gpu_types(self) -> list[str | None]:
        """Each type of GPU that is up."""
        return sorted({node.gpu_type for node in self.usable if node.gpus}, key=str) or [None]

    @property
    def gpus_at_most(self) -> int:
        """GPUs that are up or may come."""
        return max(self.gpus(), self.most_gpus)

    def gpus(self, gpu_type: str | None = None) -> int:
        """GPUs on usable nodes that are up, of one type or of all."""
        return sum(node.gpus for node in self.usable if gpu_type in (None, node.gpu_type))

    def room(self, gpu_type: str | None) -> float:
        """Bytes of a GPU of a type that a plan may fill."""
        return _USABLE_MEMORY * self.gpu_bytes.get(gpu_type, math.inf)
