"""What an ensemble holds, and whether every member of it really loads and runs."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from goat_ray.errors import EnsembleError
from goat_ray.members.ensemble import Member, load_member, load_network, manifest_folder, read_manifest
from goat_ray.members.plans import Architecture, Triple
from goat_ray.members.windows import padded_grid, window_starts

TYPICAL_CROP_MM = (140, 171, 136)
"""Median brain crop of the BraTS-GoAT training cases, (z, y, x) in mm."""

# Full-resolution feature maps alive at the peak of a forward pass, counted operation by operation on the
# published networks: 5.7 (ResEnc, 128³ and 160×192×160 patches) and 7.7 (U-Mamba-Bot, 128³), rounded up.
_LIVE_MAPS = {"plain_conv": 6, "residual_encoder": 6, "umamba_bot": 8, "umamba_bot_upstream": 8}


@dataclass(frozen=True, slots=True)
class MemberSummary:
    """One row of `goat-ray ensemble inspect`; `problem` says why a member cannot be run, if so."""

    code: str
    network: str
    trainer: str
    parameters: int
    patch_size: Triple
    windows: int
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    vram_fp16_gb: float
    vram_fp32_gb: float
    weight: float
    sha256: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome for one member; `problem` is None when everything held."""

    code: str
    problem: str | None


def describe(member: Member, crop_mm: tuple[int, int, int] = TYPICAL_CROP_MM) -> MemberSummary:
    """Facts of one member, and what a case whose brain crop is `crop_mm` (z, y, x) costs it.

    VRAM is an estimate for one window at a time, in GB (10⁹ bytes): parameters, plus 6 (convolutional
    decoder) or 8 (residual decoder) maps of the first stage's features at patch size. It holds within 6 % for
    ResEnc M and L and for U-Mamba-Bot; the case's own volume and running sum (about 0.15 GB) come on top.
    """
    card = member.card
    return MemberSummary(
        code=member.code,
        network=card.architecture.family,
        trainer=card.trainer,
        parameters=card.parameters,
        patch_size=card.patch_size,
        windows=_windows(member, crop_mm),
        channels=card.channels,
        labels=card.labels.channels,
        vram_fp16_gb=_vram_gb(member, bytes_per_value=2),
        vram_fp32_gb=_vram_gb(member, bytes_per_value=4),
        weight=member.weight,
        sha256=member.sha256[:12],
        problem=member.problem(),
    )


def verify(path: str | Path) -> list[Verification]:
    """Re-hash every member of a manifest, load it strictly and run it once on a small patch of noise.

    Raises:
        EnsembleError: the manifest itself cannot be used.
    """
    _, entries = read_manifest(str(path))
    folder = manifest_folder(str(path))
    outcomes = []
    for entry in entries:
        try:
            _run_once(load_member(folder, entry))
        except EnsembleError as error:
            outcomes.append(Verification(entry.code, str(error)))
        else:
            outcomes.append(Verification(entry.code, None))
    return outcomes


def smallest_input(architecture: Architecture) -> Triple:
    """Shape of the smallest patch (z, y, x) on which every instance norm still has two voxels to average."""
    z, y, x = (prod(stride[axis] for stride in architecture.strides) for axis in range(3))
    return 2 * z, y, x


def _run_once(member: Member) -> None:
    network = load_network(member)
    shape = smallest_input(member.architecture)
    noise = torch.randn(1, len(member.card.channels), *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(noise)
    expected = (1, len(member.scheme.channels), *shape)
    if tuple(logits.shape) != expected:
        raise EnsembleError(f"member {member.code}: output has shape {tuple(logits.shape)}, expected {expected}")
    if not bool(torch.isfinite(logits).all()):
        raise EnsembleError(f"member {member.code}: output on plain noise is not finite; the weights are damaged")


def _windows(member: Member, crop_mm: tuple[int, int, int]) -> int:
    spec = member.preprocessing
    first, second, third = (
        round(crop_mm[axis] / step) for axis, step in zip(spec.transpose, spec.spacing_mm, strict=True)
    )
    grid, _ = padded_grid((first, second, third), member.patch_size)
    return len(window_starts(grid, member.patch_size))


def _vram_gb(member: Member, bytes_per_value: int) -> float:
    architecture = member.architecture
    activations = _LIVE_MAPS[architecture.family] * architecture.features[0] * prod(member.patch_size)
    return round(bytes_per_value * (member.card.parameters + activations) / 1e9, 2)
