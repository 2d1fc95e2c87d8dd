import logging
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from goat_ray.errors import EnsembleError
from goat_ray.members import mamba
from goat_ray.members.mamba import Mamba, selective_scan


def plain_recurrence(layer, tokens):
    """The block of Gu and Dao's paper in its plainest form: float64, one token after the other."""
    w = {name: value.double() for name, value in layer.named_parameters()}
    rank, states = w["dt_proj.weight"].shape[1], w["A_log"].shape[1]
    outputs = []
    for sample in tokens.double():
        x, z = (sample @ w["in_proj.weight"].T).chunk(2, dim=-1)
        taps = w["conv1d.weight"].shape[-1]
        padded = torch.cat([torch.zeros(taps - 1, x.shape[1], dtype=torch.float64), x])
        convolved = [
            (padded[t : t + taps].T * w["conv1d.weight"][:, 0]).sum(1) + w["conv1d.bias"] for t in range(len(x))
        ]
        state = torch.zeros_like(w["A_log"])
        mixed = []
        for u in map(F.silu, convolved):
            low, b, c = (w["x_proj.weight"] @ u).split([rank, states, states])
            step = F.softplus(w["dt_proj.weight"] @ low + w["dt_proj.bias"])
            decay = torch.exp(-step[:, None] * w["A_log"].exp())
            state = decay * state + (step * u)[:, None] * b[None, :]
            mixed.append(state @ c + w["D"] * u)
        outputs.append((torch.stack(mixed) * F.silu(z)) @ w["out_proj.weight"].T)
    return torch.stack(outputs)


def layer_with(step_sizes, seed=0):
    torch.manual_seed(seed)
    layer = Mamba(d_model=24, d_state=8)
    if step_sizes == "big":  # up to about 10, as a trained network may have
        with torch.no_grad():
            layer.dt_proj.bias.uniform_(2, 8)
    return layer, torch.randn(2, 19, 24)


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("step_sizes", ["initial", "big"])
def test_the_output_is_that_of_a_float64_recurrence(step_sizes):
    layer, tokens = layer_with(step_sizes)
    with torch.no_grad():
        assert relative_error(layer(tokens), plain_recurrence(layer, tokens)) < 1e-6


@pytest.mark.parametrize("step_sizes", ["initial", "big"])
def test_every_gradient_is_that_of_a_float64_recurrence(step_sizes):
    layer, tokens = layer_with(step_sizes)
    tokens.requires_grad_()
    inputs = [tokens, *layer.parameters()]
    weight = torch.randn(2, 19, 24)
    found = torch.autograd.grad((layer(tokens) * weight).sum(), inputs)
    expected = torch.autograd.grad((plain_recurrence(layer, tokens) * weight).sum(), inputs)
    for gradient, reference in zip(found, expected, strict=True):
        assert relative_error(gradient, reference.double()) < 2e-6


def test_the_scan_passes_torchs_own_gradient_check():
    torch.manual_seed(0)
    x, b, c = (torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    step = torch.rand(5, 2, 3, dtype=torch.float64).requires_grad_()
    a = (-torch.rand(3, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(selective_scan, (x, step, a, b, c))


def test_a_single_token_is_a_sequence_too():
    layer, tokens = layer_with("initial")
    with torch.no_grad():
        assert relative_error(layer(tokens[:, :1]), plain_recurrence(layer, tokens[:, :1])) < 1e-6


def test_no_token_sees_a_later_one():
    layer, tokens = layer_with("initial")
    changed = tokens.clone()
    changed[:, 12:] += 1
    with torch.inference_mode():
        before, after = layer(tokens), layer(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12], after[:, 12])


def test_names_and_shapes_are_those_of_mamba_ssm():
    with torch.device("meta"):
        layer = Mamba(320)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        "A_log": (640, 16),
        "D": (640,),
        "in_proj.weight": (1280, 320),
        "conv1d.weight": (640, 1, 4),
        "conv1d.bias": (640,),
        "x_proj.weight": (52, 640),
        "dt_proj.weight": (640, 20),
        "dt_proj.bias": (640,),
        "out_proj.weight": (320, 640),
    }
    assert sum(value.numel() for value in layer.parameters()) == 675_200


def test_initial_values_span_the_papers_ranges():
    torch.manual_seed(0)
    layer = Mamba(320)
    step = F.softplus(layer.dt_proj.bias)
    assert 1e-3 * (1 - 1e-3) <= step.min() < 1.1e-3
    assert 0.09 < step.max() <= 0.1 * (1 + 1e-3)
    assert step.log().mean().item() == pytest.approx(np.log(1e-2), abs=0.2)
    assert layer.dt_proj.weight.abs().max() <= 20**-0.5
    assert torch.equal(layer.A_log[7], torch.log(torch.arange(1.0, 17)))
    assert torch.equal(layer.D, torch.ones(640))


def test_autocast_does_not_reach_inside():
    layer, tokens = layer_with("initial")
    with torch.inference_mode():
        expected = layer(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer(tokens), expected)


def test_half_precision_weights_and_tokens_are_computed_in_float32():
    layer, tokens = layer_with("initial")
    layer, tokens = layer.half(), tokens.half()
    with torch.inference_mode():
        output = layer(tokens)
    assert output.dtype == torch.float32
    assert relative_error(output, plain_recurrence(layer, tokens)) < 1e-6


@pytest.fixture
def _forgotten_choices():
    mamba._scan.cache_clear()
    yield
    mamba._scan.cache_clear()


@pytest.mark.usefixtures("_forgotten_choices")
def test_the_backend_in_use_is_logged_once(caplog):
    layer, tokens = layer_with("initial")
    with caplog.at_level(logging.INFO, "goat_ray.members.mamba"), torch.inference_mode():
        layer(tokens)
        layer(tokens)
    assert caplog.messages == ["Mamba scan on cpu: torch"]


def test_asking_for_a_kernel_that_cannot_run_is_an_error():
    layer = Mamba(24, scan_backend="mamba_ssm")
    with pytest.raises(EnsembleError, match="needs a GPU"):
        layer(torch.zeros(1, 4, 24))


def fake_mamba_ssm(monkeypatch, selective_scan_fn):
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for module in (ModuleType("mamba_ssm"), ModuleType("mamba_ssm.ops"), interface):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def channel_first_scan(u, delta, a, b, c):
    """`mamba_ssm`'s layout: (batch, channel, token) and (batch, state, token)."""
    state, outputs = torch.zeros(*u.shape[:2], a.shape[1]), []
    for t in range(u.shape[-1]):
        decay = torch.exp(delta[:, :, t, None] * a)
        state = decay * state + (delta * u)[:, :, t, None] * b[:, None, :, t]
        outputs.append((state * c[:, None, :, t]).sum(-1))
    return torch.stack(outputs, dim=-1)


def test_a_kernel_that_agrees_passes_the_probe(monkeypatch):
    fake_mamba_ssm(monkeypatch, channel_first_scan)
    kernel = mamba._probed_kernel("cpu")
    x, step, b, c = (torch.rand(6, 2, size) for size in (5, 5, 4, 4))
    arguments = (x, step, -torch.rand(5, 4), b, c)
    torch.testing.assert_close(kernel(*arguments), selective_scan(*arguments))


def test_a_kernel_that_is_wrong_broken_or_missing_is_not_used(monkeypatch):
    fake_mamba_ssm(monkeypatch, lambda u, *_: u)
    assert mamba._probed_kernel("cpu") is None
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    assert mamba._probed_kernel("cpu") is None
