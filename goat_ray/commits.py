"""The commit protocol: what makes a case done, what a run folder remembers, and what a second run may skip."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from goat_ray.cases import FailedCase, object_name
from goat_ray.config import differing_keys, run_id_of
from goat_ray.errors import ConfigError, Failure, StorageError
from goat_ray.storage import RunStore

RUN_KEY = "run.json"
RUN_CONTENT = ("labels", "commits", "errors", "tables", "suspects", "thumbnails", "probabilities", "exports")
_READERS = 32
_DAMAGED = (AttributeError, KeyError, TypeError, ValueError)  # what decoding a damaged object raises

Decoded = TypeVar("Decoded")


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
class Commit:
    """A finished case: written last, and everything its table rows are made of.

    `inputs` has name, size and sha256 of each file the case was made from; `tables` has the case's rows of every
    table without the id columns, the one of `cases` among them.
    """

    run_id: str
    case_id: str
    site: str | None
    cohort: str | None
    outputs: dict[str, Output]
    inputs: dict[str, dict[str, Any]]
    tables: dict[str, list[dict[str, Any]]]
    environment: dict[str, str] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def file_names(self) -> dict[str, str]:
        """Name of each file the case was made from, as `Case.file_names`."""
        return {role: file["name"] for role, file in self.inputs.items()}

    def to_json(self) -> bytes:
        """The commit object's bytes."""
        return encode_json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> "Commit":
        """Inverse of `to_json`; a malformed object raises one of `_DAMAGED`."""
        values = json.loads(data)
        values["outputs"] = {key: Output(**output) for key, output in values["outputs"].items()}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a run folder holds: the committed cases, without their table rows, and the failed ones, by case id."""

    run_id: str
    commits: dict[str, Commit]
    failures: dict[str, FailedCase]


def encode_json(values: Mapping[str, Any]) -> bytes:
    """Readable JSON with a stable key order."""
    return (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def label_key(case_id: str) -> str:
    """Where a case's label map lies in the run folder."""
    return f"labels/{object_name(case_id)}.nii.gz"


def commit_key(case_id: str) -> str:
    """Where a case's commit object lies: sharded by hash so that a million keys still list fast."""
    return f"commits/{_shard(case_id)}/{object_name(case_id)}.json"


def error_key(case_id: str) -> str:
    """Where a failed case's error object lies."""
    return f"errors/{_shard(case_id)}/{object_name(case_id)}.json"


def open_run(store: RunStore, fingerprint: Mapping[str, Any], about: Mapping[str, Any], overwrite: bool = False) -> str:
    """Create `run.json`, or check that an existing one has this fingerprint; returns the run id.

    Args:
        store: the run folder.
        fingerprint: what can change a result.
        about: what else `run.json` tells of the run (configuration, versions, hashes).
        overwrite: empty a folder made with other settings first.

    Raises:
        ConfigError: the folder belongs to a run with other settings, or is not a run folder.
    """
    run_id = run_id_of(fingerprint)
    if overwrite:
        clear_run(store)
    document = {"run_id": run_id, "fingerprint": dict(fingerprint), **about}
    if store.create(RUN_KEY, encode_json(document)):
        return run_id
    different = differing_keys(fingerprint, read_run(store).get("fingerprint", {}))
    if different:
        raise ConfigError(
            f"{store.root} holds a run made with other settings ({', '.join(different)} differ); "
            "choose another --out, or --overwrite to discard that run"
        )
    return run_id


def read_run(store: RunStore) -> dict[str, Any]:
    """The content of `run.json`.

    Raises:
        ConfigError: it is not JSON.
    """
    try:
        document = json.loads(store.read(RUN_KEY))
    except ValueError as error:
        raise ConfigError(f"{store.root}/{RUN_KEY} is damaged; choose another --out or --overwrite") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{store.root}/{RUN_KEY} is not a run record; choose another --out")
    return document


def clear_run(store: RunStore) -> None:
    """Delete what a run wrote, and nothing else that may lie in the folder."""
    if store.size(RUN_KEY) is None:
        return
    keys = [key for folder in RUN_CONTENT for key in store.list(folder)]
    for key in [*keys, RUN_KEY]:
        store.delete(key)


def read_ledger(store: RunStore, run_id: str) -> Ledger:
    """Commits and failures of the run `run_id`.

    A commit that is damaged, carries another run's id or whose outputs are missing or of another size does
    not count: its case is to be done again.
    """
    outputs = store.list("labels")
    commits = [commit for commit in _read_all(store, "commits", _decode_record) if _counts(commit, run_id, outputs.get)]
    done = {commit.case_id: commit for commit in commits}
    failed = {case.case_id: case for case in _read_all(store, "errors", _decode_failed) if case.case_id not in done}
    return Ledger(run_id, done, failed)


def read_commits(store: RunStore, case_ids: Iterable[str]) -> list[Commit]:
    """The whole commits of cases that a ledger lists, in the order given."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda case_id: Commit.from_json(store.read(commit_key(case_id))), case_ids))


def write_failure(store: RunStore, failed: FailedCase) -> None:
    """Record a case that ended as failed."""
    document = {"case_id": failed.case_id, "site": failed.site, "cohort": failed.cohort}
    store.write(error_key(failed.case_id), encode_json({**document, **failed.failure.to_dict()}))


def write_commit(store: RunStore, commit: Commit, outputs: Mapping[str, bytes]) -> None:
    """Write a case's outputs, then its commit, created exclusively; a failure it had before is withdrawn.

    Raises:
        StorageError: an output could not be written, or another run has committed the case differently.
    """
    key = commit_key(commit.case_id)
    existing = _read_commit(store, key)
    if existing is not None and _counts(existing, commit.run_id, store.size):
        _check_same(store, existing, commit)
    else:
        store.delete(key)
        for output, data in outputs.items():
            store.write(output, data)
        if not store.create(key, commit.to_json()):
            _check_same(store, _read_commit(store, key), commit)
    store.delete(error_key(commit.case_id))


def _read_commit(store: RunStore, key: str) -> Commit | None:
    try:
        return Commit.from_json(store.read(key)) if store.size(key) is not None else None
    except _DAMAGED:
        return None


def _counts(commit: Commit, run_id: str, size_of: Callable[[str], int | None]) -> bool:
    """Whether a commit makes its case done: it is the run's own, and its outputs have the recorded sizes."""
    return commit.run_id == run_id and all(size_of(key) == output.size for key, output in commit.outputs.items())


def _check_same(store: RunStore, existing: Commit | None, commit: Commit) -> None:
    if existing is None or (existing.outputs, existing.tables) != (commit.outputs, commit.tables):
        where = f"{store.root}/{commit_key(commit.case_id)}"
        raise StorageError(f"{where} was committed by someone else with other outputs; theirs is kept")


def _shard(case_id: str) -> str:
    return hashlib.sha256(case_id.encode()).hexdigest()[:2]


def _decode_record(data: bytes) -> Commit:
    return replace(Commit.from_json(data), tables={})


def _decode_failed(data: bytes) -> FailedCase:
    values = json.loads(data)
    ids = {name: values.pop(name) for name in ("case_id", "site", "cohort")}
    return FailedCase(failure=Failure.from_dict(values), **ids)


def _read_all(store: RunStore, folder: str, decode: Callable[[bytes], Decoded]) -> Iterable[Decoded]:
    def read(key: str) -> Decoded | None:
        try:
            return decode(store.read(key))
        except _DAMAGED:
            return None

    with ThreadPoolExecutor(_READERS) as pool:
        documents = list(pool.map(read, store.list(folder)))
    return [document for document in documents if document is not None]
