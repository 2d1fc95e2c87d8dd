import numpy as np
import pytest
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from scipy.ndimage import gaussian_filter

from goat_ray.members.blending import blend, gaussian, tile
from goat_ray.members.windows import window_slices, window_starts

CPU = torch.device("cpu")
PATCH = (16, 20, 12)


def noise(*shape):
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def window_network(windows):
    """Logits that differ from window to window, as a network's do: position and content count."""
    ramp = torch.linspace(-12, 12, windows[0, 0].numel()).reshape(windows.shape[2:])
    return torch.stack([windows[:, 0] * 3 + ramp, windows.mean(1) * ramp], dim=1)


@pytest.mark.parametrize("patch", [(20, 24, 17), (32, 32, 32), (7, 1, 160), (96, 112, 80)])
def test_nnunet_recipe_weighs_like_nnunet(patch):
    expected = compute_gaussian(patch, value_scaling_factor=10, device=CPU)
    assert torch.equal(gaussian(patch, "nnunet"), expected)


@pytest.mark.parametrize("patch", [(20, 24, 17), (32, 32, 32)])
def test_exact_recipe_weighs_by_an_unclipped_gaussian(patch):
    impulse = np.zeros(patch)
    impulse[tuple(n // 2 for n in patch)] = 1
    expected = gaussian_filter(impulse, [n / 8 for n in patch], mode="constant")
    np.testing.assert_allclose(gaussian(patch, "exact").numpy(), expected / expected.max(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(37, 33, 29), (16, 41, 12), (9, 30, 40)])
def test_exact_recipe_is_close_to_float64(shape):
    image = noise(3, *shape)
    tiling = tile(image, (0, 1, 2), PATCH, "exact", CPU)
    logits = blend(tiling, window_network, heads=2, windows_per_batch=3)
    impulse = np.zeros(PATCH)
    impulse[tuple(n // 2 for n in PATCH)] = 1
    weight = torch.from_numpy(gaussian_filter(impulse, [n / 8 for n in PATCH], mode="constant"))
    size = tuple(tiling.volume.shape[1:])
    total, weight_sum = torch.zeros(2, *size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for start in window_starts(size, PATCH):
        window = window_slices(start, PATCH)
        total[(..., *window)] += window_network(tiling.volume[(..., *window)][None])[0].double() * weight
        weight_sum[window] += weight
    expected = (total / weight_sum)[(..., *tiling.inner)]
    assert logits.dtype == torch.float32
    assert tuple(logits.shape) == (2, *shape)
    assert (logits - expected).abs().max() < 1e-5


def test_a_single_window_is_passed_through_untouched():
    image = noise(3, 13, 20, 11)
    tiling = tile(image, (0, 1, 2), PATCH, "exact", CPU)
    expected = window_network(tiling.volume[None])[0][(..., *tiling.inner)]
    assert torch.equal(blend(tiling, window_network, heads=2, windows_per_batch=4), expected)
    assert tiling.weight is None


@pytest.mark.parametrize("recipe", ["exact", "nnunet"])
def test_batches_of_windows_change_no_bit_of_the_sum(recipe):
    tiling = tile(noise(3, 37, 33, 29), (0, 1, 2), PATCH, recipe, CPU)
    one_by_one = blend(tiling, window_network, heads=2, windows_per_batch=1)
    for size in (2, 3, 4):
        assert torch.equal(blend(tiling, window_network, heads=2, windows_per_batch=size), one_by_one)


def test_channels_come_in_the_order_asked_for_and_read_only_images_are_fine():
    image = noise(4, 9, 30, 12)
    image.flags.writeable = False
    tiling = tile(image, (2, 0, 3), PATCH, "exact", CPU)
    np.testing.assert_array_equal(tiling.volume[(..., *tiling.inner)].numpy(), image[[2, 0, 3]])
    assert tiling.volume.abs().sum() == torch.from_numpy(image[[2, 0, 3]]).abs().sum()
