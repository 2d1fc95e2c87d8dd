import copy
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from goat_ray.errors import EnsembleError
from goat_ray.members import forms
from goat_ray.members.networks import build_network, initialize_weights
from tests.members.test_networks import TINY
from tests.members.test_predictor import member

CPU = torch.device("cpu")
ONE = member("A", Path("none"))


@pytest.fixture
def network(monkeypatch):
    layers = nn.Sequential(nn.Conv3d(4, 4, 1), nn.InstanceNorm3d(4, affine=True)).eval()
    monkeypatch.setattr(forms, "load_network", lambda _: layers)
    return layers


def kinds(network):
    return [type(layer) for layer in network]


def test_a_cpu_has_group_norms_unless_bits_have_to_match(network):
    assert kinds(forms.resident(ONE, CPU, "float32", None, plain=True)) == [nn.Conv3d, nn.InstanceNorm3d]
    assert kinds(forms.resident(ONE, CPU, "float32", None, plain=False)) == [nn.Conv3d, nn.GroupNorm]


def test_float16_is_refused_on_a_cpu(network):
    with pytest.raises(EnsembleError, match="float16 needs a GPU; a CPU has bfloat16"):
        forms.resident(ONE, CPU, "float16", None, plain=False)


@pytest.mark.parametrize(("capabilities", "warnings"), [({"avx512_bf16": True}, 0), ({"amx_bf16": False}, 1), ({}, 1)])
def test_a_processor_that_is_slow_in_bfloat16_is_told_once(network, monkeypatch, caplog, capabilities, warnings):
    forms._look_for_units.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            forms.resident(ONE, CPU, "bfloat16", None, plain=False)
    forms._look_for_units.cache_clear()
    assert [record.message for record in caplog.records] == [
        "this processor has no units for bfloat16: precision float32 is faster on it"
    ] * warnings


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler raises its own
@pytest.mark.parametrize("family", ["residual_encoder", "umamba_bot"])
def test_a_compiled_network_gives_the_same_labels(family):
    torch.manual_seed(0)
    plain = build_network(replace(TINY, family=family), 4, 4).eval()
    initialize_weights(plain)
    fast = forms.compiled(copy.deepcopy(plain), CPU)
    windows = torch.randn(2, 4, 16, 16, 16)
    with torch.inference_mode():
        expected, logits = plain(windows), fast(windows)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits.argmax(1), expected.argmax(1))


def test_networks_for_a_gpu_are_not_compiled():
    with pytest.raises(EnsembleError, match="for CPUs, and this one is for cuda"):
        forms.compiled(nn.Identity(), torch.device("cuda:0"))


def test_a_machine_without_a_compiler_is_told_what_it_lacks(monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("InvalidCxxCompiler\nand more")

    forms._try_to_compile.cache_clear()
    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(EnsembleError, match="InvalidCxxCompiler; a C\\+\\+ compiler is needed on every node"):
        forms.compiled(nn.Identity(), CPU)
