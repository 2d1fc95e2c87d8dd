"""Sliding-window inference: overlapping windows blended with a Gaussian, under either of two recipes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from goat_ray.members.windows import Shape, Slices, padded_grid, window_slices, window_starts

Recipe = Literal["exact", "nnunet"]
"""`exact` weighs and sums in fp32; `nnunet` repeats the fp16 arithmetic of nnU-Net since 2.3 to the bit."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiling:
    """A crop cut into windows: all that members of equal patch size, channels and preprocessing share.

    Lies on one device, and so does the sum of logits; the networks need not.

    Attributes:
        volume: the zero-padded crop, fp32 (c, z, y, x).
        inner: where the crop lies in the padded volume.
        windows: the windows in nnU-Net's order.
        weight: importance of each voxel of a window; None where the only window needs none.
        weight_sum: sum of the weights over the windows (z, y, x), padded; None with `weight`.
    """

    volume: Tensor
    inner: Slices
    windows: tuple[Slices, ...]
    weight: Tensor | None = None
    weight_sum: Tensor | None = None


@lru_cache(maxsize=8)
def gaussian(patch: Shape, recipe: Recipe, device: str = "cpu") -> Tensor:
    """Importance map of a window (z, y, x) with a sigma of an eighth of the patch.

    Its peak is 1 in fp32 (`exact`) or 10 in fp16 (`nnunet`); weights that vanish in that precision become the
    smallest one that does not.
    """
    peak, dtype = (1, torch.float32) if recipe == "exact" else (10, torch.float16)
    # A filtered unit impulse is the product of its axes, to the last bit, and 50 times cheaper that way.
    z, y, x = (gaussian_filter1d(_impulse(n), n / 8, mode="constant") for n in patch)
    weight = torch.from_numpy((z[:, None] * y)[:, :, None] * x)
    weight = (weight / (weight.max() / peak)).to(dtype)
    weight[weight == 0] = weight[weight > 0].min()
    return weight.to(device)


def _impulse(size: int) -> NDArray[np.float64]:
    impulse = np.zeros(size)
    impulse[size // 2] = 1
    return impulse


def tile(
    image: NDArray[np.float32], channels: Sequence[int], patch: Shape, recipe: Recipe, device: torch.device
) -> Tiling:
    """Lay windows of a patch size over the given channels of a crop (c, z, y, x), on the device."""
    _, z, y, x = image.shape
    size, inner = padded_grid((z, y, x), patch)
    padded = torch.zeros(len(channels), *size)
    # Copied through numpy: the image may be a read-only view of shared memory, which torch does not wrap.
    for content, channel in zip(padded.numpy()[(slice(None), *inner)], channels, strict=True):
        content[...] = image[channel]
    volume = padded.to(device)
    windows = tuple(window_slices(start, patch) for start in window_starts(size, patch))
    if recipe == "exact" and len(windows) == 1:
        return Tiling(volume, inner, windows)
    weight = gaussian(patch, recipe, str(device))
    weight_sum = torch.zeros(size, dtype=weight.dtype, device=device)
    for window in windows:
        weight_sum[window].add_(weight)
    return Tiling(volume, inner, windows, weight, weight_sum)


def blend(tiling: Tiling, forward: Callable[[Tensor], Tensor], *, heads: int, windows_per_batch: int) -> Tensor:
    """Logits (heads, z, y, x) of a whole crop, padding removed: fp32 (`exact`) or fp16 (`nnunet`).

    Args:
        tiling: the crop and its windows.
        forward: logits (n, heads, z, y, x) of a batch of windows (n, c, z, y, x); both on the tiling's device,
            whichever computes it.
        heads: number of logits per voxel.
        windows_per_batch: windows per call of `forward`; they are summed in the same order whatever it is.
    """
    inner = (slice(None), *tiling.inner)
    if tiling.weight is None or tiling.weight_sum is None:
        return forward(tiling.volume[None])[0].float()[inner]
    total = tiling.weight_sum.new_zeros((heads, *tiling.weight_sum.shape))
    for first in range(0, len(tiling.windows), windows_per_batch):
        windows = [(slice(None), *window) for window in tiling.windows[first : first + windows_per_batch]]
        batch = torch.stack([tiling.volume[window] for window in windows])
        for window, logits in zip(windows, forward(batch), strict=True):
            total[window].add_(logits * tiling.weight)
    return total.div_(tiling.weight_sum)[inner]
