"""What a run folder holds, read back: committed cases, failed ones and suspects."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from goat_ray.cases import FailedCase
from goat_ray.commits import (
    OUTPUT_FOLDERS,
    Commit,
    CommitHead,
    Output,
    Suspect,
    Timings,
    commit_key,
    counts,
    decode_failure_object,
    decode_object,
    error_key,
    failure_object,
    timings_key,
)
from goat_ray.errors import MissingFile
from goat_ray.storage import RunStore

_READERS = 32

Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class Done(CommitHead):
    """A committed case as a ledger has it: its commit without the table rows, and the hash of the commit's bytes."""

    sha256: str = ""

    @property
    def file_names(self) -> dict[str, str]:
        """Name of each file the case was made from, as `Case.file_names`."""
        return {role: file["name"] for role, file in self.inputs.items()}


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a run folder holds: the committed cases and the failed ones, by case id.

    `void` has the keys of commit objects that do not count, and the hashes of their bytes.
    """

    run_id: str
    commits: Mapping[str, Done]
    failures: Mapping[str, FailedCase]
    void: Mapping[str, str] = field(default_factory=dict)

    @property
    def case_ids(self) -> list[str]:
        """Every case that ended, in order."""
        return sorted(self.commits.keys() | self.failures.keys())

    @property
    def sha256(self) -> str:
        """Hash of all that tables are made of; equal ledgers give equal tables."""
        digest = hashlib.sha256(self.run_id.encode())
        for case_id in self.case_ids:
            done = self.commits.get(case_id)
            facts = (
                json.dumps([case_id, done.site, done.cohort, done.sha256]).encode()
                if done
                else failure_object(self.failures[case_id])
            )
            digest.update(hashlib.sha256(facts).digest())
        return digest.hexdigest()


def read_ledger(store: RunStore, run_id: str, *, verify: bool = False) -> Ledger:
    """Commits and failures of the run `run_id`.

    A commit that is damaged, carries another run's id or whose outputs are missing or of another size does
    not count: its case is to be done again.

    Args:
        store: the run folder.
        run_id: which run's commits count.
        verify: read every output and compare its hash too.
    """
    sizes = _output_sizes(store)
    check = _verified(store) if verify else lambda _done: True
    return _ledger(store, run_id, [*store.list("commits")], [*store.list("errors")], sizes.get, check)


def read_outcomes(store: RunStore, run_id: str, case_ids: Sequence[str]) -> Ledger:
    """What became of some cases, as `read_ledger` tells it of all.

    Folders are listed rather than asked for each case: a listing tells of a thousand at once.
    """
    if not case_ids:
        return Ledger(run_id, {}, {})
    sizes, commits, errors = _output_sizes(store), store.list("commits"), store.list("errors")
    written = [key for key in map(commit_key, case_ids) if key in commits]
    failed = [key for key in map(error_key, case_ids) if key in errors]
    return _ledger(store, run_id, written, failed, sizes.get, lambda _done: True)


def read_commits(store: RunStore, case_ids: Iterable[str]) -> list[Commit]:
    """The whole commits of cases that a ledger lists, in the order given."""
    return in_parallel(lambda case_id: Commit.from_json(store.read(commit_key(case_id))), case_ids)


def read_timings(store: RunStore, case_ids: Iterable[str]) -> list[Timings]:
    """The time that committed cases took, in the order given; empty where it was lost."""
    decode = partial(decode_object, Timings)
    found = in_parallel(lambda case_id: _read(store, timings_key(case_id), decode), case_ids)
    return [timings or Timings({}, {}) for timings in found]


def failures_at(store: RunStore, keys: Sequence[str]) -> list[FailedCase]:
    """The failed cases that these error objects tell of; damaged ones tell of none."""
    return list(_read_all(store, keys, decode_failure_object).values())


def read_suspects(store: RunStore) -> dict[str, list[Suspect]]:
    """Everything that was left about cases whose worker ended, by case id."""
    found = defaultdict(list)
    for suspect in _read_all(store, [*store.list("suspects")], partial(decode_object, Suspect)).values():
        found[suspect.case_id].append(suspect)
    return dict(found)


def in_parallel(action: Callable[[Any], Decoded], items: Iterable[Any]) -> list[Decoded]:
    """`action` of each item, in their order; many at a time, as each waits for the store."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(action, items))


def _ledger(
    store: RunStore,
    run_id: str,
    commits: Sequence[str],
    errors: Sequence[str],
    size_of: Callable[[str], int | None],
    check: Callable[[Done], bool],
) -> Ledger:
    def decode(data: bytes) -> Done | str:
        """A case that is done, or the hash of an object that counts for nothing."""
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            done = replace(decode_object(Done, data), sha256=sha256)  # twice as fast as the whole commit
        except ValueError:
            return sha256
        return done if counts(done, run_id, size_of) and check(done) else sha256

    found: dict[str, Done | str] = _read_all(store, commits, decode)
    valid = {key: one for key, one in found.items() if isinstance(one, Done) and key == commit_key(one.case_id)}
    done = {one.case_id: one for one in valid.values()}
    failed = {one.case_id: one for one in failures_at(store, errors) if one.case_id not in done}
    void = {key: one if isinstance(one, str) else one.sha256 for key, one in found.items() if key not in valid}
    return Ledger(run_id, done, failed, void)


def _output_sizes(store: RunStore) -> dict[str, int]:
    """Of every output, by key."""
    return {key: stat.size for folder in OUTPUT_FOLDERS for key, stat in store.list(folder).items()}


def _verified(store: RunStore) -> Callable[[Done], bool]:
    return lambda done: all(Output.of(store.read(key)) == output for key, output in done.outputs.items())


def _read_all(store: RunStore, keys: Sequence[str], decode: Callable[[bytes], Decoded | None]) -> dict[str, Decoded]:
    documents = in_parallel(lambda key: _read(store, key, decode), keys)
    return {key: document for key, document in zip(keys, documents, strict=True) if document is not None}


def _read(store: RunStore, key: str, decode: Callable[[bytes], Decoded | None]) -> Decoded | None:
    """The decoded object at `key`; None when it is damaged or gone."""
    try:
        return decode(store.read(key))
    except (MissingFile, ValueError):
        return None
