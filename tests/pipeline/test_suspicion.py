"""Whom a run blames for lost workers, and what it leaves of that."""

from pathlib import Path

import pytest

from goat_ray.commits import Suspect, write_suspect
from goat_ray.errors import Category
from goat_ray.pipeline.suspicion import Suspicion
from goat_ray.storage import RunStore

SUSPECT = Suspect("case-1", Category.TIMED_OUT, "stage read did not finish", "read")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(str(tmp_path))
    write_suspect(store, SUSPECT)
    return store


def test_what_an_earlier_call_left_is_held_against_a_case(store: RunStore) -> None:
    suspicion = Suspicion(store)
    assert [suspicion.losses(case_id) for case_id in ("case-1", "case-2")] == [1, 0]


def test_the_last_word_of_a_worker_is_what_a_case_ends_as(store: RunStore) -> None:
    failure = Suspicion(store).failure("case-1")
    assert (failure.category, failure.stage, failure.attempts) == (Category.TIMED_OUT, "read", 1)


def test_nothing_is_looked_for_of_cases_that_were_only_asked_about(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspicion = Suspicion(store)
    cases = [f"case-{number}" for number in range(100)]
    assert sum(map(suspicion.losses, cases)) == 1
    listed = []
    genuine = RunStore.list
    monkeypatch.setattr(RunStore, "list", lambda self, prefix: listed.append(prefix) or genuine(self, prefix))
    suspicion.acquit(cases)
    assert listed == ["suspects/case-1"]
    assert not store.list("suspects")
    assert suspicion.losses("case-1") == 0
