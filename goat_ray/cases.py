"""Cases and cohorts: every case a source lists ends as one that can run or as one with a reason why not."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from goat_ray import storage
from goat_ray.discovery import Candidate, Labels, Listing, find_candidates, find_labels
from goat_ray.errors import CaseError, Category, ConfigError, Failure
from goat_ray.filesystems import FileStat
from goat_ray.labels import MODALITIES
from goat_ray.sheets import read_sheet

PREDICTION = "prediction"
"""Key of a case's label map among its images, where label maps are what a job works on."""

Place = tuple[str | None, str | None]  # site and cohort

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CHALLENGE_ID = re.compile(r"BraTS-([A-Za-z]+)-\d{5}(?:-\d{3})?")


@dataclass(frozen=True, slots=True)
class Case:
    """One patient at one time point.

    Attributes:
        case_id: as the hospital or challenge gave it.
        images: URI of each of the four modalities.
        reference: URI of the expert's label map.
        site: where it was scanned, if known.
        cohort: which collection it belongs to, if known; for challenge ids the challenge's name.
    """

    case_id: str
    images: dict[str, str]
    reference: str | None = None
    site: str | None = None
    cohort: str | None = None

    @property
    def files(self) -> dict[str, str]:
        """URI of each file, by modality or `reference`."""
        return self.images if self.reference is None else {**self.images, "reference": self.reference}

    @property
    def file_names(self) -> dict[str, str]:
        """Name of each file, by modality or `reference`."""
        return {role: uri.rpartition("/")[2] for role, uri in self.files.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Case":
        """Inverse of `to_dict`."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class FailedCase:
    """A case that has no result, and why."""

    case_id: str
    failure: Failure
    site: str | None = None
    cohort: str | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a cohort holds: `cases` that can run and `failures` that cannot, each sorted by id and each id once.

    `stats` has what the listing told of files, by URI; files that a manifest names were not listed.
    """

    cases: tuple[Case, ...]
    failures: tuple[FailedCase, ...]
    warnings: tuple[str, ...] = ()
    stats: Mapping[str, FileStat] = field(default_factory=dict)

    @property
    def discovered(self) -> int:
        """Number of case ids that were found."""
        return len(self.cases) + len(self.failures)

    @property
    def case_ids(self) -> frozenset[str]:
        """Every id that was found."""
        return frozenset({case.case_id for case in self.cases} | {failed.case_id for failed in self.failures})

    def without(self, case_ids: Collection[str]) -> "Discovery":
        """The same without some cases."""
        cases = tuple(case for case in self.cases if case.case_id not in case_ids)
        failures = tuple(failed for failed in self.failures if failed.case_id not in case_ids)
        return replace(self, cases=cases, failures=failures)


NO_CASES = Discovery((), ())


def is_safe_id(case_id: str) -> bool:
    """Whether an id can name a file: a letter or digit, then letters, digits, `.`, `_` or `-`; 128 at most."""
    return _SAFE_ID.fullmatch(case_id) is not None


def object_name(case_id: str) -> str:
    """What a case's files are called: its id, or a hash of an id that is not safe."""
    if is_safe_id(case_id):
        return case_id
    return f"unsafe-{hashlib.sha256(case_id.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def discover(
    source: str,
    *,
    suffixes: Mapping[str, str] | None = None,
    channels: Sequence[str] | None = None,
    sites: str | None = None,
    references: str | None = None,
    elsewhere: Collection[str] = (),
) -> Discovery:
    """List the cases of a cohort; images are not opened.

    Args:
        source: a folder or `s3://` prefix of case folders (`<case>/<case>-t1c.nii.gz` and so on), an nnU-Net raw
            folder, or a `.csv` or `.parquet` manifest.
        suffixes: other file suffixes and the modality each stands for, such as `{"t1ce": "t1c"}`; with them,
            `_` before the suffix is as good as `-`.
        channels: modality of `_0000`, `_0001` … in an nnU-Net raw folder; its `dataset.json` tells where it is there.
        sites: a `.csv` or `.parquet` with `case_id`, `site` and, optionally, `cohort`; goes before a manifest's own.
        references: label maps in any form that `discover_pairs` takes; they replace all references of `source`.
        elsewhere: ids that `sites` may name although they are not in `source`.

    Raises:
        ConfigError: a source that is not there, holds no case or can be read in two ways; a faulty table.
        StorageError: a source that cannot be read.
    """
    listing = Listing()
    by_id = _by_id(find_candidates(storage.absolute(source), suffixes or {}, channels, listing))
    places = _read_sites(sites) if sites else {}
    labels = find_labels(storage.absolute(references), "reference", listing) if references else None

    def make(case_id: str) -> Case:
        case = _accept(case_id, by_id[case_id])
        return case if labels is None else replace(case, reference=_only(case_id, labels.get(case_id), "references"))

    own_places = {case_id: (same[0].site, same[0].cohort) for case_id, same in by_id.items()}
    cases, failures = _sort_out(make, own_places | {i: place for i, place in places.items() if i in by_id})
    return Discovery(cases, failures, _warnings(sites, places.keys() - by_id.keys() - set(elsewhere)), listing.stats)


