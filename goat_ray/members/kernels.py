"""Layers in an equivalent form that runs faster."""

from torch import nn


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
