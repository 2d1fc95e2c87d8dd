"""All members of an ensemble on one device: a preprocessed case in, one label map out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goat_ray.config import Precision
from goat_ray.errors import CaseError, Category, EnsembleError
from goat_ray.labels import LabelScheme
from goat_ray.members.agreement import BitSets, agreement, bit_sets
from goat_ray.members.blending import Recipe, Tiling, blend, tile
from goat_ray.members.ensemble import Ensemble, Member, check_members
from goat_ray.members.forms import compiled, resident
from goat_ray.members.graphs import GraphPool
from goat_ray.members.kernels import cpu_batch
from goat_ray.members.merge import Rule, canonical_probabilities, confidence, decode, quantised_regions
from goat_ray.members.plans import Preprocessing
from goat_ray.members.preprocess import Preprocessed, restore
from goat_ray.members.recovery import HOST, Ladder, Rung
from goat_ray.members.windows import Shape

_TilingKey = tuple[Preprocessing, tuple[int, ...], Shape, torch.device]

_PIECE_VOXELS = 2**20
"""Voxels of a canvas on the host that visit the device together: tens of MB there, little next to one window."""


@dataclass(frozen=True, slots=True)
class PredictorSettings:
    """How to predict. Only `blending`, `decode`, `mirroring`, `precision` and `compiled` can change a label.

    Attributes:
        blending: how overlapping windows are weighed and summed.
        decode: how merged probabilities become labels.
        windows_per_batch: windows per forward pass, at most; see `kernels.cpu_batch`. A member that runs out of
            memory gets fewer.
        mirroring: average each window over the flips that its member was trained with.
        device: a torch device, `cpu` or `cuda:0`.
        threads: CPU threads of torch in this process; None leaves them as they are.
        precision: of the forward passes. On a GPU the halves run in a form of their own, see `gpu_form`, from CUDA
            graphs, and float32 is that, not TF32; a CPU has bfloat16 only, see `kernels.in_bfloat16`.
        compiled: whether the networks are compiled, on a CPU; see `forms.compiled`.
        keep_probabilities: return the merged probabilities too.
    """

    blending: Recipe = "exact"
    decode: Rule = "majority"
    windows_per_batch: int = 4
    mirroring: bool = False
    device: str = "cpu"
    threads: int | None = None
    precision: Precision = "float32"
    compiled: bool = False
    keep_probabilities: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What an ensemble says of one crop.

    Attributes:
        labels: uint8 (z, y, x), grid and axes of the crop.
        confidence: see `merge.confidence`.
        agreement: see `agreement.agreement`.
        member_seconds: wall time of each member, by code.
        probabilities: merged class probabilities, fp32 (4, z, y, x), if they were asked for.
    """

    labels: NDArray[np.uint8]
    confidence: dict[str, float | None]
    agreement: dict[str, dict[str, float | None]]
    member_seconds: dict[str, float]
    probabilities: NDArray[np.float32] | None = None

    def quantised_regions(self) -> NDArray[np.uint8]:
        """See `merge.quantised_regions`; empty unless the probabilities were kept."""
        if self.probabilities is None:
            return np.zeros((0, 0, 0, 0), np.uint8)
        return quantised_regions(torch.from_numpy(self.probabilities)).numpy()


@dataclass(frozen=True, slots=True, eq=False)
class RunningSum:
    """What the first members of an ensemble amount to, for the next predictor to go on with.

    Attributes:
        merged: sum of their weighted class probabilities, fp32 (4, z, y, x).
        drawn: what each would have drawn alone, by code in the order of the sum.
        member_seconds: wall time of each.
    """

    merged: NDArray[np.float32]
    drawn: dict[str, BitSets]
    member_seconds: dict[str, float]


