import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from goat_ray.errors import EnsembleError
from goat_ray.members import forms
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
