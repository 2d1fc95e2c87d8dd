import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from goat_ray.members.kernels import cpu_batch, in_bfloat16, with_group_norm
from goat_ray.members.networks import build_network, initialize_weights
from tests.members import nnunet_reference as nnunet
from tests.members.test_networks import FAMILIES, TINY


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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bfloat16_form_runs_every_network_and_keeps_mamba_in_float32(family):
    network = build_network(replace(TINY, family=family), 4, 4).eval()
    initialize_weights(network)
    windows = torch.randn(2, 4, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(windows)
        logits = in_bfloat16(with_group_norm(network))(windows)
    assert logits.dtype == torch.float32
    assert 0 < (logits - expected).abs().max() < 0.05 * expected.abs().max()
    kinds = {type(layer).__name__: layer for layer in network.modules()}
    assert kinds["Conv3d"].weight.dtype == torch.bfloat16
    if "Mamba" in kinds:
        assert kinds["Mamba"].A_log.dtype == torch.float32


def test_in_bfloat16_only_convolutions_of_few_channels_see_channels_last():
    network = in_bfloat16(build_network(TINY, 4, 4).eval())
    seen = {True: set(), False: set()}
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d | nn.InstanceNorm3d):
            few = isinstance(layer, nn.Conv3d) and layer.in_channels < 16
            note = seen[few].add
            layer.register_forward_pre_hook(
                lambda _, inputs, note=note: note(inputs[0].is_contiguous(memory_format=torch.channels_last_3d))
            )
    with torch.inference_mode():
        network(torch.randn(1, 4, 16, 16, 16))
    assert seen == {True: {True}, False: {False}}


@pytest.mark.parametrize(
    ("patch", "at_most", "expected"),
    [((64, 64, 64), 4, 4), ((64, 64, 64), 2, 2), ((80, 80, 80), 4, 2), ((96, 96, 96), 4, 1), ((160, 192, 160), 4, 1)],
)
def test_small_windows_pass_together_and_large_ones_alone(patch, at_most, expected):
    assert cpu_batch(patch, at_most) == expected