class Predictor:
    """Members of an ensemble, loaded and resident on one device.

    Args:
        ensemble: all members; each has its share of the whole sum.
        settings: how to predict.
        held: codes of the members that this one holds; all when None.

    Raises:
        EnsembleError: a member cannot be loaded or put on the device.
    """

    def __init__(self, ensemble: Ensemble, settings: PredictorSettings, held: Sequence[str] | None = None) -> None:
        check_members(ensemble)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self._settings = settings
        self._device = torch.device(settings.device)
        # The fastest algorithm may differ from worker to worker, and with it the last bits.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        # Otherwise convolutions in float32 keep 10 bits of each factor.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._graphs = GraphPool() if self._device.type != "cpu" and settings.precision != "float32" else None
        self._members = [
            (member, self._network(member), self._ladder_of(member))
            for member in ensemble.members
            if held is None or member.code in held
        ]
        self._decoder = self._ladder("the decoder", 1)
        self._total_weight = sum(member.weight for member in ensemble.members)

    def _network(self, member: Member) -> nn.Module:
        settings = self._settings
        plain = settings.precision == "float32" and settings.blending == "nnunet"
        network = resident(member, self._device, settings.precision, self._graphs, plain=plain)
        return compiled(network, self._device) if settings.compiled else network

    def _ladder_of(self, member: Member) -> Ladder:
        windows = self._settings.windows_per_batch
        if self._device.type == "cpu":
            windows = cpu_batch(member.patch_size, windows)
        return self._ladder(f"member {member.code}", windows)

    def _ladder(self, who: str, windows_per_batch: int) -> Ladder:
        rung = Rung(windows_per_batch, self._device)
        if self._graphs is None:
            return Ladder(who, rung)
        # They keep the memory of a whole pass, and can be done without.
        return Ladder(who, rung, partial(self._graphs.close, f"{who} ran out of memory"))

    @property
    def device_peak_bytes(self) -> int | None:
        """Most memory of the device that torch has held for this process so far; None on CPUs."""
        return torch.cuda.max_memory_reserved(self._device) if self._device.type == "cuda" else None

    def predict(self, volumes: Mapping[Preprocessing, Preprocessed], before: RunningSum | None = None) -> Prediction:
        """Merge all members' probabilities of one case, in manifest order, and decode them.

        Whoever runs out of device memory tries again in less of it, see `recovery.Rung`. Forward passes and
        exponentials stay on the device, and the rest is IEEE arithmetic in the same order wherever it runs. Only
        a network's own kernels may round differently in a smaller batch (oneDNN: 2e-6 of a logit, measured).

        Args:
            volumes: the case, once for each preprocessing among the members, channels as in `MODALITIES`.
            before: the sum of the members that come before the ones held here, if there are any.

        Raises:
            CaseError: `non_finite_output`, `out_of_memory` or `model_failed`, naming the member; never a
                result of fewer members than the ensemble has.
            DeviceLostError: the device failed for good; the case may be sound.
        """
        case = _Case(volumes, before)
        with torch.inference_mode():
            self._add_members(case)
            return self._decoder.run(partial(self._decoded, case))

    def add(self, volumes: Mapping[Preprocessing, Preprocessed], before: RunningSum | None = None) -> RunningSum:
        """The sum of one case's members up to the last one held here; see `predict`."""
        case = _Case(volumes, before)
        with torch.inference_mode():
            self._add_members(case)
            return RunningSum(_sum_of(case).cpu().numpy(), case.drawn, case.seconds)

    def _add_members(self, case: "_Case") -> None:
        for member, network, ladder in self._members:
            started = time.perf_counter()
            ladder.run(partial(self._add, case, member, network))
            case.seconds[member.code] = time.perf_counter() - started

    def _add(self, case: "_Case", member: Member, network: nn.Module, rung: Rung) -> None:
        case.make_room(rung)
        share = self._probabilities(case, member, network, rung)
        case.drawn[member.code] = bit_sets(decode(share, self._settings.decode).cpu().numpy())
        # Divided, not multiplied: seven equal weights are then p / 7 to the last bit. By a tensor, since CUDA
        # multiplies by the reciprocal of a plain number.
        case.add(share.div_(share.new_tensor(self._total_weight / member.weight)))

    def _probabilities(self, case: "_Case", member: Member, network: nn.Module, rung: Rung) -> Tensor:
        logits = self._logits(case.tiling(member, self._settings.blending, rung.canvas), member, network, rung)
        _check_finite(logits, member.code)
        volume, spec = case.volumes[member.preprocessing], member.preprocessing
        if tuple(logits.shape[1:]) != volume.crop_shape or spec.transpose != (0, 1, 2):
            logits = torch.from_numpy(restore(logits.cpu().numpy(), volume, spec)).to(rung.canvas)
        if rung.canvas == self._device:
            return canonical_probabilities(logits, member.scheme)
        return _by_pieces(logits, member.scheme, self._device)

    def _logits(self, tiling: Tiling, member: Member, network: nn.Module, rung: Rung) -> Tensor:
        settings = self._settings
        flips = _flips(member.card.mirroring_axes) if settings.mirroring else []
        return blend(
            tiling,
            lambda windows: _mirrored(network, windows.to(self._device), flips).to(rung.canvas),
            heads=len(member.scheme.channels),
            windows_per_batch=rung.windows_per_batch,
        )

    def _decoded(self, case: "_Case", rung: Rung) -> Prediction:
        case.make_room(rung)
        merged = _sum_of(case)
        labels = decode(merged, self._settings.decode)
        return Prediction(
            labels=labels.cpu().numpy(),
            confidence=confidence(merged, labels),
            agreement=agreement(case.drawn.values()),
            member_seconds=case.seconds,
            probabilities=merged.cpu().numpy() if self._settings.keep_probabilities else None,
        )


