"""Layers in an equivalent form that runs faster on a CPU."""

from math import prod

import torch
from torch import nn

_BLOCK_CHANNELS = 16  # that oneDNN reads together, and pads fewer to, unless channels are last
_FULL_BATCH_VOXELS = 2**20


def with_group_norm(network: nn.Module) -> nn.Module:
    """The network with each InstanceNorm as the GroupNorm of one channel per group that it equals.

    Changed in place, parameters shared. On a CPU 1.03–1.3 times as fast (two threads, networks of 4–32
    features), logits within 2e-6 and labels unchanged; not for channels-last tensors, whose GroupNorm sums
    less precisely.
    """
    for name, layer in network.named_children():
        if isinstance(layer, nn.InstanceNorm3d) and layer.affine and not layer.track_running_stats:
            twin = nn.GroupNorm(layer.num_features, layer.num_features, layer.eps, device="meta")
            twin.weight, twin.bias = layer.weight, layer.bias
            setattr(network, name, twin.train(layer.training))
        else:
            with_group_norm(layer)
    return network


def in_bfloat16(network: nn.Module) -> nn.Module:
    """The network on bfloat16 tensors, for CPUs that multiply them; see `benchmarks/cpu_modes.py`.

    Changed in place; inputs and logits are float32. Mamba and what has no kernel in bfloat16 stay in float32.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d | nn.GroupNorm | nn.InstanceNorm3d):
            layer.to(torch.bfloat16)
        if isinstance(layer, nn.Conv3d) and layer.in_channels < _BLOCK_CHANNELS:
            _with_channels_last(layer)
        elif isinstance(layer, nn.AvgPool3d):
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
            layer.register_forward_hook(lambda _layer, _inputs, pooled: pooled.to(torch.bfloat16))
    network.register_forward_pre_hook(lambda _, windows: (windows[0].to(torch.bfloat16),))
    network.register_forward_hook(lambda _network, _windows, logits: logits.float())
    return network


def _with_channels_last(layer: nn.Conv3d) -> None:
    """Only in here: norms lose more by it than convolutions of few channels gain, even with two copies."""
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
    layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(memory_format=torch.channels_last_3d),))
    layer.register_forward_hook(lambda _layer, _inputs, features: features.contiguous())


def cpu_batch(patch: tuple[int, ...], at_most: int) -> int:
    """How many windows of a patch size pass together on a CPU.

    Small ones several at a time: torch has another convolution, half as fast, for single small samples. Large ones
    alone: a batch of them only leaves the caches.
    """
    return max(1, min(at_most, _FULL_BATCH_VOXELS // prod(patch)))
