"""From a brain crop to what the networks read, and back: nnU-Net's z-score and resampling, bit for bit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from goat_ray.errors import CaseError, Category, EnsembleError
from goat_ray.imaging.header import MAX_SIDE, MAX_VOXELS
from goat_ray.labels import Mask
from goat_ray.members.plans import Preprocessing
from goat_ray.members.windows import Shape

Spacing = tuple[float, float, float]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class Preprocessed:
    """What all members of one preprocessing read of a case.

    Attributes:
        image: normalised fp32 (c, z, y, x); channels as given, axes transposed and resampled as planned.
        crop_shape: shape (z, y, x) of the crop it comes from, before transposing and resampling.
        crop_spacing_mm: spacing (z, y, x) of that crop.
    """

    image: NDArray[np.float32]
    crop_shape: Shape
    crop_spacing_mm: Spacing


def preprocessing_problem(spec: Preprocessing) -> str | None:
    """Why `preprocess` cannot do what the plans ask, alike for every order of the channels; or None."""
    foreign = sorted(set(spec.normalization) - {"ZScoreNormalization"})
    if foreign:
        return f"its normalisation is {', '.join(foreign)}; only ZScoreNormalization is supported"
    if len(set(spec.use_mask)) != 1:
        return "it normalises some channels inside the brain mask and others without it"
    return None


def preprocess(crop: NDArray[Any], mask: Mask, spacing_mm: Sequence[float], spec: Preprocessing) -> Preprocessed:
    """Normalise a crop, and resample it if its spacing asks for another shape.

    The same bits as nnU-Net's `DefaultPreprocessor`. (Where plans use no mask, the mean is summed in memory
    order as there: to the last bit only for a crop that is a view of the whole fp32 volume.)

    Args:
        crop: images (c, z, y, x), cropped to the brain; any dtype that fp32 can take.
        mask: hole-filled brain mask (z, y, x) of the crop.
        spacing_mm: voxel spacing (z, y, x) of the crop.
        spec: the members' preprocessing.

    Raises:
        EnsembleError: see `preprocessing_problem`.
        CaseError: `too_large` when the planned spacing would make the crop so.
    """
    if problem := preprocessing_problem(spec):
        raise EnsembleError(problem)
    _, z, y, x = crop.shape
    inside = mask.transpose(spec.transpose) if spec.use_mask[0] else None
    channels = crop.transpose(0, *(1 + axis for axis in spec.transpose))
    image = np.empty(channels.shape, dtype=np.float32)
    for scored, channel in zip(image, channels, strict=True):
        _z_score(channel.astype(np.float32, copy=False), inside, out=scored)
    spacing = _transposed(spacing_mm, spec)
    old_shape = _transposed((z, y, x), spec)
    shape = tuple(round(now / planned * n) for now, planned, n in zip(spacing, spec.spacing_mm, old_shape, strict=True))
    _check_size(shape, spacing)
    image = _resample(image, shape, spacing, spec.spacing_mm, order=3)
    return Preprocessed(image, (z, y, x), (spacing_mm[0], spacing_mm[1], spacing_mm[2]))


def restore(logits: NDArray[Any], volume: Preprocessed, spec: Preprocessing) -> NDArray[Any]:
    """Logits (heads, z, y, x) on the crop's own grid and axes, from logits on the grid of `volume.image`.

    Interpolated linearly as in nnU-Net, dtype kept; a view of the same data where nothing was resampled.
    """
    shape = _transposed(volume.crop_shape, spec)
    spacing = _transposed(volume.crop_spacing_mm, spec)
    restored = _resample(logits, shape, spec.spacing_mm, spacing, order=1)
    return restored.transpose(0, *(1 + spec.transpose.index(axis) for axis in range(3)))


def _check_size(shape: Sequence[int], spacing_mm: Sequence[float]) -> None:
    """A spacing that is wrong in the header must not become an allocation."""
    if not (1 <= math.prod(shape) <= MAX_VOXELS and max(shape) <= MAX_SIDE):
        raise CaseError(
            Category.TOO_LARGE,
            f"resampled from {_shown(spacing_mm)} mm the brain would have {_shown(shape)} voxels; at least one, at "
            f"most {MAX_VOXELS} and {MAX_SIDE} a side were expected",
            "Check the voxel size in the headers.",
        )


def _shown(values: Sequence[float]) -> str:
    return "×".join(f"{value:g}" for value in values)


def _transposed(values: Sequence[_T], spec: Preprocessing) -> tuple[_T, ...]:
    return tuple(values[axis] for axis in spec.transpose)


def _z_score(channel: NDArray[np.float32], inside: Mask | None, out: NDArray[np.float32]) -> None:
    if inside is None:
        np.divide(channel - channel.mean(), max(channel.std(), 1e-8), out=out)
        return
    values = channel[inside]
    out[...] = channel
    out[inside] = (values - values.mean()) / max(values.std(), 1e-8)


def _resample(
    image: NDArray[Any],
    shape: tuple[int, ...],
    from_mm: Sequence[float],
    to_mm: Sequence[float],
    *,
    order: int,
) -> NDArray[Any]:
    if image.shape[1:] == shape:
        return image
    # Imported here: it takes seconds and brings torch along, and few cohorts need it.
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    resampled: NDArray[Any] = resample_data_or_seg_to_shape(
        image, shape, from_mm, to_mm, is_seg=False, order=order, order_z=0, force_separate_z=None
    )
    return resampled
