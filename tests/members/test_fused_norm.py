import logging
import sys

import pytest
import torch
from torch import nn

from goat_ray.members import fused_norm
from goat_ray.members.fused_norm import FusedNorm, fastest


@pytest.fixture(autouse=True)
def _fresh_choice():
    fastest.cache_clear()
    yield
    fastest.cache_clear()


def layers(channels=6):
    """An instance norm with parameters of its own, and a LeakyReLU."""
    torch.manual_seed(3)
    norm = nn.InstanceNorm3d(channels, eps=1e-5, affine=True)
    nn.init.normal_(norm.weight, 1.0)
    nn.init.normal_(norm.bias)
    return norm, nn.LeakyReLU(0.01)


def features(dtype=torch.float32, channels=6, size=(7, 5, 9)):
    values = 2 * torch.randn(2, channels, *size) + 1
    return values.to(dtype).contiguous(memory_format=torch.channels_last_3d)


def test_it_is_torchs_instance_norm_residual_and_leaky_relu():
    norm, activation = layers()
    x, residual = features(), features()
    with torch.inference_mode():
        torch.testing.assert_close(FusedNorm(norm, 0.01)(x), activation(norm(x)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(FusedNorm(norm, 1.0)(x), norm(x), rtol=1e-5, atol=1e-5)
        both = FusedNorm(norm, 0.01)(x, residual)
        torch.testing.assert_close(both, activation(norm(x) + residual), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_rounded_once_at_the_end(dtype):
    norm, activation = layers()
    x, residual = features(dtype), features(dtype)
    with torch.inference_mode():
        done = FusedNorm(norm, 0.01)(x, residual)
        expected = activation(norm(x.float()) + residual.float())
    assert done.dtype == dtype
    torch.testing.assert_close(done, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_are_last_whatever_comes_in(channels_last):
    norm, _ = layers()
    x = features() if channels_last else features().contiguous()
    with torch.inference_mode():
        assert FusedNorm(norm, 0.01)(x, x).is_contiguous(memory_format=torch.channels_last_3d)


def test_without_triton_the_norms_of_a_gpu_run_in_torch_and_the_log_says_so(monkeypatch, caplog):
    for name in ("triton", "goat_ray.members.triton_norm"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("goat_ray.members.triton_norm", raising=False)
    with caplog.at_level(logging.WARNING):
        assert fastest("cuda") is fused_norm.normalised
    assert "Triton cannot be used" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_norms_of_a_gpu_run_in_triton():
    assert fastest("cuda").__module__ == "goat_ray.members.triton_norm"
