"""How far a run is, from its objects alone."""

import json
import os
import time
from pathlib import Path

import pytest

from goat_ray.cases import FailedCase
from goat_ray.commits import commit_key, label_key, write_commit, write_failure
from goat_ray.errors import ConfigError
from goat_ray.runs import open_run, update_run
from goat_ray.status import read_status
from goat_ray.storage import RunStore
from tests.test_commits import FAILURE, commit_of


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RunStore:
    root = str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3_bucket") + "/run"
    store = RunStore(root)
    open_run(store, {"decode": "majority"}, {"kind": "predict"})
    update_run(store, {"expected": 10, "state": "running"})
    return store


def commit(store: RunStore, *case_ids: str) -> None:
    for case_id in case_ids:
        write_commit(store, commit_of(case_id, b"x"), {label_key(case_id): b"x"})


def test_a_run_that_has_just_begun(store: RunStore) -> None:
    status = read_status(store.root)
    assert (status.state, status.expected, status.ok, status.failed, status.remaining) == ("running", 10, 0, 0, 10)
    assert (status.cases_per_hour, status.left_s, status.idle_s) == (None, None, None)


def test_cases_are_counted_and_failures_by_category(store: RunStore) -> None:
    commit(store, "case-1", "case-2", "case-3")
    write_failure(store, FailedCase("case-4", FAILURE))
    store.write("errors/" + commit_key("case-1").removeprefix("commits/"), b"withdrawn in vain")
    status = read_status(store.root)
    assert (status.ok, status.failed, status.remaining) == (3, 1, 6)
    assert status.categories == {"unreadable_file": 1}
    assert json.loads(status.to_json())["kind"] == "predict"


def test_the_rate_is_that_of_the_last_ten_minutes_of_work(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path / "run"))
    open_run(store, {}, {"kind": "predict"})
    update_run(store, {"expected": 10, "state": "running"})
    commit(store, *(f"case-{number}" for number in range(6)))
    now = time.time()
    for number, ago_s in enumerate((7200, 3600, 180, 120, 60, 0)):
        path = tmp_path / "run" / commit_key(f"case-{number}")
        os.utime(path, (now - ago_s, now - ago_s))
    status = read_status(store.root)
    assert status.cases_per_hour == pytest.approx(60, rel=0.01)
    assert status.left_s == pytest.approx(4 * 60, rel=0.01)


def test_a_run_whose_driver_died_is_idle(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path / "run"))
    open_run(store, {}, {"kind": "predict"})
    update_run(store, {"expected": 2, "state": "running"})
    commit(store, "case-1")
    os.utime(tmp_path / "run" / commit_key("case-1"), (1, 1))
    assert "its driver may have died" in read_status(store.root).state


def test_the_state_that_was_recorded_at_the_end_is_told(store: RunStore) -> None:
    update_run(store, {"state": "stopped by SIGTERM"})
    assert read_status(store.root).state == "stopped by SIGTERM"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        read_status(str(tmp_path))
    with pytest.raises(ConfigError, match="only local paths"):
        read_status("gs://bucket/run")
