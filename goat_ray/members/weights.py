"""Weights on disk and in networks: nnU-Net checkpoints read without executing pickle, and safetensors."""

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from goat_ray.errors import EnsembleError

# What nnU-Net's checkpoints hold besides what torch allows anyway: numpy scalars in the training log.
# numpy 2 moved `core` to `_core`; both names mean the same function.
_SCALAR = np.float64().__reduce__()[0]
_ALLOWED_GLOBALS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64", "bool")),
]
_CONVERSION = (
    "If you trust the file, convert it where it was trained and import the result: "
    "c = torch.load(path, map_location='cpu', weights_only=False); torch.save({key: c[key] for key in "
    "('network_weights', 'trainer_name', 'inference_allowed_mirroring_axes')}, new_path)"
)
_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")
_SHOWN_DIFFERENCES = 12


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a member needs of an nnU-Net checkpoint; `weights` may lie in the mapped file."""

    weights: dict[str, Tensor]
    trainer: str
    mirroring_axes: tuple[int, ...]
    configuration: str | None
    fold: str | None
    epoch: int | None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads an nnU-Net v2 `checkpoint_*.pth` without executing anything in it.

    Raises:
        EnsembleError: the file cannot be read, is no nnU-Net checkpoint, or needs more than plain data.
    """
    content = _load_plain_data(Path(path))
    if not isinstance(content, dict):
        raise EnsembleError(f"{path} is no nnU-Net v2 checkpoint (a {type(content).__name__})")
    try:
        weights = dict(content["network_weights"])
        arguments = content.get("init_args") or {}
        epoch = content.get("current_epoch")
        checkpoint = Checkpoint(
            weights=weights,
            trainer=str(content["trainer_name"]),
            mirroring_axes=tuple(int(axis) for axis in content.get("inference_allowed_mirroring_axes") or ()),
            configuration=_text(arguments.get("configuration")),
            fold=_text(arguments.get("fold")),
            epoch=None if epoch is None else int(epoch),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EnsembleError(f"{path} is no nnU-Net v2 checkpoint ({type(error).__name__}: {error})") from error
    strange = [key for key, value in weights.items() if not _holds_values(value)]
    if strange:
        raise EnsembleError(f"{path}: network_weights holds {strange[0]!r}, which is no dense tensor")
    return checkpoint


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _holds_values(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _load_plain_data(path: Path) -> Any:  # noqa: ANN401 - a checkpoint holds anything
    with torch.serialization.safe_globals(_ALLOWED_GLOBALS):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise EnsembleError(f"{path} cannot be read: {error.strerror}") from error
        except Exception as error:  # a damaged or hostile pickle fails in any way
            raise EnsembleError(_refusal(path, error)) from error


def _refusal(path: Path, error: Exception) -> str:
    try:
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - then the file is damaged, and the first error says how
        refused = []
    if refused:
        return f"{path} needs {', '.join(refused)}, which could execute code; it was not loaded. {_CONVERSION}"
    if isinstance(error, pickle.UnpicklingError):
        return f"{path} holds more than plain data and was not loaded. {_CONVERSION}"
    return f"{path} is damaged or no torch checkpoint ({type(error).__name__})"


def canonical_weights(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights under the network's own names, each exactly once, in the network's order.

    nnU-Net's modules are registered under several names, so its checkpoints repeat most tensors: such
    aliases must be equal and are dropped, as are the prefixes of DDP and `torch.compile`.

    Args:
        weights: a checkpoint's or a member's parameters.
        network: decides names, shapes and dtypes; may be on the meta device.

    Raises:
        EnsembleError: aliases differ, or names, shapes or dtypes are not the network's.
    """
    unique: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name = _canonical_name(key)
        if not _same(unique.setdefault(name, tensor), tensor):
            raise EnsembleError(f"{key} should repeat {name}, but their values differ")
    expected = dict(network.named_parameters())
    differences = [
        f"{name}: found {_described(unique.get(name))}, expected {_described(expected.get(name))}"
        for name in {**expected, **unique}
        if _described(unique.get(name)) != _described(expected.get(name))
    ]
    if differences:
        raise EnsembleError(_difference(differences, len(unique), len(expected)))
    return {name: unique[name] for name in expected}


def _canonical_name(key: str) -> str:
    name = _PREFIXES.sub("", key)
    if name.startswith("decoder.encoder."):
        name = name.removeprefix("decoder.")
    return name.replace(".all_modules.0.", ".conv.").replace(".all_modules.1.", ".norm.")


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


def _described(tensor: Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    return f"{str(tensor.dtype).removeprefix('torch.')} {'×'.join(map(str, tensor.shape))}"


def _difference(differences: Iterable[str], found: int, expected: int) -> str:
    lines = [*differences]
    more = len(lines) - _SHOWN_DIFFERENCES
    shown = [*islice(lines, _SHOWN_DIFFERENCES), *([f"and {more} more"] if more > 0 else [])]
    summary = f"{len(lines)} of the weights do not fit the network ({found} found, {expected} expected):"
    return "\n  ".join([summary, *shown])


def assign_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Puts the weights themselves, not copies, into a network built on the meta device.

    Raises:
        EnsembleError: names, shapes or dtypes are not exactly the network's.
    """
    network.load_state_dict(canonical_weights(weights, network), strict=False, assign=True)
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers()]
    unassigned = [name for name, tensor in tensors if tensor.is_meta]
    if unassigned:
        raise EnsembleError(f"the network is incomplete: {unassigned[0]} has no value")


def save_weights(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Writes a safetensors file; equal weights give equal bytes."""
    # Not `save_file`, whose files only their owner can read, whatever the umask: workers may be another user.
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    # Not in place: the weights may be views of the very file.
    unfinished = Path(f"{path}.{uuid4().hex}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Maps a safetensors file into memory; pages are read when a tensor is used.

    Raises:
        EnsembleError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise EnsembleError(f"{path} cannot be read as safetensors: {error}") from error
