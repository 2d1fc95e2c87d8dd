"""What a cohort source lists, whatever its form: candidates, which `cases` accepts or refuses."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from goat_ray import storage
from goat_ray.errors import ConfigError, MissingFile
from goat_ray.filesystems import FileStat
from goat_ray.labels import MODALITIES, modality_of
from goat_ray.sheets import read_sheet

_IMAGES = (".nii", ".nii.gz", ".dcm", ".mgz", ".mha", ".nrrd")  # a folder with one of these is meant as a case
_NIFTI = (".nii.gz", ".nii")
_RAW_IMAGE = re.compile(r"((?:images(?:Ts|Tr)/)?)([^/]+)_(\d{4})\.nii(?:\.gz)?")
_MANIFEST_OPTIONAL = ("reference", "site", "cohort")
_LABEL_FOLDERS = ("", "labels", "labelsTr", "labelsTs")

DATASET_JSON = "dataset.json"


@dataclass(slots=True)
class Candidate:
    """One entry of a source, before anything is checked.

    Attributes:
        case_id: as found, perhaps unusable.
        where: the folder or row it was found in, for messages.
        expected: what was looked for, by modality, for messages.
        images: URIs found, by modality.
    """

    case_id: str
    where: str
    expected: Mapping[str, str]
    images: dict[str, list[str]] = field(default_factory=dict)
    reference: str | None = None
    site: str | None = None
    cohort: str | None = None


@dataclass(slots=True)
class Labels:
    """The label maps that a source has for one case; one is expected."""

    uris: list[str] = field(default_factory=list)
    site: str | None = None
    cohort: str | None = None


@dataclass(slots=True)
class Listing:
    """Every file that was listed, by URI: what a listing tells of it need not be asked again."""

    stats: dict[str, FileStat] = field(default_factory=dict)

    def visible_files(self, source: str) -> list[str]:
        """Keys of the files below `source`, hidden ones left out; `ConfigError` if there are none."""
        try:
            found = {key: stat for key, stat in storage.list_files(source).items() if "/." not in f"/{key}"}
        except MissingFile as error:
            raise ConfigError(str(error)) from None
        if not found:
            raise ConfigError(f"{source} {'holds no files' if storage.exists(source) else 'does not exist'}.")
        self.stats |= {storage.join(source, key): stat for key, stat in found.items()}
        return list(found)


def find_candidates(
    source: str, suffixes: Mapping[str, str], channels: Sequence[str] | None, listing: Listing
) -> list[Candidate]:
    """Everything that `source` lists as a case, in the one form that fits it (see `goat_ray.cases.discover`).

    Raises:
        ConfigError: no form fits, or two do.
        StorageError: the source cannot be read.
    """
    _check_modalities("suffixes", suffixes.values())
    if source.endswith((".csv", ".parquet")):
        return _manifest(source)
    keys = listing.visible_files(source)
    folders = _case_folders(source, keys, suffixes)
    raw = [match for key in keys if (match := _RAW_IMAGE.fullmatch(key))]
    is_folders = any(candidate.images for candidate in folders)
    if is_folders and raw:
        raise ConfigError(
            f"{source} holds case folders as well as nnU-Net raw images ({raw[0][0]}); point to one of the two."
        )
    if raw:
        return _nnunet_raw(source, keys, raw, channels)
    if not is_folders:
        raise ConfigError(_nothing_found(source, keys))
    return folders


def find_labels(source: str, column: str, listing: Listing) -> dict[str, Labels]:
    """The label maps that `source` lists, by case id.

    A folder holds `<case>.nii.gz` or `<case>/<case>-seg.nii.gz`, also in nnU-Net's `labelsTr` and `labelsTs`, or is
    a run folder of this package. A `.csv` or `.parquet` manifest names them in `column`.

    Raises:
        ConfigError: the source is not there or holds none.
        StorageError: it cannot be read.
    """
    found = _listed_labels(source, column) if source.endswith((".csv", ".parquet")) else _labels_in(source, listing)
    if not found:
        raise ConfigError(f"{source} holds no label map: looked for <case>.nii.gz and <case>/<case>-seg.nii.gz.")
    return found


def _labels_in(source: str, listing: Listing) -> dict[str, Labels]:
    keys = listing.visible_files(source)
    if "run.json" in keys:
        keys = [key for key in keys if key.startswith("labels/")]
    found: dict[str, Labels] = {}
    for key in keys:
        folder, _, name = key.rpartition("/")
        stem = _stem(name)
        if stem is None:
            continue
        if folder in _LABEL_FOLDERS:
            found.setdefault(stem, Labels()).uris.append(storage.join(source, key))
        elif stem in (f"{folder}-seg", f"{folder}_seg"):
            found.setdefault(folder, Labels()).uris.append(storage.join(source, key))
    return found


def _listed_labels(source: str, column: str) -> dict[str, Labels]:
    rows = read_sheet(source, ("case_id", column), (*MODALITIES, *_MANIFEST_OPTIONAL, "prediction"))
    folder = source.rpartition("/")[0]
    found: dict[str, Labels] = {}
    for row in rows:
        uri = _beside(folder, row[column])
        labels = found.setdefault(row["case_id"] or "", Labels(site=row.get("site"), cohort=row.get("cohort")))
        labels.uris += [uri] if uri else []
    return found


def _manifest(source: str) -> list[Candidate]:
    rows = read_sheet(source, ("case_id", *MODALITIES), _MANIFEST_OPTIONAL)
    if not rows:
        raise ConfigError(f"{source} lists no case.")
    folder, _, name = source.rpartition("/")
    expected = {modality: f"a path in column {modality}" for modality in MODALITIES}
    candidates = []
    for number, row in enumerate(rows, start=1):
        uris = {column: _beside(folder, row.get(column)) for column in (*MODALITIES, "reference")}
        candidates.append(
            Candidate(
                row["case_id"] or "",
                f"row {number} of {name}",
                expected,
                {modality: [uri] for modality in MODALITIES if (uri := uris[modality])},
                uris["reference"],
                row.get("site"),
                row.get("cohort"),
            )
        )
    return candidates


def _beside(folder: str, path: str | None) -> str | None:
    """A manifest's path as a URI; relative ones start at the manifest's folder."""
    if path is None or "://" in path or path.startswith("/"):
        return path
    return f"{folder}/{path}"


def _case_folders(source: str, keys: Iterable[str], suffixes: Mapping[str, str]) -> list[Candidate]:
    modalities = {**{modality: modality for modality in MODALITIES}, **suffixes}
    separators = "-_" if suffixes else "-"
    found: dict[str, Candidate] = {}
    for key in keys:
        case_id, _, name = key.partition("/")
        if "/" in name or not name.lower().endswith(_IMAGES):
            continue
        expected = {modality: f"{case_id}-{modality}.nii.gz" for modality in MODALITIES}
        candidate = found.setdefault(case_id, Candidate(case_id, storage.join(source, case_id), expected))
        stem = _stem(name) or ""
        suffix = stem[len(case_id) + 1 :] if stem.startswith(tuple(case_id + mark for mark in separators)) else ""
        if suffix in modalities:
            candidate.images.setdefault(modalities[suffix], []).append(storage.join(source, key))
        elif suffix == "seg":
            candidate.reference = storage.join(source, key)
    return list(found.values())


def _nnunet_raw(
    source: str, keys: Iterable[str], images: Iterable[re.Match[str]], channels: Sequence[str] | None
) -> list[Candidate]:
    channels = channels or _declared_channels(source, keys)
    if channels is None:
        raise ConfigError(
            f"{source} holds nnU-Net raw images and no dataset.json that says what their channels are: "
            "give channels, for example t1c,t1n,t2f,t2w for _0000 to _0003."
        )
    order = [modality_of(channel) or channel for channel in channels]
    _check_modalities("channels", order)
    if sorted(order) != sorted(MODALITIES):
        raise ConfigError(f"channels: each of {', '.join(MODALITIES)} must be named once, not {', '.join(channels)}.")
    labels = {key for key in keys if key.startswith(("labelsTs/", "labelsTr/"))}
    found: dict[tuple[str, str], Candidate] = {}
    for image in images:
        folder, case_id, number = image.groups()
        if int(number) >= len(order):
            raise ConfigError(f"{source}: {image[0]} is a channel beyond the {len(order)} that channels names.")
        expected = {modality: f"{case_id}_{index:04d}.nii.gz" for index, modality in enumerate(order)}
        candidate = found.setdefault((folder, case_id), Candidate(case_id, storage.join(source, folder), expected))
        candidate.images.setdefault(order[int(number)], []).append(storage.join(source, image[0]))
        for ending in _NIFTI:
            label = f"{folder.replace('images', 'labels')}{case_id}{ending}"
            if label in labels:
                candidate.reference = storage.join(source, label)
    return list(found.values())


def _declared_channels(source: str, keys: Iterable[str]) -> list[str] | None:
    """The channels that a `dataset.json` of nnU-Net names, in their order; None without one."""
    if DATASET_JSON not in keys:
        return None
    names = read_dataset_json(source).get("channel_names")
    try:
        return [str(names[str(number)]) for number in range(len(names))]  # type: ignore[index,arg-type]
    except (TypeError, KeyError):
        raise ConfigError(
            f"{source}/{DATASET_JSON}: channel_names is {str(names)[:200]}, expected names of 0, 1, 2, 3; give channels"
        ) from None


def read_dataset_json(source: str) -> dict[str, Any]:
    """The `dataset.json` of an nnU-Net raw folder.

    Raises:
        ConfigError: it is not there, or no JSON object.
    """
    uri = storage.join(source, DATASET_JSON)
    try:
        document = json.loads(storage.read_bytes(uri))
    except MissingFile as error:
        raise ConfigError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{uri} is no JSON: {str(error)[:200]}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{uri} holds no JSON object")
    return document


def _nothing_found(source: str, keys: Sequence[str]) -> str:
    message = (
        f"{source} holds no case: looked for <case>/<case>-{{{','.join(MODALITIES)}}}.nii.gz, "
        "imagesTs/<case>_0000.nii.gz, and a .csv or .parquet manifest in place of the folder."
    )
    stems = [stem for key in keys if (stem := _stem(key)) is not None]
    endings = {re.split("[-_]", stem)[-1] for stem in stems}
    older = {ending: modality for ending in sorted(endings) if (modality := modality_of(ending))}
    if older:
        mapping = ", ".join(f"{ending}: {modality}" for ending, modality in older.items())
        return f"{message} Files such as {stems[0]} are there; do suffixes {{{mapping}}} describe them?"
    return f"{message} Found {', '.join(keys[:3])} and the like."


def _check_modalities(option: str, modalities: Iterable[str]) -> None:
    for modality in modalities:
        if modality not in MODALITIES:
            raise ConfigError(f"{option}: {modality!r} is none of {', '.join(MODALITIES)}.")


def _stem(name: str) -> str | None:
    """A NIfTI file's name without its ending; None for other files."""
    return next((name.removesuffix(ending) for ending in _NIFTI if name.endswith(ending)), None)
