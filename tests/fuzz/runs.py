"""Targets that read a run folder: damaged objects are told apart from whole ones and never stop a resume."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from goat_ray.cases import FailedCase
from goat_ray.commits import commit_key, error_key, failure_object, label_key, timings_key
from goat_ray.errors import Category, ConfigError, Failure, GoatRayError
from goat_ray.ledger import read_ledger, read_suspects, read_timings
from goat_ray.runs import open_run, read_run
from goat_ray.storage import RunStore
from goat_ray.tables import write_tables
from tests.fuzz.documents import damaged_json
from tests.fuzz.engine import Target
from tests.test_commits import commit_of

_FAILED = FailedCase("case-2", Failure(Category.UNREADABLE_FILE, "t1c is damaged", "copy it", "read"), "north")
_FINGERPRINT: dict[str, Any] = {"a": {"b": 1, "c": [1]}, "d": "e"}
_OBJECTS: dict[str, dict[str, Any]] = {
    commit_key("case-1"): json.loads(commit_of("case-1", b"labels").to_json()),
    error_key("case-2"): json.loads(failure_object(_FAILED)),
    timings_key("case-1"): {"seconds": {"read": 1.5}, "cpu_seconds": {"read": 1}},
    "suspects/case-3/0.json": {"case_id": "case-3", "category": "timed_out", "message": "late", "stage": "read"},
    "run.json": {"run_id": "run", "fingerprint": _FINGERPRINT, "config": {"out": "x"}},
}


def run_targets(folder: Path) -> Iterator[Target]:
    """One target for each kind of object in a run folder."""
    store = RunStore(str(folder))
    for key, values in _OBJECTS.items():
        store.write(key, json.dumps(values).encode())
    store.write(label_key("case-1"), b"labels")
    for key, values in _OBJECTS.items():
        name = key.partition("/")[0]
        refusal = {"run.json": ConfigError, "suspects": None}.get(name, GoatRayError)
        read = partial(_read_run_folder, store, key)
        yield Target(name, (json.dumps(values).encode(),), partial(damaged_json, values), read, refusal)


def _read_run_folder(store: RunStore, key: str, data: bytes) -> None:
    place = Path(store.root) / key
    place.write_bytes(data)
    try:
        _read_all(store)
    finally:
        place.write_text(json.dumps(_OBJECTS[key]), encoding="utf-8")


def _read_all(store: RunStore) -> None:
    for verify in (False, True):
        ledger = read_ledger(store, "run", verify=verify)
        assert (list(ledger.commits), len(ledger.void)) in ((["case-1"], 0), ([], 1))
        assert len(ledger.failures) <= 1
        assert len(ledger.sha256) == 64
    write_tables(store, ledger)
    (timings,) = read_timings(store, ["case-1"])
    assert all(isinstance(seconds, float) for seconds in timings.seconds.values())
    assert sum(map(len, read_suspects(store).values())) <= 1
    assert isinstance(read_run(store)["fingerprint"], dict)
    assert len(open_run(store, _FINGERPRINT, {})) == 12
