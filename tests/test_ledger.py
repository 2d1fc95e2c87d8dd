"""What a run folder tells when it is read back, damaged or not."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from goat_ray.cases import FailedCase
from goat_ray.commits import (
    Suspect,
    Timings,
    commit_key,
    error_key,
    label_key,
    write_commit,
    write_suspect,
    write_timings,
)
from goat_ray.errors import Category
from goat_ray.ledger import Done, read_ledger, read_outcomes, read_suspects, read_timings
from goat_ray.storage import RunStore
from tests.test_commits import FAILURE, commit_of


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def commit(store: RunStore, case_id: str, data: bytes = b"labels") -> None:
    write_commit(store, commit_of(case_id, data), {label_key(case_id): data})


def test_a_ledger_leaves_the_table_rows_where_they_are(store: RunStore) -> None:
    commit(store, "case-1")
    done = read_ledger(store, "run").commits["case-1"]
    known = asdict(commit_of("case-1", b"labels"))
    assert {name: asdict(done)[name] for name in ("case_id", "site", "cohort", "outputs", "inputs")} == {
        name: known[name] for name in ("case_id", "site", "cohort", "outputs", "inputs")
    }


def test_outcomes_of_some_cases_are_those_of_the_ledger(store: RunStore) -> None:
    for number in (1, 2, 3):
        commit(store, f"case-{number}")
    store.delete(label_key("case-3"))
    whole = read_ledger(store, "run")
    some = read_outcomes(store, "run", ["case-1", "case-3", "case-4"])
    assert some.commits == {"case-1": whole.commits["case-1"]}
    assert some.failures == {}


def test_outcomes_are_read_of_the_cases_that_left_some_and_asked_of_none(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, "case-1")
    read = []
    genuine = RunStore.read
    monkeypatch.setattr(RunStore, "read", lambda self, key: read.append(key) or genuine(self, key))
    monkeypatch.setattr(RunStore, "size", lambda _self, key: pytest.fail(f"the size of {key} was asked for"))
    read_outcomes(store, "run", ["case-1", *(f"absent-{number}" for number in range(50))])
    assert read == [commit_key("case-1")]


def test_a_label_that_was_altered_in_place_is_found_when_asked_for(store: RunStore) -> None:
    commit(store, "case-1")
    commit(store, "case-2")
    store.write(label_key("case-1"), b"LABELS")
    assert sorted(read_ledger(store, "run").commits) == ["case-1", "case-2"]
    assert sorted(read_ledger(store, "run", verify=True).commits) == ["case-2"]


def test_a_commit_that_lies_under_another_cases_key_counts_for_neither(store: RunStore) -> None:
    commit(store, "case-1")
    store.write(commit_key("case-2"), store.read(commit_key("case-1")))
    store.delete(commit_key("case-1"))
    assert read_ledger(store, "run").commits == {}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("case_id",), ["case-1"]),
        (("outputs", "labels/case-1.nii.gz"), {"size": "6", "sha256": "a"}),
        (("outputs",), {"../../etc/passwd": {"size": 1, "sha256": "a"}}),
        (("inputs",), {"t1c": 3}),
        (("run_id",), None),
    ],
)
def test_a_commit_of_another_form_does_not_count(store: RunStore, path: tuple[str, ...], value: object) -> None:
    commit(store, "case-1")
    document = json.loads(store.read(commit_key("case-1")))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    store.write(commit_key("case-1"), json.dumps(document).encode())
    assert read_ledger(store, "run").commits == {}


def test_the_hash_of_a_ledger_follows_every_fact_of_the_tables_and_no_order(store: RunStore, tmp_path: Path) -> None:
    other = RunStore(str(tmp_path / "other"))
    for case_id in ("case-1", "case-2"):
        commit(store, case_id)
    for case_id in ("case-2", "case-1"):
        commit(other, case_id)
    ledger = read_ledger(store, "run")
    assert ledger.sha256 == read_ledger(other, "run").sha256
    moved: Done = replace(ledger.commits["case-1"], site="harbour")
    failed = FailedCase("case-3", FAILURE)
    others = [
        replace(ledger, run_id="other"),
        replace(ledger, commits={**ledger.commits, "case-1": moved}),
        replace(ledger, failures={"case-3": failed}),
        replace(ledger, failures={"case-3": replace(failed, failure=replace(FAILURE, attempts=2))}),
    ]
    assert len({one.sha256 for one in [ledger, *others]}) == 5


def test_lost_timings_are_empty(store: RunStore) -> None:
    write_commit(store, commit_of("case-1", b"x"), {label_key("case-1"): b"x"})
    write_timings(store, "case-1", Timings({"read": 1.5}, {"read": 1.0}))
    commit(store, "case-2")
    assert read_timings(store, ["case-2", "case-1"]) == [Timings({}, {}), Timings({"read": 1.5}, {"read": 1.0})]


def test_suspects_are_read_in_the_order_they_were_left(store: RunStore) -> None:
    left = [Suspect("case-1", Category.TIMED_OUT, f"number {number}", "predict") for number in range(5)]
    for suspect in left:
        write_suspect(store, suspect)
    store.write("suspects/case-1/damaged.json", b"{")
    assert read_suspects(store) == {"case-1": left}


@pytest.mark.parametrize("damage", [b"", b"{", b"[" * 100_000, b'{"case_id": "case-1"}', b'{"category": "unheard_of"}'])
def test_a_damaged_error_object_is_no_failure(store: RunStore, damage: bytes) -> None:
    store.write(error_key("case-1"), damage)
    assert read_ledger(store, "run").failures == {}
