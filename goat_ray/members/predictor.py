"""All members of an ensemble on one device: a preprocessed case in, one label map out."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goat_ray.errors import CaseError, Category, EnsembleError
from goat_ray.members.blending import Recipe, Tiling, blend, tile
from goat_ray.members.ensemble import Ensemble, Member, check_members, load_network
from goat_ray.members.kernels import with_group_norm
from goat_ray.members.merge import Rule, canonical_probabilities, confidence, decode
from goat_ray.members.plans import Preprocessing
from goat_ray.members.preprocess import Preprocessed, preprocessing_problem, restore
from goat_ray.members.windows import Shape

_TilingKey = tuple[Preprocessing, tuple[int, ...], Shape]


@dataclass(frozen=True, slots=True)
class PredictorSettings:
    """How to predict. Only `blending`, `decode`, `mirroring` and `precision` can change a label.

    Attributes:
        blending: how overlapping windows are weighed and summed.
        decode: how merged probabilities become labels.
        windows_per_batch: windows per forward pass; more are faster and take more memory.
        mirroring: average each window over the flips that its member was trained with.
        device: a torch device, `cpu` or `cuda:0`.
        threads: CPU threads of torch in this process; None leaves them as they are.
        precision: of the forward passes; half precisions run under autocast as nnU-Net does on a GPU.
        keep_probabilities: return the merged probabilities too.
    """

    blending: Recipe = "exact"
    decode: Rule = "majority"
    windows_per_batch: int = 4
    mirroring: bool = False
    device: str = "cpu"
    threads: int | None = None
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    keep_probabilities: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What an ensemble says of one crop.

    Attributes:
        labels: uint8 (z, y, x), grid and axes of the crop.
        confidence: see `merge.confidence`.
        member_seconds: wall time of each member, by code.
        probabilities: merged class probabilities, fp32 (4, z, y, x), if they were asked for.
    """

    labels: NDArray[np.uint8]
    confidence: dict[str, float | None]
    member_seconds: dict[str, float]
    probabilities: NDArray[np.float32] | None = None


class Predictor:
    """Every member of an ensemble, loaded and resident on one device.

    Raises:
        EnsembleError: a member cannot be loaded or put on the device.
    """

    def __init__(self, ensemble: Ensemble, settings: PredictorSettings) -> None:
        check_members(ensemble)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self._settings = settings
        self._device = torch.device(settings.device)
        # The fastest algorithm may differ from worker to worker, and with it the last bits.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        self._members = [(member, _resident(member, settings)) for member in ensemble.members]
        self._total_weight = sum(member.weight for member in ensemble.members)

    def predict(self, volumes: Mapping[Preprocessing, Preprocessed]) -> Prediction:
        """Merge all members' probabilities of one case, in manifest order, and decode them.

        Args:
            volumes: the case, once for each preprocessing among the members, channels as in `MODALITIES`.

        Raises:
            CaseError: `non_finite_output`, `out_of_memory` or `model_failed`, naming the member; never a
                result of fewer members than the ensemble has.
        """
        merged: Tensor | None = None
        seconds: dict[str, float] = {}
        tilings: dict[_TilingKey, Tiling] = {}
        with torch.inference_mode():
            for member, network in self._members:
                started = time.perf_counter()
                with _blamed_on(f"member {member.code}"):
                    share = self._probabilities(member, network, volumes[member.preprocessing], tilings)
                    # Divided, not multiplied: seven equal weights are then p / 7 to the last bit.
                    share.div_(self._total_weight / member.weight)
                    merged = share if merged is None else merged.add_(share)
                seconds[member.code] = time.perf_counter() - started
            if merged is None:
                raise EnsembleError("the ensemble has no members")
            with _blamed_on("the decoder"):
                return self._decoded(merged, seconds)

    def _probabilities(
        self, member: Member, network: nn.Module, volume: Preprocessed, tilings: dict[_TilingKey, Tiling]
    ) -> Tensor:
        key = (member.preprocessing, member.channel_index, member.patch_size)
        if key not in tilings:
            tilings[key] = tile(
                volume.image, member.channel_index, member.patch_size, self._settings.blending, self._device
            )
        logits = self._logits(member, network, tilings[key])
        _check_finite(logits, member.code)
        spec = member.preprocessing
        if tuple(logits.shape[1:]) != volume.crop_shape or spec.transpose != (0, 1, 2):
            logits = torch.from_numpy(restore(logits.cpu().numpy(), volume, spec)).to(self._device)
        return canonical_probabilities(logits, member.scheme)

    def _logits(self, member: Member, network: nn.Module, tiling: Tiling) -> Tensor:
        settings = self._settings
        flips = _flips(member.card.mirroring_axes) if settings.mirroring else []
        half = settings.precision != "float32"
        with torch.autocast(self._device.type, getattr(torch, settings.precision), enabled=half):
            return blend(
                tiling,
                lambda windows: _mirrored(network, windows, flips),
                heads=len(member.scheme.channels),
                windows_per_batch=settings.windows_per_batch,
            )

    def _decoded(self, merged: Tensor, seconds: dict[str, float]) -> Prediction:
        labels = decode(merged, self._settings.decode)
        return Prediction(
            labels=labels.cpu().numpy(),
            confidence=confidence(merged, labels),
            member_seconds=seconds,
            probabilities=merged.cpu().numpy() if self._settings.keep_probabilities else None,
        )


def _resident(member: Member, settings: PredictorSettings) -> nn.Module:
    """A member's network on the device, in its fastest form unless bits have to match nnU-Net's."""
    if problem := preprocessing_problem(member.preprocessing):
        raise EnsembleError(f"member {member.code}: {problem}")
    network = load_network(member)
    if settings.device == "cpu" and settings.blending == "exact":
        network = with_group_norm(network)
    try:
        return network.to(settings.device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises the latter
        reason = f"cannot be put on {settings.device}: {_first_line(error)}"
        raise EnsembleError(f"member {member.code} {reason}") from error


def _flips(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every combination of a member's mirroring axes, in nnU-Net's order, as axes of a batch."""
    return [flip for count in range(len(axes)) for flip in combinations([a + 2 for a in axes], count + 1)]


def _mirrored(network: nn.Module, windows: Tensor, flips: list[tuple[int, ...]]) -> Tensor:
    logits: Tensor = network(windows)
    for flip in flips:
        logits = logits + torch.flip(network(torch.flip(windows, flip)), flip)
    return logits / (len(flips) + 1) if flips else logits


def _check_finite(logits: Tensor, code: str) -> None:
    # The extremes of an array with a NaN are NaN; one pass instead of an array of flags.
    if not all(torch.isfinite(extreme) for extreme in torch.aminmax(logits)):
        count = int((~torch.isfinite(logits)).any(dim=0).sum())
        raise CaseError(
            Category.NON_FINITE_OUTPUT,
            f"member {code} gave infinite or undefined logits in {count} of {logits[0].numel()} voxels",
            "look for extreme intensities in the images; blending `exact` and full precision overflow last",
        )


@contextmanager
def _blamed_on(who: str) -> Iterator[None]:
    """Turn what torch raises into the case's failure, saying who raised it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            raise CaseError(
                Category.OUT_OF_MEMORY,
                f"{who} ran out of memory: {_first_line(error)}",
                "lower windows_per_batch, or run fewer workers on the device",
            ) from error
        raise CaseError(Category.MODEL_FAILED, f"{who} failed: {_first_line(error)}", "see the worker's log") from error


def _is_out_of_memory(error: Exception) -> bool:
    # A failed allocation on the CPU is a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
