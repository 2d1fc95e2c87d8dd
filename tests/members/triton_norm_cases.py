"""What Triton's kernels must do: on a GPU, or in Triton's interpreter where TRITON_INTERPRET is set from the start.

Run by `test_triton_norm.py` in a process of its own.
"""

import pytest
import torch

from goat_ray.members import fused_norm, triton_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SHAPES = [
    (1, 32, 16, 16, 16),
    (2, 32, 5, 7, 3),
    (1, 320, 4, 5, 7),
    (3, 6, 9, 11, 13),
    (1, 65, 3, 3, 3),
    (2, 4, 1, 1, 1),
    (1, 48, 1, 2, 300),
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def tensor(shape, dtype=torch.float32, *, mean=0.0, std=1.0):
    values = mean + std * torch.randn(shape, device=DEVICE)
    return values.to(dtype).contiguous(memory_format=torch.channels_last_3d)


def parameters(channels):
    return 1 + torch.randn(channels, device=DEVICE), torch.randn(channels, device=DEVICE)


def difference(x, *, slope=0.01, residual=None, eps=1e-5):
    """Largest difference between kernel and float64 arithmetic, relative to the largest value."""
    weight, bias = parameters(x.shape[1])
    done = triton_norm.normalised(x, weight, bias, eps=eps, slope=slope, residual=residual)
    assert done.dtype == x.dtype
    assert done.is_contiguous(memory_format=torch.channels_last_3d)
    values = x.double()
    variance, mean = torch.var_mean(values, (2, 3, 4), correction=0, keepdim=True)
    values = (values - mean) / (variance + eps).sqrt() * weight.double()[:, None, None, None]
    values += bias.double()[:, None, None, None]
    if residual is not None:
        values += residual.double()
    exact = torch.nn.functional.leaky_relu(values, slope)
    return float((done.double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_norm_residual_and_activation_are_those_of_float64(shape, dtype):
    x, residual = tensor(shape, dtype, mean=0.5, std=2.0), tensor(shape, dtype)
    assert difference(x) < TOLERANCE[dtype]
    assert difference(x, residual=residual) < TOLERANCE[dtype]
    assert difference(x, slope=1.0, residual=residual) < TOLERANCE[dtype]


def test_the_twin_says_the_same():
    x, residual = tensor((2, 32, 6, 5, 7)), tensor((2, 32, 6, 5, 7))
    arguments = {"eps": 1e-5, "slope": 0.01, "residual": residual}
    weight, bias = parameters(32)
    done = triton_norm.normalised(x, weight, bias, **arguments)
    torch.testing.assert_close(done, fused_norm.normalised(x, weight, bias, **arguments), rtol=1e-5, atol=1e-5)


def test_a_large_mean_costs_no_digits_of_a_small_spread():
    """The mean of squares less the square of the mean would: 16 million less 16 million for a variance of 1."""
    x = tensor((2, 8, 20, 20, 20), mean=4096.0)
    naive = (x.square().mean((2, 3, 4)) - x.mean((2, 3, 4)).square()).flatten()
    exact = x.double().var((2, 3, 4), correction=0).flatten()
    assert (naive - exact).abs().max() > 0.05
    assert difference(x) < 3e-4  # float32 itself has steps of 5e-4 there


@pytest.mark.parametrize("chunks", [1, 3, 396])
def test_tiles_and_chunks_are_merged_into_one_mean(monkeypatch, chunks):
    """Means of chunks, and of the tiles within one, that differ by far more than the spread in each."""
    monkeypatch.setattr(triton_norm, "_CHUNKS", chunks)
    x = tensor((2, 33, 8, 15, 64), std=0.1)
    x += torch.arange(8.0, device=DEVICE)[:, None, None]
    assert difference(x) < 1e-5


def test_constant_channels_become_their_bias():
    weight, bias = parameters(4)
    x = torch.full((1, 4, 6, 6, 6), 3.0, device=DEVICE).contiguous(memory_format=torch.channels_last_3d)
    done = triton_norm.normalised(x, weight, bias, eps=1e-5, slope=1.0)
    torch.testing.assert_close(done, bias[:, None, None, None].expand_as(done))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy, of infinity less infinity
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_undefined_stays_in_its_sample_and_channel(bad):
    x = tensor((2, 6, 5, 5, 5))
    x[1, 3, 2, 2, 2] = bad
    weight, bias = parameters(6)
    done = triton_norm.normalised(x, weight, bias, eps=1e-5, slope=0.01)
    undefined = ~torch.isfinite(done).flatten(2).all(2)
    assert undefined.nonzero().tolist() == [[1, 3]]


def test_a_windows_bits_depend_neither_on_the_batch_nor_on_the_run():
    x, (weight, bias) = tensor((3, 32, 12, 9, 17), torch.float16), parameters(32)

    def run(windows):
        return triton_norm.normalised(windows, weight, bias, eps=1e-5, slope=0.01)

    batch = run(x)
    assert torch.equal(run(x), batch)
    for index in range(3):
        alone = x[index : index + 1].contiguous(memory_format=torch.channels_last_3d)
        assert torch.equal(run(alone)[0], batch[index])