def discover_pairs(predictions: str, references: str, *, sites: str | None = None) -> Discovery:
    """Pair label maps with their references by case id; files are not opened.

    Every case that either source names is expected: one that lacks its partner is a failure.

    Args:
        predictions: a folder or `s3://` prefix of `<case>.nii.gz` or `<case>/<case>-seg.nii.gz`, an nnU-Net raw
            folder, a run folder, or a manifest with the columns `case_id` and `prediction`.
        references: the same forms; the column is `reference`.
        sites: as for `discover`.

    Raises:
        ConfigError: a source that is not there or holds no label map, no case in common, or a faulty table.
        StorageError: a source that cannot be read.
    """
    listing = Listing()
    predicted = find_labels(storage.absolute(predictions), PREDICTION, listing)
    labelled = find_labels(storage.absolute(references), "reference", listing)
    places = _read_sites(sites) if sites else {}
    if not predicted.keys() & labelled.keys():
        raise ConfigError(
            f"{predictions} and {references} have no case in common: the first names "
            f"{', '.join(sorted(predicted)[:3])} and so on, the second {', '.join(sorted(labelled)[:3])}."
        )
    expected = predicted.keys() | labelled.keys()
    own_places = {case_id: _place(labelled.get(case_id), predicted.get(case_id)) for case_id in expected}
    cases, failures = _sort_out(
        lambda case_id: _pair(case_id, predicted.get(case_id), labelled.get(case_id)),
        own_places | {i: place for i, place in places.items() if i in expected},
    )
    return Discovery(cases, failures, _warnings(sites, places.keys() - expected), listing.stats)


def _sort_out(
    make: Callable[[str], Case], places: Mapping[str, Place]
) -> tuple[tuple[Case, ...], tuple[FailedCase, ...]]:
    """The cases that `make` gives for each id of `places`, and those it finds unusable; both by id."""
    cases, failures = [], []
    for case_id, (site, cohort) in sorted(places.items()):
        cohort = cohort or _challenge(case_id)
        try:
            cases.append(replace(make(case_id), site=site, cohort=cohort))
        except CaseError as error:
            failure = Failure.of(CaseError(error.category, _writable(error.message), error.hint), "discover")
            failures.append(FailedCase(_writable(case_id), failure, site, cohort))
    return tuple(cases), tuple(failures)


def _writable(text: str) -> str:
    """Text without the stand-ins for bytes of a file name that are no UTF-8; JSON and parquet take none."""
    return text.encode("utf-8", "backslashreplace").decode()


def _place(*sources: Labels | None) -> Place:
    """Site and cohort by the first source that tells."""
    found = [source for source in sources if source]
    return next((s.site for s in found if s.site), None), next((s.cohort for s in found if s.cohort), None)


def _pair(case_id: str, ours: Labels | None, theirs: Labels | None) -> Case:
    _check_id(case_id, "the label maps")
    prediction = _only(case_id, ours, "predictions")
    reference = _only(case_id, theirs, "references")
    if prediction is None:
        raise CaseError(
            Category.MISSING_PREDICTION, "there is a reference, but no label map.", "Predict it, or leave it out."
        )
    if reference is None:
        raise CaseError(
            Category.MISSING_REFERENCE, "there is a label map, but no reference.", "Add its reference, or leave it out."
        )
    return Case(case_id, {PREDICTION: prediction}, reference)


def _only(case_id: str, labels: Labels | None, what: str) -> str | None:
    if labels is None:
        return None
    if len(labels.uris) > 1:
        raise CaseError(
            Category.DUPLICATE_CASE,
            f"{case_id} has {len(labels.uris)} {what}: {', '.join(uri.rpartition('/')[2] for uri in labels.uris)}.",
            "Remove all but one.",
        )
    return labels.uris[0] if labels.uris else None


def _check_id(case_id: str, where: str) -> None:
    if not is_safe_id(case_id):
        raise CaseError(
            Category.INVALID_ID,
            f"{case_id[:80]!r} in {where} cannot be a case id.",
            "Use letters, digits, '.', '_' and '-', a letter or digit first, 128 characters at most.",
        )


def _by_id(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    found = defaultdict(list)
    for candidate in candidates:
        found[candidate.case_id].append(candidate)
    return found


def _accept(case_id: str, same: Sequence[Candidate]) -> Case:
    """The case that the candidates with one id amount to; `CaseError` if they do not amount to one."""
    _check_id(case_id, same[0].where)
    if len(same) > 1:
        raise CaseError(
            Category.DUPLICATE_CASE,
            f"{case_id} is listed {len(same)} times: {', '.join(candidate.where for candidate in same)}.",
            "Give every case an id of its own, or remove all but one.",
        )
    (candidate,) = same
    missing = [modality for modality in MODALITIES if modality not in candidate.images]
    if missing:
        raise CaseError(
            Category.MISSING_MODALITY,
            f"{' and '.join(missing)} missing in {candidate.where}: "
            f"looked for {', '.join(candidate.expected[modality] for modality in missing)}.",
            "Add the missing images, or leave the case out.",
        )
    crowded = {modality: uris for modality, uris in candidate.images.items() if len(uris) > 1}
    if crowded:
        modality, uris = next(iter(crowded.items()))
        raise CaseError(
            Category.MISSING_MODALITY,
            f"{modality} is not unique in {candidate.where}: {', '.join(uri.rpartition('/')[2] for uri in uris)}.",
            "Keep one file per modality.",
        )
    return Case(case_id, {modality: candidate.images[modality][0] for modality in MODALITIES}, candidate.reference)


def _challenge(case_id: str) -> str | None:
    match = _CHALLENGE_ID.fullmatch(case_id)
    return match[1] if match else None


def _read_sites(uri: str) -> dict[str, Place]:
    rows = read_sheet(storage.absolute(uri), required=("case_id", "site"), optional=("cohort",))
    places = {row["case_id"] or "": (row["site"], row.get("cohort")) for row in rows}
    if len(places) < len(rows):
        raise ConfigError(f"{uri} names a case more than once; each has one site.")
    return places


def _warnings(sites: str | None, unknown: set[str]) -> tuple[str, ...]:
    if not unknown:
        return ()
    examples = ", ".join(sorted(unknown)[:3])
    return (f"{sites} names cases that are not in the cohort: {examples}{', …' if len(unknown) > 3 else ''}",)
