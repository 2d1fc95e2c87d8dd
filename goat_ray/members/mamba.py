"""The Mamba-1 block in pure PyTorch, with `mamba_ssm`'s parameter names, shapes and initial values.

Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, arXiv:2312.00752.
"""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goat_ray.errors import EnsembleError

ScanBackend: TypeAlias = Literal["auto", "torch", "mamba_ssm"]
Scan: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

_log = logging.getLogger(__name__)


class _Recurrence(torch.autograd.Function):
    """states[t] = decay[t] * states[t-1] + inputs[t], written over `inputs`; tokens come first."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        for token in range(1, len(inputs)):
            inputs[token].addcmul_(decay[token], inputs[token - 1])
        ctx.mark_dirty(inputs)
        ctx.save_for_backward(decay, inputs)
        return inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - torch's context
        decay, states = ctx.saved_tensors
        grad_inputs = grads[0].clone(memory_format=torch.contiguous_format)
        for token in range(len(grad_inputs) - 1, 0, -1):
            grad_inputs[token - 1].addcmul_(decay[token], grad_inputs[token])
        grad_decay = torch.zeros_like(decay)
        torch.mul(grad_inputs[1:], states[:-1], out=grad_decay[1:])
        return grad_decay, grad_inputs


def selective_scan(x: Tensor, step: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The selective state-space scan, without the skip connection.

    Args:
        x: inputs, (token, batch, channel).
        step: positive step sizes, (token, batch, channel).
        a: negative continuous-time decay, (channel, state).
        b: input projections, (token, batch, state).
        c: output projections, (token, batch, state).

    Returns:
        (token, batch, channel), in the inputs' dtype; float32 or better is meant.
    """
    decay = torch.exp(step.unsqueeze(-1) * a)
    inputs = (step * x).unsqueeze(-1) * b.unsqueeze(-2)
    states: Tensor = _Recurrence.apply(decay, inputs)  # type: ignore[no-untyped-call]  # torch's own gap
    return (states @ c.unsqueeze(-1)).squeeze(-1)


class Mamba(nn.Module):
    """One causal Mamba layer over (batch, token, channel), always computed in float32 or better.

    Half-precision weights, inputs and autocast are lifted to float32 inside: the state overflows float16,
    and the layer is about a thousandth of a U-Mamba network's cost.

    Args:
        d_model: channels of a token.
        d_state: states per inner channel.
        d_conv: taps of the causal depthwise convolution.
        expand: inner channels per channel.
        scan_backend: `torch`, `mamba_ssm` (its CUDA kernel, or an error), or `auto` (the kernel where
            the tokens are on a GPU and it passes its probe, else `torch`).
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        *,
        scan_backend: ScanBackend = "auto",
    ) -> None:
        super().__init__()
        inner, rank = expand * d_model, math.ceil(d_model / 16)
        self.scan_backend = scan_backend
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, d_state))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        if not self.D.is_meta:  # where logarithms import torch's compiler, more than a second
            self._reset_dynamics()

    @torch.no_grad()
    def _reset_dynamics(self) -> None:
        """Decays 1, 2, … of each channel, step sizes log-uniform in [0.001, 0.1], as the paper's section 3.6 asks."""
        self.A_log.copy_(torch.arange(1.0, self.A_log.shape[1] + 1).log())
        spread = self.dt_proj.in_features**-0.5
        self.dt_proj.weight.uniform_(-spread, spread)
        step = torch.empty_like(self.dt_proj.bias).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Mixes (batch, token, channel) along the tokens, each seeing itself and those before it."""
        with full_precision(tokens.device.type):
            precise = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
            return self._mix(precise.transpose(0, 1)).transpose(0, 1)

    def _mix(self, tokens: Tensor) -> Tensor:
        states, rank = self.A_log.shape[1], self.dt_proj.in_features
        x, gate = _linear(tokens, self.in_proj).chunk(2, dim=-1)
        x = F.silu(_causal_conv(x, self.conv1d))
        low_rank, b, c = torch.split(_linear(x, self.x_proj), [rank, states, states], dim=-1)
        step = F.softplus(_linear(low_rank, self.dt_proj))
        scan = _scan(self.scan_backend, tokens.device.type)
        y = scan(x, step, -self.A_log.to(x.dtype).exp(), b, c) + self.D.to(x.dtype) * x
        return _linear(y * F.silu(gate), self.out_proj)


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Autocast switched off, on devices that know it."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


def _causal_conv(x: Tensor, layer: nn.Conv1d) -> Tensor:
    """The depthwise convolution of (token, batch, channel), padded on the past side only."""
    taps = layer.kernel_size[0]
    past = F.pad(x, (0, 0, 0, 0, taps - 1, 0)).unfold(0, taps, 1)
    weight, bias = layer.weight.squeeze(1).to(x.dtype), layer.bias
    mixed = (past * weight).sum(-1)
    return mixed if bias is None else mixed + bias.to(x.dtype)


@cache
def _scan(backend: ScanBackend, device_type: str) -> Scan:
    """The scan to use on a device; cached, so that the choice is logged once."""
    wanted = device_type == "cuda" and backend != "torch"
    kernel = _probed_kernel(device_type) if wanted else None
    if backend == "mamba_ssm" and kernel is None:
        raise EnsembleError("the scan backend mamba_ssm needs a GPU and a working mamba_ssm; use auto or torch instead")
    _log.info("Mamba scan on %s: %s", device_type, "torch" if kernel is None else "mamba_ssm")
    return kernel or selective_scan


def _probed_kernel(device_type: str) -> Scan | None:
    """`mamba_ssm`'s CUDA scan, if it imports and agrees with ours on a small input."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        def kernel(x: Tensor, step: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            u, delta, inputs, outputs = (t.permute(1, 2, 0).contiguous() for t in (x, step, b, c))
            y: Tensor = selective_scan_fn(u, delta, a, inputs, outputs)
            return y.permute(2, 0, 1)

        values = torch.linspace(0.1, 1, 8, device=device_type).reshape(4, 1, 2)
        arguments = (values, values, -values[0].T.expand(2, 2).contiguous(), values, values)
        torch.testing.assert_close(kernel(*arguments), selective_scan(*arguments), rtol=1e-3, atol=1e-5)
    except Exception as error:  # noqa: BLE001 - a kernel built for another torch fails in any way
        _log.info("mamba_ssm cannot be used: %s", error)
        return None
    return kernel
