"""A run folder's own record: whose it is, and what belongs to it."""

from pathlib import Path

import pytest

from goat_ray.commits import label_key, write_commit
from goat_ray.errors import ConfigError
from goat_ray.runs import RUN_KEY, clear_run, open_run, read_run, update_run
from goat_ray.storage import RunStore
from tests.test_commits import commit_of

FINGERPRINT = {"decode": "majority", "postprocess": {"wt_max": 250}}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def test_a_run_folder_is_reused_only_with_equal_settings(store: RunStore) -> None:
    run_id = open_run(store, FINGERPRINT, {"config": {}})
    assert open_run(store, FINGERPRINT, {"config": {"workers": 3}}) == run_id
    assert read_run(store)["config"] == {}
    changed = {**FINGERPRINT, "postprocess": {"wt_max": 300}}
    with pytest.raises(ConfigError, match=r"postprocess\.wt_max differ"):
        open_run(store, changed, {})
    assert open_run(store, changed, {}, overwrite=True) != run_id


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(store: RunStore) -> None:
    open_run(store, FINGERPRINT, {})
    commit = commit_of("case-1", b"labels")
    write_commit(store, commit, {label_key(commit.case_id): b"labels"})
    store.write("notes.txt", b"mine")
    clear_run(store)
    assert list(store.list("")) == ["notes.txt"]


def test_overwrite_leaves_a_folder_alone_that_is_no_run(store: RunStore) -> None:
    store.write("labels/precious.nii.gz", b"mine")
    clear_run(store)
    assert list(store.list("")) == ["labels/precious.nii.gz"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"3", b'{"run_id": "a"}', b'{"fingerprint": []}', b"[" * 100_000])
def test_a_damaged_record_is_refused_in_words(store: RunStore, damage: bytes) -> None:
    store.write(RUN_KEY, damage)
    with pytest.raises(ConfigError, match="choose another --out"):
        open_run(store, FINGERPRINT, {})


def test_a_folder_without_a_record_is_no_run(store: RunStore) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        read_run(store)


def test_an_update_leaves_the_other_keys(store: RunStore) -> None:
    run_id = open_run(store, FINGERPRINT, {"config": {}})
    assert update_run(store, {"state": "running"}) == read_run(store)
    assert (read_run(store)["run_id"], read_run(store)["state"]) == (run_id, "running")
