"""Instance norm, residual sum and LeakyReLU as Triton kernels over tensors with channels last.

Each statistic is computed about its own chunk's mean, and the chunks are merged as in Chan, Golub and LeVeque,
Algorithms for Computing the Sample Variance (1983): no difference of large sums, no atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# As many as an H100 or H200 runs at once: three to each multiprocessor, for the registers they take (80 a thread).
# Fixed, and not shared out over the samples of a batch: what a window's statistics are may depend neither on the
# device nor on the windows beside it.
_CHUNKS = 3 * 132
_MOST_CHANNELS = 64
_TILE = 8192
_MERGED_CHANNELS = 8


@triton.jit
def _moments(
    x: tl.tensor,
    means: tl.tensor,
    squares: tl.tensor,
    rows: int,
    channels: int,
    tiles: int,
    ROWS: tl.constexpr,  # noqa: N803 - a constant of the compiled kernel
    CHANNELS: tl.constexpr,  # noqa: N803
) -> None:
    """Mean and sum of squared deviations of each channel in one chunk of `tiles` times ROWS voxels."""
    chunk, sample = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    offset = tl.arange(0, ROWS)
    mean = tl.zeros([CHANNELS], tl.float32)
    square = tl.zeros([CHANNELS], tl.float32)
    count = 0.0
    for tile in range(tiles):
        first = (chunk * tiles + tile) * ROWS
        inside = (first + offset < rows)[:, None] & (channel < channels)[None, :]
        start = (sample.to(tl.int64) * rows + first) * channels
        values = tl.load(x + start + offset[:, None] * channels + channel[None, :], mask=inside, other=0.0)
        values = values.to(tl.float32)
        here = tl.minimum(tl.maximum(rows - first, 0), ROWS).to(tl.float32)
        mean_here = tl.sum(values, 0) / tl.maximum(here, 1.0)
        deviation = tl.where(inside, values - mean_here[None, :], 0.0)
        share = here / tl.maximum(count + here, 1.0)
        step = mean_here - mean
        square += tl.sum(deviation * deviation, 0) + step * step * count * share
        mean += step * share
        count += here
    target = (sample.to(tl.int64) * tl.num_programs(0) + chunk) * channels + channel
    tl.store(means + target, mean, mask=channel < channels)
    tl.store(squares + target, square, mask=channel < channels)


@triton.jit
def _merge(
    means: tl.tensor,
    squares: tl.tensor,
    weight: tl.tensor,
    centres: tl.tensor,
    scales: tl.tensor,
    rows: int,
    channels: int,
    chunks: int,
    chunk_rows: int,
    eps: float,
    CHUNKS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
) -> None:
    """Mean, and weight over standard deviation, of each channel of one sample."""
    sample = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    chunk = tl.arange(0, CHUNKS)
    known = channel < channels
    inside = (chunk < chunks)[:, None] & known[None, :]
    source = (sample * chunks + chunk)[:, None] * channels + channel[None, :]
    counts = tl.minimum(tl.maximum(rows - chunk * chunk_rows, 0), chunk_rows).to(tl.float32)[:, None]
    # About one chunk's mean, so that a large mean costs no digits of the differences.
    anchor = tl.load(means + sample * chunks * channels + channel, mask=known, other=0.0)
    away = tl.where(inside, tl.load(means + source, mask=inside, other=0.0) - anchor[None, :], 0.0)
    shift = tl.sum(away * counts, 0) / rows
    spread = tl.where(inside, away - shift[None, :], 0.0)
    total = tl.sum(tl.load(squares + source, mask=inside, other=0.0) + counts * spread * spread, 0)
    gain = tl.load(weight + channel, mask=known, other=0.0)
    tl.store(centres + sample * channels + channel, anchor + shift, mask=known)
    tl.store(scales + sample * channels + channel, gain / tl.sqrt(total / rows + eps), mask=known)


@triton.jit
def _apply(
    x: tl.tensor,
    residual: tl.tensor,
    centres: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: int,
    channels: int,
    slope: float,
    HAS_RESIDUAL: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
) -> None:
    """One tile: centred, scaled, shifted, the residual added, and activated."""
    first, sample = tl.program_id(0) * ROWS, tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    offset = tl.arange(0, ROWS)
    known = channel < channels
    inside = (first + offset < rows)[:, None] & known[None, :]
    at = (sample * rows + first) * channels + offset[:, None] * channels + channel[None, :]
    centre = tl.load(centres + sample * channels + channel, mask=known, other=0.0)
    scale = tl.load(scales + sample * channels + channel, mask=known, other=0.0)
    shift = tl.load(bias + channel, mask=known, other=0.0)
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    values = (values - centre[None, :]) * scale[None, :] + shift[None, :]
    if HAS_RESIDUAL:
        values += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    values = tl.where(values >= 0, values, values * slope)
    tl.store(out + at, values.to(out.dtype.element_ty), mask=inside)


def normalised(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float, slope: float, residual: Tensor | None = None
) -> Tensor:
    """See `fused_norm.normalised`; `x` and the residual have channels last, and so has what is returned."""
    samples, channels, *size = x.shape
    rows = size[0] * size[1] * size[2]
    block = min(triton.next_power_of_2(channels), _MOST_CHANNELS)
    blocks, height = triton.cdiv(channels, block), _TILE // block
    tiles = triton.cdiv(triton.cdiv(rows, height), triton.cdiv(_CHUNKS, blocks))
    chunks = triton.cdiv(rows, tiles * height)
    partial = torch.empty((2, samples, chunks, channels), dtype=torch.float32, device=x.device)
    whole = torch.empty((2, samples, channels), dtype=torch.float32, device=x.device)
    out = torch.empty_like(x, memory_format=torch.channels_last_3d)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # Triton launches on the current device
        _moments[(chunks, blocks, samples)](x, *partial, rows, channels, tiles, height, block, num_warps=8)
        _merge[(triton.cdiv(channels, _MERGED_CHANNELS), samples)](
            *(*partial, weight, *whole, rows, channels, chunks, tiles * height, eps),
            *(triton.next_power_of_2(chunks), _MERGED_CHANNELS),
            num_warps=8,
        )
        _apply[(triton.cdiv(rows, height), blocks, samples)](
            *(x, x if residual is None else residual, *whole, bias, out, rows, channels, slope),
            *(residual is not None, height, block),
            num_warps=8,
        )
    return out
