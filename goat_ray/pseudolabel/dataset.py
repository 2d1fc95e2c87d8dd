"""The nnU-Net v2 raw dataset: its documents, and its files as copies or in place."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from goat_ray.discovery import DATASET_JSON
from goat_ray.errors import ConfigError
from goat_ray.filesystems import is_s3
from goat_ray.labels import MODALITIES, Label
from goat_ray.pseudolabel.files import Source, reconcile
from goat_ray.storage import RunStore

SPLITS_JSON = "splits_final.json"
PROVENANCE = "provenance.parquet"
ENDING = ".nii.gz"

_COPIES = "copies.parquet"
_NOTE = "README.md"


@dataclass(frozen=True, slots=True)
class Entry:
    """A case of the dataset: its images in `MODALITIES` order, and its label map."""

    case_id: str
    images: tuple[Source, ...]
    label: Source


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a dataset is to hold.

    Attributes:
        name: such as `Dataset603_BraTS`.
        entries: its cases.
        folds: content of `splits_final.json`.
        provenance: content of `provenance.parquet`.
        about: what `dataset.json` tells of how it was made.
    """

    name: str
    entries: Sequence[Entry]
    folds: Sequence[Mapping[str, Sequence[str]]]
    provenance: bytes
    about: Mapping[str, Any]


def check_in_place(uris: Iterable[str]) -> None:
    """Require files that nnU-Net can be pointed to.

    Raises:
        ConfigError: naming the first that it could not read, or would read as something else.
    """
    for uri in uris:
        if is_s3(uri):
            raise ConfigError(f"{uri}: nnU-Net reads no s3://; mount the bucket, or use --form copy")
        if not uri.endswith(ENDING):
            raise ConfigError(f"{uri}: in place, every file must end in {ENDING}; use --form copy, which compresses")
        if "$" in uri:
            raise ConfigError(f"{uri}: nnU-Net takes $ in a path for a variable; use --form copy")


def write_dataset(store: RunStore, dataset: Dataset, form: str) -> int:
    """Make a folder the dataset; `dataset.json` is written last and is gone while files change.

    Args:
        store: the dataset's folder.
        dataset: what it is to hold.
        form: `copy` or `in-place`.

    Returns:
        How many files were written, copied or deleted; none where nothing has changed.

    Raises:
        GoatRayError: a source has changed since it was checked.
        StorageError: a source or the folder is out of reach.
    """
    copied = form == "copy"
    last = _json(_dataset_json(dataset, copied))
    documents = {
        PROVENANCE: dataset.provenance,
        SPLITS_JSON: _json([dict(fold) for fold in dataset.folds]),
        _NOTE: _note(dataset).encode(),
    }
    wanted = _copies(dataset.entries) if copied else {}
    changed = [key for key, data in documents.items() if store.find(key) != data]
    if store.find(DATASET_JSON) != last or changed:
        store.delete(DATASET_JSON)
    touched = reconcile(store, wanted, _COPIES) + len(changed)
    for key in changed:
        store.write(key, documents[key])
    if store.find(DATASET_JSON) != last:
        store.write(DATASET_JSON, last)
        touched += 1
    return touched


def _copies(entries: Sequence[Entry]) -> dict[str, Source]:
    images = {
        f"imagesTr/{entry.case_id}_{channel:04d}{ENDING}": source
        for entry in entries
        for channel, source in enumerate(entry.images)
    }
    return images | {f"labelsTr/{entry.case_id}{ENDING}": entry.label for entry in entries}


def _dataset_json(dataset: Dataset, copied: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "channel_names": {str(channel): modality for channel, modality in enumerate(MODALITIES)},
        "labels": {label.name if label else "background": int(label) for label in Label},
        "numTraining": len(dataset.entries),
        "file_ending": ENDING,
        "name": dataset.name,
        "pseudo_label_provenance": dict(dataset.about),
    }
    if not copied:
        document["dataset"] = {
            entry.case_id: {"images": [image.uri for image in entry.images], "label": entry.label.uri}
            for entry in dataset.entries
        }
    return document


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _note(dataset: Dataset) -> str:
    number = int(dataset.name[len("Dataset") : len("Dataset") + 3])
    return f"""# {dataset.name}

{len(dataset.entries)} training cases, written by goat-ray. Where each comes from, and why any other case is not here:
`{PROVENANCE}`, one row a case.

nnU-Net looks for folds in its *preprocessed* folder, and makes random ones of its own where it finds none; those would
validate on pseudo-labels. So copy ours there once preprocessing is done, and before training:

    export nnUNet_raw=PARENT_OF_THIS_FOLDER
    nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity
    cp {SPLITS_JSON} "$nnUNet_preprocessed/{dataset.name}/{SPLITS_JSON}"

In them pseudo-labelled cases are in `train` only, and never in a fold that validates on the same patient. Training on
`all` (as the winners of BraTS-GoAT 2025 did) uses every case and validates on what it was trained with.
"""
