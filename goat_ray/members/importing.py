"""Trained nnU-Net v2 models become members: safetensors, a card and a manifest, none of it pickle."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
import yaml
from torch import Tensor

from goat_ray.errors import EnsembleError
from goat_ray.labels import label_scheme, modality_of
from goat_ray.members.cards import CARD_FILE, TEXT_FILE, WEIGHTS_FILE, MemberCard, Source, card_text
from goat_ray.members.ensemble import FORMAT, Ensemble, ManifestMember, file_sha256, load_ensemble
from goat_ray.members.networks import build_network, parameter_count, with_family
from goat_ray.members.results import ImportSource, Trained, find_trained
from goat_ray.members.weights import canonical_weights, load_checkpoint, save_weights

_MEMBERS_FOLDER = "members"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import.

    Attributes:
        checkpoint: which of nnU-Net's two checkpoints.
        folds: numbers or `all`; when None, `all` where it exists and else every fold, each its own member.
        channels: names of the input channels in input order, instead of those in dataset.json.
        labels: what a label of dataset.json is called here, where its name is not known (`{"core": "TC"}`).
        licence: of the weights, for the card.
        limits: what users must know before they trust the members, for the card.
        overwrite: replace members and a manifest of other content.
    """

    checkpoint: Literal["final", "best"] = "final"
    folds: tuple[str, ...] | None = None
    channels: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None
    licence: str | None = None
    limits: str | None = None
    overwrite: bool = False


def import_results(
    sources: Sequence[ImportSource | str],
    out: str | Path,
    *,
    name: str | None = None,
    options: ImportOptions | None = None,
) -> Ensemble:
    """Import trained folders `…/<trainer>__<plans>__<configuration>` and write the manifest `out`.

    Each member gets a folder `members/<code>` beside `out`; importing the same again changes nothing. Members
    whose channels or labels we cannot use are imported too: their `problem` says why they cannot be run.

    Args:
        sources: results folders, folders above several, or `CODE=folder`; members come in their order.
        out: the manifest to write, a local path.
        name: of the ensemble; the manifest's file name when None.
        options: the defaults of `ImportOptions` when None.

    Raises:
        EnsembleError: a source is incomplete, unsupported or unsafe, or other content is in the way.
    """
    out, options = Path(out), options or ImportOptions()
    parsed = [ImportSource.parse(source) if isinstance(source, str) else source for source in sources]
    entries = []
    for one in find_trained(parsed, options.checkpoint, options.folds):
        try:
            card, weights = _converted(one, options)
        except EnsembleError as error:
            raise EnsembleError(f"{one.folder}, fold {one.fold}: {error}") from error
        entries.append(store_member(card, weights, out.parent, overwrite=options.overwrite))
    write_manifest(out, name or out.stem, entries, overwrite=options.overwrite)
    return load_ensemble(out)


def store_member(
    card: MemberCard, weights: Mapping[str, Tensor], folder: Path, *, overwrite: bool = False
) -> ManifestMember:
    """Write `members/<code>` below the manifest's folder in one step; an equal one is left alone.

    Raises:
        EnsembleError: another member is there and may not be overwritten, or the folder cannot be written.
    """
    place = folder / _MEMBERS_FOLDER / card.code
    fresh = place.with_name(f".{card.code}.{uuid4().hex}")
    try:
        fresh.mkdir(parents=True)
        save_weights(weights, fresh / WEIGHTS_FILE)
        weights_sha256 = file_sha256(fresh / WEIGHTS_FILE)
        (fresh / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (fresh / TEXT_FILE).write_text(card_text(card, weights_sha256), encoding="utf-8")
        card_sha256 = file_sha256(fresh / CARD_FILE)
        if not _is_same(fresh, place):
            _move(fresh, place, overwrite)
    except OSError as error:
        raise EnsembleError(f"{place} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return ManifestMember(
        code=card.code,
        path=f"{_MEMBERS_FOLDER}/{card.code}",
        weights_sha256=weights_sha256,
        card_sha256=card_sha256,
    )


def write_manifest(out: Path, name: str, entries: Sequence[ManifestMember], *, overwrite: bool = False) -> None:
    """Write the manifest of members that `store_member` put below its folder.

    Raises:
        EnsembleError: another manifest is there and may not be overwritten.
    """
    members = [entry.model_dump() for entry in entries]
    content = {"goat_ray_ensemble": FORMAT, "name": name, "members": members}
    text = yaml.safe_dump(content, sort_keys=False)
    if not overwrite and out.exists() and out.read_bytes() != text.encode():
        raise EnsembleError(f"{out} is there already with other content; choose another file, or overwrite it")
    partial = out.with_name(f".{out.name}.{uuid4().hex}")
    partial.write_bytes(text.encode())
    partial.replace(out)


def _converted(one: Trained, options: ImportOptions) -> tuple[MemberCard, dict[str, Tensor]]:
    inputs = _channels(one.dataset, options.channels)
    scheme = label_scheme(one.dataset, options.labels)
    planned = len(one.plans.preprocessing.normalization)
    if len(inputs) != planned:
        raise EnsembleError(f"dataset.json has {len(inputs)} channels, the plans normalise {planned}")
    checkpoint = load_checkpoint(one.checkpoint)
    architecture = with_family(one.plans.architecture, checkpoint.weights)
    with torch.device("meta"):
        network = build_network(architecture, len(inputs), len(scheme.channels))
    card = MemberCard(
        code=one.code,
        trainer=checkpoint.trainer,
        configuration=one.plans.configuration,
        architecture=architecture,
        preprocessing=one.plans.preprocessing,
        patch_size=one.plans.patch_size,
        channels=inputs,
        labels=scheme,
        mirroring_axes=checkpoint.mirroring_axes,
        parameters=parameter_count(network),
        licence=options.licence,
        limits=options.limits,
        source=_source(one, checkpoint.epoch),
    )
    return card, canonical_weights(checkpoint.weights, network)


def _channels(dataset: Mapping[str, Any], override: Sequence[str] | None) -> tuple[str, ...]:
    declared = dataset.get("channel_names") or dataset.get("modality")
    if not isinstance(declared, Mapping) or not all(str(key).isdecimal() for key in declared):
        raise EnsembleError(f"dataset.json: channel_names is {declared!r}, expected a mapping like {{'0': 't1c'}}")
    names = [str(declared[key]) for key in sorted(declared, key=int)]
    if override is not None and len(override) != len(names):
        raise EnsembleError(f"{len(override)} channels were given, the network takes {len(names)}: {', '.join(names)}")
    return tuple(modality_of(name) or name for name in override or names)


def _source(one: Trained, epoch: int | None) -> Source:
    cases = one.dataset.get("numTraining")
    return Source(
        dataset=one.dataset_name,
        training_cases=cases if isinstance(cases, int) else None,
        plans=one.plans.name,
        fold=one.fold,
        epoch=epoch,
        checkpoint=one.checkpoint.name,
        checkpoint_sha256=file_sha256(one.checkpoint),
    )


def _is_same(fresh: Path, place: Path) -> bool:
    files = [(fresh / name, place / name) for name in (WEIGHTS_FILE, CARD_FILE, TEXT_FILE)]
    return all(there.is_file() and file_sha256(here) == file_sha256(there) for here, there in files)


def _move(fresh: Path, place: Path, overwrite: bool) -> None:
    if place.exists():
        if not overwrite:
            raise EnsembleError(f"{place} holds another member; choose another code or folder, or overwrite it")
        old = place.with_name(f".{place.name}.{uuid4().hex}")
        place.rename(old)
        fresh.rename(place)
        shutil.rmtree(old)
    else:
        fresh.rename(place)
