"""The form of a network that GPUs with tensor cores are fastest in: half precision, channels last, fused norms."""

from typing import Any

import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn

from goat_ray.members.fused_norm import FusedNorm
from goat_ray.members.networks import UpstreamBlock

_NO_ACTIVATION = 1.0
_UPSTREAM_SLOPE = 0.01


class GpuForm(nn.Module):
    """Any windows (n, c, z, y, x) through a network whose tensors have a dtype and channels last.

    Args:
        network: from `with_fused_norms`, or what stands for one.
        dtype: of its tensors.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, windows: Tensor) -> Tensor:
        """Logits (n, heads, z, y, x), float32 and contiguous, in memory of their own."""
        logits: Tensor = self.network(windows.to(self.dtype, memory_format=torch.channels_last_3d))
        return logits.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def with_fused_norms(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with `FusedNorm` layers and with convolutions of a dtype and channels last; changed in place.

    A convolution's bias is dropped where a norm follows, whose mean takes it away again, and added to the norm's
    own where it is that of a skip. What is left is exact but for rounding; norms add in float32, and Mamba stays in it.
    """
    fused = _fused(network)
    for layer in fused.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.to(dtype)
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return fused


def _fused(layer: Any) -> nn.Module:  # noqa: ANN401 - the blocks' library has no types
    if isinstance(layer, ConvDropoutNormReLU):
        return nn.Sequential(_without_bias(layer.conv), FusedNorm(layer.norm, _slope(layer, "nonlin")))
    if isinstance(layer, BasicBlockD):
        norm = FusedNorm(layer.conv2.norm, _slope(layer, "nonlin2"))
        skip = _fused(layer.skip) if isinstance(layer.skip, nn.Module) else nn.Identity()
        return _ResidualBlock(_fused(layer.conv1), _without_bias(layer.conv2.conv), norm, skip)
    if isinstance(layer, UpstreamBlock):
        return _upstream_block(layer)
    if isinstance(layer, nn.AvgPool3d):
        return _Average(layer.kernel_size)
    for name, child in layer.named_children():
        setattr(layer, name, _fused(child))
    return layer  # type: ignore[no-any-return]


def _slope(block: Any, name: str) -> float:  # noqa: ANN401
    activation = getattr(block, name, None)
    return _NO_ACTIVATION if activation is None else float(activation.negative_slope)


def _without_bias(convolution: nn.Conv3d) -> nn.Conv3d:
    convolution.bias = None
    return convolution


def _upstream_block(block: UpstreamBlock) -> nn.Module:
    first = nn.Sequential(_without_bias(block.conv1), FusedNorm(block.norm1, _UPSTREAM_SLOPE))
    norm = FusedNorm(block.norm2, _UPSTREAM_SLOPE)
    if block.conv3.bias is not None:
        # Not in place: weights are mapped from their file.
        norm.bias = nn.Parameter(norm.bias + block.conv3.bias, requires_grad=False)
    return _ResidualBlock(first, _without_bias(block.conv2), norm, _without_bias(block.conv3))


class _ResidualBlock(nn.Module):
    """Two convolutions beside a skip; their sum is taken in float32 and activated."""

    def __init__(self, first: nn.Module, convolution: nn.Module, norm: FusedNorm, skip: nn.Module) -> None:
        super().__init__()
        self.first, self.convolution, self.norm, self.skip = first, convolution, norm, skip

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.convolution(self.first(x)), self.skip(x))
        return normed


class _Average(nn.Module):
    """Average pooling, which torch knows for contiguous tensors only; blocks cut by the border are left out."""

    def __init__(self, stride: Any) -> None:  # noqa: ANN401 - a number or three, as torch has it
        super().__init__()
        self.stride = tuple(stride) if isinstance(stride, list | tuple) else (stride,) * 3

    def forward(self, features: Tensor) -> Tensor:
        samples, channels, *size = features.shape
        z, y, x = (length // step for length, step in zip(size, self.stride, strict=True))
        depth, height, width = self.stride
        whole = features[:, :, : z * depth, : y * height, : x * width].permute(0, 2, 3, 4, 1)
        blocks = whole.reshape(samples, z, depth, y, height, x, width, channels)
        return blocks.mean((2, 4, 6)).permute(0, 4, 1, 2, 3)