class _Case:
    """A case under way: its windows, what each member would have drawn alone, and the sum of the members so far.

    Once a rung has put the sum on the host, it never returns from there.
    """

    def __init__(self, volumes: Mapping[Preprocessing, Preprocessed], before: RunningSum | None) -> None:
        self.volumes = volumes
        self.merged: Tensor | None = None
        self.drawn: dict[str, BitSets] = {}
        self.seconds: dict[str, float] = {}
        self._arriving = before is not None
        if before is not None:
            self.merged = torch.from_numpy(before.merged.copy())  # what comes from a store is read-only
            self.drawn |= before.drawn
            self.seconds |= before.member_seconds
        self._tilings: dict[_TilingKey, Tiling] = {}

    def tiling(self, member: Member, recipe: Recipe, canvas: torch.device) -> Tiling:
        """The windows for a member, laid once for all that share them."""
        spec, channels, patch = member.preprocessing, member.channel_index, member.patch_size
        key = (spec, channels, patch, canvas)
        if key not in self._tilings:
            self._tilings[key] = tile(self.volumes[spec].image, channels, patch, recipe, canvas)
        return self._tilings[key]

    def add(self, share: Tensor) -> None:
        """Add a member's weighted probabilities (4, z, y, x)."""
        self.merged = share if self.merged is None else self.merged.add_(share.to(self.merged.device))

    def make_room(self, rung: Rung) -> None:
        """Leave the device if a rung has no canvas there; a sum that has just arrived goes to where it has one."""
        if self._arriving and self.merged is not None:
            self.merged = self.merged.to(rung.canvas)
            self._arriving = False
        if rung.canvas == HOST:
            self._tilings = {key: tiling for key, tiling in self._tilings.items() if key[-1] == HOST}
            self.merged = None if self.merged is None else self.merged.to(HOST)


def _sum_of(case: _Case) -> Tensor:
    if case.merged is None:
        raise EnsembleError("the ensemble has no members")
    return case.merged


def _flips(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every combination of a member's mirroring axes, in nnU-Net's order, as axes of a batch."""
    return [flip for count in range(len(axes)) for flip in combinations([a + 2 for a in axes], count + 1)]


def _mirrored(network: nn.Module, windows: Tensor, flips: list[tuple[int, ...]]) -> Tensor:
    logits: Tensor = network(windows)
    for flip in flips:
        logits = logits + torch.flip(network(torch.flip(windows, flip)), flip)
    return logits / (len(flips) + 1) if flips else logits


def _by_pieces(logits: Tensor, scheme: LabelScheme, device: torch.device) -> Tensor:
    """Canonical probabilities, on the host, of logits there: computed on the device, whose exponentials differ."""
    flat = logits.flatten(1)
    pieces = (flat[:, first : first + _PIECE_VOXELS].to(device) for first in range(0, flat.shape[1], _PIECE_VOXELS))
    done = torch.cat([canonical_probabilities(piece, scheme).to(flat.device) for piece in pieces], dim=1)
    return done.reshape(len(done), *logits.shape[1:])


def _check_finite(logits: Tensor, code: str) -> None:
    # The extremes of an array with a NaN are NaN; one pass instead of an array of flags.
    if not all(torch.isfinite(extreme) for extreme in torch.aminmax(logits)):
        count = int((~torch.isfinite(logits)).any(dim=0).sum())
        raise CaseError(
            Category.NON_FINITE_OUTPUT,
            f"member {code} gave infinite or undefined logits in {count} of {logits[0].numel()} voxels",
            "look for extreme intensities in the images; blending `exact` and full precision overflow last",
        )
