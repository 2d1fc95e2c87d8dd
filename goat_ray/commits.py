"""The commit protocol: what a case leaves in its run folder, in which order, and who wins when two do the same."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import TypeAdapter

from goat_ray.cases import FailedCase, object_name
from goat_ray.errors import Category, Failure, MissingFile, StorageError
from goat_ray.storage import RunStore, is_key

OUTPUT_FOLDERS = ("labels", "probabilities", "thumbnails")
"""Folders of a run that hold what commits vouch for."""

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Output:
    """One file of a committed case."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Output":
        """The record of `data`."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class CommitHead:
    """What a commit says of its case but for the table rows.

    `inputs` has name, size, sha256 and version of each file the case was made from.
    """

    run_id: str
    case_id: str
    site: str | None
    cohort: str | None
    outputs: dict[str, Output]
    inputs: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Commit(CommitHead):
    """A finished case: written last, and everything its table rows are made of but the time it took.

    Equal work gives equal bytes. `tables` has the case's rows of every table without the id columns, the one of
    `cases` among them.
    """

    tables: dict[str, list[dict[str, Any]]]
    environment: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The commit object's bytes."""
        return encode_json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> "Commit":
        """Inverse of `to_json`; a malformed object raises `ValueError`."""
        return decode_object(cls, data)


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall and CPU seconds of each step of a case; apart from its commit, as no two runs agree on them.

    `device_peak_bytes` is the most that torch had taken of the worker's GPU by the time the case was predicted.
    """

    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    device_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Suspect:
    """A case that was in the hands of a worker when the worker ended, and what is known of the end."""

    case_id: str
    category: Category
    message: str
    stage: str


def encode_json(values: Mapping[str, Any]) -> bytes:
    """Readable JSON with a stable key order."""
    return (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def decode_object(kind: type[Record], data: bytes) -> Record:
    """The record of this kind that JSON holds, every type checked; anything else raises `ValueError`."""
    record: Record = _adapter(kind).validate_json(data, strict=True)  # type: ignore[arg-type]  # hashable
    return record


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any record class
    return TypeAdapter(kind)


def label_key(case_id: str) -> str:
    """Where a case's label map lies in the run folder."""
    return f"labels/{object_name(case_id)}.nii.gz"


def probabilities_key(case_id: str) -> str:
    """Where a case's region probabilities lie, if they were asked for."""
    return f"probabilities/{object_name(case_id)}.nii.gz"


def thumbnail_key(case_id: str) -> str:
    """Where a case's picture lies."""
    return f"thumbnails/{object_name(case_id)}.png"


def commit_key(case_id: str) -> str:
    """Where a case's commit object lies: sharded by hash so that a million keys still list fast."""
    return _sharded("commits", case_id)


def error_key(case_id: str) -> str:
    """Where a failed case's error object lies."""
    return _sharded("errors", case_id)


def timings_key(case_id: str) -> str:
    """Where the time that a committed case took is told."""
    return _sharded("timings", case_id)


def suspects_folder(case_id: str) -> str:
    """Where a case's suspects lie, in the order they were left."""
    return f"suspects/{object_name(case_id)}"


def write_failure(store: RunStore, failed: FailedCase) -> None:
    """Record a case that ended as failed."""
    store.write(error_key(failed.case_id), failure_object(failed))


def failure_object(failed: FailedCase) -> bytes:
    """The error object's bytes."""
    document = {"case_id": failed.case_id, "site": failed.site, "cohort": failed.cohort}
    return encode_json({**document, **failed.failure.to_dict()})


def decode_failure_object(data: bytes) -> FailedCase:
    """Inverse of `failure_object`; a malformed object raises `ValueError`."""
    found = decode_object(_FailureObject, data)
    failure = Failure(found.category, found.message, found.hint, found.stage, found.attempts)
    return FailedCase(found.case_id, failure, found.site, found.cohort)


@dataclass(frozen=True, slots=True)
class _FailureObject(Failure):
    case_id: str = ""
    site: str | None = None
    cohort: str | None = None


def write_suspect(store: RunStore, suspect: Suspect) -> None:
    """Leave word of a case whose worker ends, or has ended, without delivering it."""
    name = f"{time.time_ns():020d}-{uuid4().hex[:12]}.json"
    store.write(f"{suspects_folder(suspect.case_id)}/{name}", encode_json(asdict(suspect)))


def write_timings(store: RunStore, case_id: str, timings: Timings) -> None:
    """Tell what a committed case took; that may get lost, and nothing else with it."""
    store.write(timings_key(case_id), encode_json(asdict(timings)))


def write_commit(store: RunStore, commit: Commit, outputs: Mapping[str, bytes]) -> None:
    """Write a case's outputs, then its commit, created exclusively; a failure it had before is withdrawn.

    Two writers of one case cannot both win, whatever the order of their steps: the first commit stays, and its
    writer makes sure that the outputs are its own. A writer that finds another's commit, made from other bytes,
    takes back outputs of its own that came later; the case then counts as not done rather than half done. No
    commit is ever removed here: what is void was withdrawn before the work began (`withdraw`).

    Raises:
        StorageError: an output could not be written, or someone else has committed the case differently.
    """
    key = commit_key(commit.case_id)
    existing = read_commit(store, key)
    if existing is not None and counts(existing, commit.run_id, store.size):
        _check_same(store, existing, commit)
    else:
        for output, data in outputs.items():
            store.write(output, data)
        if store.create(key, commit.to_json()):
            _keep(store, outputs)
        else:
            _give_way(store, commit, outputs)
    store.delete(error_key(commit.case_id))


def withdraw(store: RunStore, case_id: str, sha256: str) -> None:
    """Remove a case's commit object if it still is the one with this hash, and nobody's newer one."""
    key = commit_key(case_id)
    data = store.find(key)
    if data is not None and hashlib.sha256(data).hexdigest() == sha256:
        store.delete(key)


def read_commit(store: RunStore, key: str) -> Commit | None:
    """The commit object at `key`; None when it is not there or damaged."""
    try:
        return Commit.from_json(store.read(key))
    except (MissingFile, ValueError):
        return None


def counts(commit: CommitHead, run_id: str, size_of: Callable[[str], int | None]) -> bool:
    """Whether a commit makes its case done: it is the run's own, and its outputs have the recorded sizes."""
    if commit.run_id != run_id or not all(map(is_key, commit.outputs)):
        return False
    return all(size_of(key) == output.size for key, output in commit.outputs.items())


def _keep(store: RunStore, outputs: Mapping[str, bytes]) -> None:
    """Make sure that the outputs are those of the commit that won."""
    for key, data in outputs.items():
        if store.find(key) != data:
            store.write(key, data)


def _give_way(store: RunStore, commit: Commit, outputs: Mapping[str, bytes]) -> None:
    winner = read_commit(store, commit_key(commit.case_id))
    try:
        _check_same(store, winner, commit)
    except StorageError:
        for key, data in outputs.items():
            if winner is not None and winner.outputs.get(key) != Output.of(data) and store.find(key) == data:
                store.delete(key)
        raise


def _check_same(store: RunStore, existing: Commit | None, commit: Commit) -> None:
    if existing is None or (existing.outputs, existing.tables) != (commit.outputs, commit.tables):
        where = f"{store.root}/{commit_key(commit.case_id)}"
        raise StorageError(f"{where} was committed by someone else with other outputs; theirs is kept")


def _sharded(folder: str, case_id: str) -> str:
    shard = hashlib.sha256(case_id.encode("utf-8", "surrogatepass")).hexdigest()[:2]
    return f"{folder}/{shard}/{object_name(case_id)}.json"
