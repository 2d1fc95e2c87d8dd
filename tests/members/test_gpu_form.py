import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from goat_ray.members.fused_norm import FusedNorm
from goat_ray.members.gpu_form import GpuForm, with_fused_norms
from goat_ray.members.graphs import Graphed, GraphPool
from goat_ray.members.networks import build_network, initialize_weights
from tests.members import nnunet_reference as nnunet
from tests.members.test_networks import FAMILIES, TINY

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
DEVICES = ["cpu", CUDA]
# bfloat16 has 8 bits, float16 11: a step of the largest value is 4e-3 and 5e-4.
HALVES = {torch.bfloat16: 4e-2, torch.float16: 5e-3}


@pytest.fixture(autouse=True)
def _float32_is_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def network_of(family):
    """A network none of whose parameters is where initialisation leaves it, biases and affine ones included."""
    torch.manual_seed(0)
    network = build_network(replace(TINY, family=family), 4, 4).eval().requires_grad_(False)
    initialize_weights(network)
    for layer in network.modules():
        if isinstance(layer, nn.InstanceNorm3d | nn.Conv3d | nn.ConvTranspose3d) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.5)
        if isinstance(layer, nn.InstanceNorm3d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return network


def form_of(network, dtype, device="cpu"):
    return GpuForm(with_fused_norms(copy.deepcopy(network), dtype), dtype).to(device)


def windows(samples=2, size=(16, 16, 12)):
    return torch.randn(samples, 4, *size, generator=torch.Generator().manual_seed(1))


def is_channels_last(features):
    return features.is_contiguous(memory_format=torch.channels_last_3d)


def relative(logits, expected):
    return float(torch.linalg.vector_norm(logits.cpu() - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32_it_is_the_same_network(family, device):
    network = network_of(family)
    with torch.inference_mode():
        exact = copy.deepcopy(network).double()(windows().double())
        logits = form_of(network, torch.float32, device)(windows().to(device)).cpu()
        error = (logits - exact).abs().max()
        assert error < 5e-6 * exact.abs().max()
        assert error < 3 * (network(windows()) - exact).abs().max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_in_half_precision_it_errs_by_a_few_steps_of_the_dtype(family, dtype, device, record_property):
    network = network_of(family)
    with torch.inference_mode():
        expected = network(windows())
        logits = form_of(network, dtype, device)(windows().to(device))
    error = relative(logits, expected)
    record_property("relative_error", error)
    assert logits.dtype == torch.float32
    assert logits.is_contiguous()
    assert 0 < error < HALVES[dtype]


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_it_is_no_further_from_the_truth_than_autocast(family):
    """As nnU-Net runs networks on a GPU; the rule allows 1.5 times its distance."""
    network = network_of(family)
    with torch.inference_mode():
        exact = copy.deepcopy(network).double()(windows().double())
        logits = form_of(network, torch.bfloat16)(windows())
        with torch.autocast("cpu", torch.bfloat16):
            autocast = network(windows())
    assert relative(logits, exact) <= 1.5 * relative(autocast, exact)


def test_a_fitted_network_keeps_its_labels():
    network = nnunet.fitted()
    images, _ = nnunet.head_scan(21)
    inside = images[0] != 0
    images[:, inside] = (images[:, inside] - images[:, inside].mean(1, keepdims=True)) / 40
    scan = torch.from_numpy(images[None])
    with torch.inference_mode():
        expected = network(scan)
        same = form_of(network, torch.float32)(scan)
        half = form_of(network, torch.float16)(scan)
    assert torch.equal(same.argmax(1), expected.argmax(1))
    assert (half.argmax(1) != expected.argmax(1)).float().mean() < 1e-3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_channels_stay_last_from_layer_to_layer(family, dtype, device):
    """In halves: a CPU takes small convolutions in float32 out of that layout."""
    alone = nn.Conv3d(4, 4, 1, device=device, dtype=dtype).to(memory_format=torch.channels_last_3d)
    if not is_channels_last(alone(windows().to(device, dtype, memory_format=torch.channels_last_3d))):
        pytest.skip("this processor has no units for this dtype, and a mere convolution changes the layout")
    form = form_of(network_of(family), dtype, device)
    seen, contiguous = [], []

    def look(name):
        def hook(_layer, _inputs, features):
            seen.append(name)
            if not is_channels_last(features):
                contiguous.append(name)

        return hook

    for name, layer in form.network.named_modules():
        if not name.endswith("encoder") and "mamba" not in name and not isinstance(layer, nn.LayerNorm | nn.ModuleList):
            layer.register_forward_hook(look(name))
    with torch.inference_mode():
        form(windows().to(device))
    assert len(seen) > 20
    assert contiguous == []


@pytest.mark.parametrize("family", FAMILIES)
def test_no_norm_is_left_alone_and_no_bias_before_one(family):
    network = with_fused_norms(network_of(family), torch.float16)
    kinds = [type(layer) for layer in network.modules()]
    assert FusedNorm in kinds
    assert not {nn.InstanceNorm3d, nn.LeakyReLU, nn.AvgPool3d} & set(kinds)
    biased = [n for n, m in network.named_modules() if isinstance(m, nn.Conv3d) and m.bias is not None]
    assert all("seg_layers" in name or "upsample_layers" in name for name in biased)


@pytest.mark.parametrize("family", ["umamba_bot", "umamba_bot_upstream"])
def test_mamba_and_norms_keep_float32_parameters(family):
    network = with_fused_norms(network_of(family), torch.float16)
    for layer in network.modules():
        expected = torch.float16 if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d) else torch.float32
        assert {weights.dtype for weights in layer.parameters(recurse=False)} <= {expected}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_of_several_shapes_and_networks_give_what_the_form_gives(family):
    pool = GraphPool()
    networks = [with_fused_norms(network_of(family), torch.float16).to("cuda") for _ in range(2)]
    batches = [torch.randn(samples, 4, 16, 16, 12, device="cuda") for samples in (3, 1, 3, 2)]
    with torch.inference_mode():
        for batch in batches:
            for network in networks:
                expected = GpuForm(network, torch.float16)(batch)
                logits = GpuForm(Graphed(network, pool), torch.float16)(batch)
                torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    assert len(pool._recordings) == 6
