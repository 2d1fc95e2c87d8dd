import copy

import torch
from torch import nn

from goat_ray.members.kernels import with_group_norm
from tests.members import nnunet_reference as nnunet


def test_group_norm_form_gives_the_same_labels_and_no_worse_logits():
    network = nnunet.fitted()
    images, _ = nnunet.head_scan(21)
    inside = images[0] != 0
    images[:, inside] = (images[:, inside] - images[:, inside].mean(1, keepdims=True)) / 40
    windows = torch.from_numpy(images[None])
    expected, exact = network(windows), copy.deepcopy(network).double()(windows.double())
    swapped = with_group_norm(network)
    logits = swapped(windows)
    assert not any(isinstance(layer, nn.InstanceNorm3d) for layer in swapped.modules())
    assert torch.equal(logits.argmax(1), expected.argmax(1))
    assert (logits - exact).abs().max() < 1e-5 * exact.abs().max()


def test_norms_that_are_not_per_channel_of_one_case_stay():
    layers = nn.Sequential(nn.InstanceNorm3d(4), nn.BatchNorm3d(4), nn.InstanceNorm3d(4, track_running_stats=True))
    kinds = [type(layer) for layer in layers]
    assert [type(layer) for layer in with_group_norm(layers)] == kinds
