"""Instance norm, residual sum and LeakyReLU in one layer that leaves channels last."""

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_VOXELS = (2, 3, 4)

_log = logging.getLogger(__name__)


def normalised(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float, slope: float, residual: Tensor | None = None
) -> Tensor:
    """LeakyReLU of the instance norm of (n, c, z, y, x) plus a residual: what `triton_norm` computes, in torch.

    Args:
        x: float16, bfloat16 or float32; everything in between is float32.
        weight: float32 (c).
        bias: float32 (c).
        eps: added to each variance.
        slope: of the negative side; 1 for no activation.
        residual: shape and dtype of `x`; added before the activation.

    Returns:
        Shape, dtype and layout of `x`.
    """
    values = x.float()
    variance, mean = torch.var_mean(values, _VOXELS, correction=0, keepdim=True)
    scale = weight[:, None, None, None] * torch.rsqrt(variance + eps)
    values = (values - mean) * scale + bias[:, None, None, None]
    if residual is not None:
        values += residual.float()
    return F.leaky_relu(values, slope).to(x.dtype)


class FusedNorm(nn.Module):
    """An affine instance norm with the LeakyReLU behind it and the residual between; its parameters in float32.

    Args:
        norm: the layer whose parameters it takes.
        slope: of the LeakyReLU; 1 for none.
    """

    def __init__(self, norm: nn.InstanceNorm3d, slope: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().float(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach().float(), requires_grad=False)
        self.eps, self.slope = norm.eps, slope

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(n, c, z, y, x) to the same, channels last."""
        # Convolutions leave channels last where they find them; the exceptions are small ones on a CPU.
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last_3d)
        run = fastest(x.device.type)
        return run(x, self.weight, self.bias, eps=self.eps, slope=self.slope, residual=residual)


@cache
def fastest(device_type: str) -> Callable[..., Tensor]:
    """The implementation for a kind of device; cached, so that the choice is made and told once."""
    if device_type != "cuda":
        return normalised
    try:
        # Only here: torch for CPUs comes without Triton.
        from goat_ray.members import triton_norm

        x = torch.linspace(-1, 3, 2 * 3 * 8, device=device_type).reshape(2, 3, 2, 2, 2)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        weight, bias = x.new_tensor([1.0, 2.0, 3.0]), x.new_tensor([0.0, 0.5, -0.5])
        done = triton_norm.normalised(x, weight, bias, eps=1e-5, slope=0.01, residual=x)
        expected = normalised(x, weight, bias, eps=1e-5, slope=0.01, residual=x)
        torch.testing.assert_close(done, expected, rtol=1e-4, atol=1e-4)
    except Exception as error:  # noqa: BLE001 - Triton without a compiler or for another torch fails in any way
        _log.warning("Triton cannot be used, norms run in plain torch and more slowly: %s", error)
        return normalised
    _log.info("norms on %s run in Triton", device_type)
    return triton_norm.normalised
