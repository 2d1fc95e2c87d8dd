"""What a member takes of a device: its weights, the peak of a forward pass, and the work in it."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from goat_ray.members.ensemble import Member
from goat_ray.members.networks import build_network


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one member takes.

    Attributes:
        code: the member's.
        weights_bytes: parameters, in fp32 as they are stored.
        activation_bytes: most that one window's forward pass holds at a time, its input and output included.
        flops: floating-point operations of that pass.
    """

    code: str
    weights_bytes: int
    activation_bytes: int
    flops: int


def footprint(member: Member) -> Footprint:
    """Measure a forward pass of one window in fp32, operation by operation, on tensors without data.

    A device's own libraries take workspace beyond it, which no count of tensors can see.
    """
    heads = len(member.scheme.channels)
    with torch.device("meta"):
        network = build_network(member.architecture, len(member.card.channels), heads).eval()
        window = torch.empty(1, len(member.card.channels), *member.patch_size)
    # Not of the state dict, which names an encoder twice that its decoder refers to.
    weights_bytes = sum(weight.nbytes for weight in network.parameters())
    counter, peak = FlopCounterMode(display=False), _Peak(window)
    with torch.inference_mode(), counter, peak:
        network(window)
    return Footprint(member.code, weights_bytes, peak.most_bytes, counter.get_total_flops())


def canvas_bytes(shape: Sequence[int], heads: int = 5, channels: int = 4) -> int:
    """Device memory that a case of a crop's shape takes beside the networks, at its fullest.

    The crop, the sum of logits with its weights, one member's probabilities and the sum of all, in fp32, and as
    much again as one of them for what arithmetic leaves in between.
    """
    volumes = channels + (heads + 1) + 4 + 4 + heads
    return 4 * volumes * prod(shape)


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what is alive: each tensor's memory counts from the operation that makes it until it is dropped."""

    def __init__(self, *alive: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, int] = {}
        self.most_bytes = 0
        for tensor in alive:
            self._count(tensor)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """See torch."""
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for tensor in made:
            if tensor.untyped_storage()._cdata not in given:
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        weakref.finalize(storage, self._alive.pop, key, None)
        self.most_bytes = max(self.most_bytes, sum(self._alive.values()))
