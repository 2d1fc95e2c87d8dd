"""CUDA graphs: the hundreds of launches of a forward pass recorded once and replayed as one."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from goat_ray.members.recovery import first_line

_WARM_UPS = 2
"""Passes before a recording: libraries, Triton and Mamba's probe do things at first that no graph can hold."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A pass over one batch shape; whoever replays it overwrites both tensors."""

    graph: torch.cuda.CUDAGraph
    windows: Tensor
    logits: Tensor


class GraphPool:
    """The graphs of several networks on one device, in memory that they share.

    They share it since one runs at a time: what a pass leaves behind, the next one may overwrite, its logits
    included. One graph is recorded for each network and batch shape that occurs, so at most as many as a batch has
    windows. A last batch that is not full is not padded: the members with large patches have a single window in
    most cases, and would compute all of a batch for it.
    """

    def __init__(self) -> None:
        self._recordings: dict[tuple[int, torch.Size], Recording] = {}
        self._pool: Any = None  # torch's name for a pool is private
        self._is_open = True

    def run(self, network: nn.Module, windows: Tensor) -> Tensor:
        """The network's logits of windows; good until the next call, of whichever network."""
        key = (id(network), windows.shape)
        if self._is_open and key not in self._recordings:
            self._record(key, network, windows)
        if key not in self._recordings:
            logits: Tensor = network(windows)
            return logits
        recording = self._recordings[key]
        recording.windows.copy_(windows)
        recording.graph.replay()
        return recording.logits

    def close(self, reason: str) -> None:
        """Let go of all graphs and their memory, and run every network without from here on."""
        if self._is_open:
            _log.warning("networks run without CUDA graphs from here on: %s", reason)
        self._is_open = False
        self._recordings.clear()
        self._pool = None

    def _record(self, key: tuple[int, torch.Size], network: nn.Module, windows: Tensor) -> None:
        # Outside the try: a network that fails here fails without graphs too, and a lack of memory has its ladder.
        warm_up(network, windows)
        try:
            recording = record(network, windows, self._pool)
        except RuntimeError as error:
            self.close(f"recording one failed, {first_line(error)}")
        else:
            self._recordings[key] = recording
            self._pool = recording.graph.pool()


class Graphed(nn.Module):
    """A network that is run from a pool's graphs.

    Args:
        network: to run.
        pool: shared with the other networks of this device.
    """

    def __init__(self, network: nn.Module, pool: GraphPool) -> None:
        super().__init__()
        self.network, self._pool = network, pool

    def forward(self, windows: Tensor) -> Tensor:
        """See `GraphPool.run`."""
        return self._pool.run(self.network, windows)


def warm_up(network: nn.Module, windows: Tensor) -> None:
    """Run a network as it has to run once before it can be recorded: beside the default stream."""
    with torch.cuda.device(windows.device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                network(windows)
        torch.cuda.current_stream().wait_stream(stream)


def record(network: nn.Module, windows: Tensor, pool: Any) -> Recording:  # noqa: ANN401 - see above
    """Record a pass over windows like these, in the memory of a pool of graphs; in new memory where it is None."""
    with torch.cuda.device(windows.device):
        still = windows.clone()
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may call CUDA meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits = network(still)
        return Recording(graph, still, logits)
