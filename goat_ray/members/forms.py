"""In which form a member's network runs: the fastest one that its device and the wanted precision have."""

import logging
from functools import cache
from typing import Any

import torch
from torch import nn

from goat_ray.config import Precision
from goat_ray.errors import EnsembleError
from goat_ray.members.ensemble import Member, load_network
from goat_ray.members.gpu_form import GpuForm, with_fused_norms
from goat_ray.members.graphs import Graphed, GraphPool
from goat_ray.members.kernels import in_bfloat16, with_group_norm
from goat_ray.members.mamba import Mamba
from goat_ray.members.preprocess import preprocessing_problem
from goat_ray.members.recovery import first_line

_log = logging.getLogger(__name__)


def resident(
    member: Member, device: torch.device, precision: Precision, graphs: GraphPool | None, *, plain: bool
) -> nn.Module:
    """A member's network on its device.

    Args:
        member: whose.
        device: where it stays.
        precision: of the forward passes.
        graphs: what a GPU's passes in half precision are recorded in.
        plain: as it was trained, for results that have to match nnU-Net's to the bit.

    Raises:
        EnsembleError: it cannot be used, loaded or put there.
    """
    if problem := preprocessing_problem(member.preprocessing):
        raise EnsembleError(f"member {member.code}: {problem}")
    network = load_network(member)
    if device.type == "cpu":
        if not plain:
            network = _on_cpu(network, precision)
    elif graphs is not None:
        dtype = getattr(torch, precision)
        network = GpuForm(Graphed(with_fused_norms(network, dtype), graphs), dtype)
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises the latter
        reason = f"cannot be put on {device}: {first_line(error)}"
        raise EnsembleError(f"member {member.code} {reason}") from error


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """The network as machine code, made at its first pass; Mamba stays as it is, a loop that would take minutes.

    Raises:
        EnsembleError: the device is no CPU, or there is nothing to compile with.
    """
    if device.type != "cpu":
        raise EnsembleError(f"compiled networks are for CPUs, and this one is for {device}")
    _try_to_compile()
    for layer in network.modules():
        if isinstance(layer, Mamba):
            leave: Any = torch.compiler.disable
            layer.forward = leave(layer.forward)  # type: ignore[method-assign]
    frozen: Any = torch.compile(network, dynamic=False, options={"freezing": True})
    return frozen  # type: ignore[no-any-return]


@cache
def _try_to_compile() -> None:
    try:
        with torch.inference_mode():
            torch.compile(torch.exp, dynamic=False)(torch.zeros(1))
    except Exception as error:  # torch raises all kinds where it finds no compiler
        reason = f"{first_line(error)}; a C++ compiler is needed on every node"
        raise EnsembleError(f"networks cannot be compiled here: {reason}") from error


def _on_cpu(network: nn.Module, precision: Precision) -> nn.Module:
    match precision:
        case "float16":
            raise EnsembleError("precision float16 needs a GPU; a CPU has bfloat16")
        case "bfloat16":
            _look_for_units()
            return in_bfloat16(with_group_norm(network))
        case "float32":
            return with_group_norm(network)


@cache
def _look_for_units() -> None:
    """Say, once, that a processor is slower in bfloat16 than in float32."""
    if not any(found for name, found in torch.cpu.get_capabilities().items() if "bf16" in name):
        _log.warning("this processor has no units for bfloat16: precision float32 is faster on it")
