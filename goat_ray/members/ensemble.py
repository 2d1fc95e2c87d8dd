"""The ensemble manifest: which members, with which weights, every byte of them verified by hash."""

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import yaml
from pydantic import Field, field_validator
from pydantic_core import from_json

from goat_ray import storage
from goat_ray.config import Settings, parse_yaml, validated
from goat_ray.errors import ConfigError, EnsembleError, StorageError
from goat_ray.labels import MODALITIES, LabelScheme
from goat_ray.members.cards import CARD_FILE, CODE_PATTERN, SHA256_PATTERN, WEIGHTS_FILE, MemberCard
from goat_ray.members.plans import Architecture, Preprocessing, Triple

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1


class ManifestMember(Settings):
    """One line of the manifest: where a member lies and what its files must hash to."""

    code: str = Field(pattern=CODE_PATTERN)
    path: str = Field(max_length=1024, description="folder of the member, relative to the manifest")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    weights_sha256: str = Field(pattern=SHA256_PATTERN)
    card_sha256: str = Field(pattern=SHA256_PATTERN)

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if "\\" in path or "://" in path or PurePosixPath(path).is_absolute() or ".." in path.split("/"):
            raise ValueError(f"{path!r} leaves the manifest's folder; expected a relative path below it")
        return path


class Manifest(Settings):
    """The content of an `ensemble.yaml`."""

    goat_ray_ensemble: int
    name: str = Field(min_length=1)
    members: tuple[dict[str, Any], ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Member:
    """A member whose files are at hand; `sha256` is that of its weights."""

    code: str
    card: MemberCard
    weights: Path
    sha256: str
    card_sha256: str
    weight: float = 1.0

    @property
    def architecture(self) -> Architecture:
        """What `networks.build_network` builds."""
        return self.card.architecture

    @property
    def preprocessing(self) -> Preprocessing:
        """How a case becomes this member's input; equal for members that can share it."""
        return self.card.preprocessing

    @property
    def patch_size(self) -> Triple:
        """Window size in voxels, in the network's axes."""
        return self.card.patch_size

    @property
    def scheme(self) -> LabelScheme:
        """What the network's heads mean."""
        return self.card.labels

    @property
    def channel_index(self) -> tuple[int, ...]:
        """Index into `MODALITIES` of each input channel; only of a member without a `problem`."""
        return tuple(MODALITIES.index(name) for name in self.card.channels)

    def problem(self) -> str | None:
        """Why this member cannot run on our cases, or None when it can."""
        return self.card.problem()


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Members in the order their probabilities are summed, and one hash over all that can change a result."""

    name: str
    members: tuple[Member, ...]
    sha256: str


def check_members(ensemble: Ensemble) -> None:
    """Refuse members that can be inspected but not run on our cases.

    Raises:
        EnsembleError: naming each such member and why.
    """
    problems = [f"member {member.code}: {problem}" for member in ensemble.members if (problem := member.problem())]
    if problems:
        raise EnsembleError("; ".join(problems))


def load_ensemble(path: str | Path, members: Sequence[str] | None = None) -> Ensemble:
    """Read a manifest and verify every file of its members; no weights are loaded and torch is not needed.

    Weights of a remote manifest are copied once into the user's cache (`XDG_CACHE_HOME`), named by hash.

    Args:
        path: an `ensemble.yaml`, local or remote.
        members: codes to keep, in any order; the manifest's order stays. All when None.

    Raises:
        EnsembleError: the manifest is malformed, a code is unknown, a file is missing or has another hash.
    """
    name, entries = read_manifest(str(path))
    folder = manifest_folder(str(path))
    loaded = tuple(load_member(folder, entry) for entry in _selected(entries, members))
    identity = [[m.code, m.weight, m.sha256, m.card_sha256] for m in loaded]
    return Ensemble(name, loaded, hashlib.sha256(json.dumps(identity).encode()).hexdigest())


def read_manifest(path: str) -> tuple[str, tuple[ManifestMember, ...]]:
    """The name of an ensemble and its entries, checked in form only.

    Raises:
        EnsembleError: the file cannot be read, or is of another version or form; unknown keys are named
            with the nearest valid one.
    """
    try:
        values = parse_yaml(storage.read_bytes(path))
        manifest = validated(Manifest, values, path)
        if manifest.goat_ray_ensemble != FORMAT:
            raise EnsembleError(f"{path}: format {manifest.goat_ray_ensemble}, this version reads format {FORMAT}")
        entries = tuple(
            validated(ManifestMember, entry, f"{path}, member {number}")
            for number, entry in enumerate(manifest.members, start=1)
        )
    except (yaml.YAMLError, ValueError) as error:
        raise EnsembleError(f"{path}: cannot be read as YAML ({error})") from error
    except (ConfigError, StorageError) as error:
        raise EnsembleError(str(error)) from error
    codes = [entry.code for entry in entries]
    if repeated := sorted({code for code in codes if codes.count(code) > 1}):
        raise EnsembleError(f"{path}: more than one member is called {', '.join(repeated)}")
    return manifest.name, entries


def manifest_folder(path: str) -> str:
    """The folder, local or remote, that the manifest's members lie in."""
    return path.rpartition("/")[0] if _is_remote(path) else str(Path(path).expanduser().absolute().parent)


def load_member(folder: str, entry: ManifestMember) -> Member:
    """One member of the manifest in `folder`, its files verified.

    Raises:
        EnsembleError: a file is missing, has another hash, or the card is malformed.
    """
    base = storage.join(folder, entry.path)
    card = _read_card(storage.join(base, CARD_FILE), entry)
    weights = _local_weights(storage.join(base, WEIGHTS_FILE), entry)
    return Member(entry.code, card, weights, entry.weights_sha256, entry.card_sha256, entry.weight)


def load_network(member: Member) -> "nn.Module":
    """The member's network on the CPU in evaluation mode; its weights stay mapped in their file.

    Raises:
        EnsembleError: names, shapes or dtypes of the weights are not exactly the network's.
    """
    # Only here: a driver reads manifests and never needs torch.
    import torch

    from goat_ray.members.networks import build_network
    from goat_ray.members.weights import assign_weights, load_weights

    with torch.device("meta"):
        network = build_network(member.architecture, len(member.card.channels), len(member.scheme.channels))
    try:
        assign_weights(network, load_weights(member.weights))
    except EnsembleError as error:
        raise EnsembleError(f"member {member.code}: {error}") from error
    return network.eval()


def file_sha256(path: Path) -> str:
    """Hash of a file of any size, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _selected(entries: Sequence[ManifestMember], codes: Sequence[str] | None) -> Iterable[ManifestMember]:
    if codes is None:
        return entries
    known = [entry.code for entry in entries]
    for code in codes:
        if code not in known:
            near = difflib.get_close_matches(code, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise EnsembleError(f"no member {code!r} in the ensemble; {hint}")
    if not codes:
        raise EnsembleError(f"no member was chosen; there are {', '.join(known)}")
    return [entry for entry in entries if entry.code in codes]


def _is_remote(uri: str) -> bool:
    return "://" in uri


def _read_card(uri: str, entry: ManifestMember) -> MemberCard:
    data = _fetched(uri, entry)
    _check_hash(hashlib.sha256(data).hexdigest(), entry.card_sha256, uri, entry)
    try:
        card = validated(MemberCard, from_json(data, allow_inf_nan=False), uri)
    except (ConfigError, ValueError) as error:
        raise EnsembleError(f"member {entry.code}: no member card of this version: {error}") from error
    if card.code != entry.code:
        raise EnsembleError(f"member {entry.code}: {uri} is the card of {card.code}")
    if fault := card.fault():
        raise EnsembleError(f"member {entry.code}: {uri}: {fault}")
    return card


def _local_weights(uri: str, entry: ManifestMember) -> Path:
    if not _is_remote(uri):
        path = Path(uri)
        if not path.is_file():
            raise EnsembleError(f"member {entry.code}: its weights {uri} are missing; import it again")
        try:
            found = file_sha256(path)
        except OSError as error:
            raise EnsembleError(f"member {entry.code}: {uri} cannot be read ({error.strerror})") from error
        _check_hash(found, entry.weights_sha256, uri, entry)
        return path
    path = _cache() / f"{entry.weights_sha256}.safetensors"
    if not path.is_file() or file_sha256(path) != entry.weights_sha256:
        data = _fetched(uri, entry)
        _check_hash(hashlib.sha256(data).hexdigest(), entry.weights_sha256, uri, entry)
        partial = path.with_name(f"{path.name}.{uuid4().hex}")
        partial.write_bytes(data)
        partial.replace(path)
    return path


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "goat-ray" / "weights"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnsembleError(
            f"remote weights need a cache, and {folder} cannot be made ({error.strerror}); "
            "set XDG_CACHE_HOME to a writable folder"
        ) from error
    return folder


def _fetched(uri: str, entry: ManifestMember) -> bytes:
    try:
        return storage.read_bytes(uri)
    except StorageError as error:
        raise EnsembleError(f"member {entry.code}: {error}") from error


def _check_hash(found: str, expected: str, uri: str, entry: ManifestMember) -> None:
    if found != expected:
        raise EnsembleError(
            f"member {entry.code}: {uri} has sha256 {found[:12]}…, the manifest says {expected[:12]}…; "
            "restore the file or import the member again"
        )
