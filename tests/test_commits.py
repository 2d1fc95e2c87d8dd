"""The commit protocol on a local run folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from goat_ray.cases import FailedCase
from goat_ray.commits import (
    Commit,
    Output,
    commit_key,
    error_key,
    label_key,
    withdraw,
    write_commit,
    write_failure,
)
from goat_ray.errors import Category, Failure, StorageError
from goat_ray.ledger import read_commits, read_ledger
from goat_ray.storage import RunStore

FAILURE = Failure(Category.UNREADABLE_FILE, "t1c is damaged", "copy it again", "read")


def commit_of(case_id: str, data: bytes, run_id: str = "run") -> Commit:
    return Commit(
        run_id=run_id,
        case_id=case_id,
        site="north",
        cohort=None,
        outputs={label_key(case_id): Output.of(data)},
        inputs={"t1c": {"name": "t1c.nii.gz", "size": 3, "sha256": "00"}},
        tables={
            "cases": [
                {
                    "size_x_vox": 4,
                    "members": ["A", "B"],
                    "decode": "majority",
                    "mean_entropy": 0.25,
                    "et_threshold": 1.5,
                    "label_key": label_key(case_id),
                }
            ],
            "regions": [{"region": "ET", "n_pred_components": 1}],
            "lesions": [],
            "components": [],
        },
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def test_a_commit_survives_the_way_to_disk_and_back(store: RunStore) -> None:
    commit = commit_of("case-1", b"labels")
    write_commit(store, commit, {label_key(commit.case_id): b"labels"})
    assert read_commits(store, ["case-1"]) == [commit]


def test_commits_are_sharded_by_two_hex_digits() -> None:
    folder, shard, name = commit_key("BraTS-GoAT-00001").split("/")
    assert (folder, name) == ("commits", "BraTS-GoAT-00001.json")
    assert len(shard) == 2
    assert int(shard, 16) >= 0


def test_a_commit_without_its_label_does_not_count(store: RunStore) -> None:
    commit = commit_of("case-1", b"labels")
    write_commit(store, commit, {label_key(commit.case_id): b"labels"})
    store.delete(label_key(commit.case_id))
    assert read_ledger(store, "run").commits == {}


def test_a_commit_whose_label_has_another_size_does_not_count(store: RunStore) -> None:
    commit = commit_of("case-1", b"labels")
    write_commit(store, commit, {label_key(commit.case_id): b"labels"})
    store.write(label_key(commit.case_id), b"cut")
    assert read_ledger(store, "run").commits == {}


def test_a_commit_of_another_run_or_a_damaged_one_does_not_count(store: RunStore) -> None:
    other = commit_of("case-1", b"labels", run_id="another")
    write_commit(store, other, {label_key(other.case_id): b"labels"})
    store.write(commit_key("case-2"), b'{"run_id": ')
    assert read_ledger(store, "run").commits == {}


def test_a_failure_is_read_back_and_withdrawn_by_a_later_commit(store: RunStore) -> None:
    failed = FailedCase("case-1", FAILURE, "north", None)
    write_failure(store, failed)
    assert read_ledger(store, "run").failures == {"case-1": failed}
    commit = commit_of("case-1", b"labels")
    write_commit(store, commit, {label_key(commit.case_id): b"labels"})
    ledger = read_ledger(store, "run")
    assert (list(ledger.commits), ledger.failures) == (["case-1"], {})
    assert store.size(error_key("case-1")) is None


def test_committing_the_same_case_twice_is_harmless(store: RunStore) -> None:
    commit = commit_of("case-1", b"labels")
    for _ in range(2):
        write_commit(store, commit, {label_key(commit.case_id): b"labels"})
    assert list(read_ledger(store, "run").commits) == ["case-1"]


def test_a_case_committed_differently_under_the_same_settings_is_never_replaced(store: RunStore) -> None:
    first = commit_of("case-1", b"labels")
    write_commit(store, first, {label_key(first.case_id): b"labels"})
    with pytest.raises(StorageError, match="theirs is kept"):
        write_commit(store, commit_of("case-1", b"others"), {label_key(first.case_id): b"others"})
    assert read_commits(store, ["case-1"]) == [first]
    assert store.read(label_key(first.case_id)) == b"labels"


def test_equal_outputs_with_other_scores_are_another_result(store: RunStore) -> None:
    first = commit_of("case-1", b"labels")
    write_commit(store, first, {label_key("case-1"): b"labels"})
    other = replace(first, tables={**first.tables, "regions": []})
    with pytest.raises(StorageError, match="theirs is kept"):
        write_commit(store, other, {label_key("case-1"): b"labels"})


def withdraw_void(store: RunStore, case_id: str) -> None:
    withdraw(store, case_id, read_ledger(store, "run").void[commit_key(case_id)])


def test_a_commit_that_lost_its_label_gives_way_once_it_is_withdrawn(store: RunStore) -> None:
    first = commit_of("case-1", b"labels")
    write_commit(store, first, {label_key(first.case_id): b"labels"})
    store.delete(label_key(first.case_id))
    withdraw_void(store, "case-1")
    second = commit_of("case-1", b"others")
    write_commit(store, second, {label_key(second.case_id): b"others"})
    assert read_commits(store, ["case-1"]) == [second]


def test_a_commit_that_lost_its_label_is_whole_again_when_the_same_label_comes_back(store: RunStore) -> None:
    commit = commit_of("case-1", b"labels")
    for _ in range(2):
        write_commit(store, commit, {label_key("case-1"): b"labels"})
        assert list(read_ledger(store, "run").commits) == ["case-1"]
        store.delete(label_key("case-1"))


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"outputs": []}', b'{"outputs": {"a": 3}}', b"\xff", b"[" * 10**5])
def test_a_damaged_commit_does_not_stop_a_resume(store: RunStore, damage: bytes) -> None:
    store.write(commit_key("case-1"), damage)
    assert read_ledger(store, "run").commits == {}
    withdraw_void(store, "case-1")
    commit = commit_of("case-1", b"labels")
    write_commit(store, commit, {label_key(commit.case_id): b"labels"})
    assert list(read_ledger(store, "run").commits) == ["case-1"]


def test_what_somebody_committed_meanwhile_is_not_withdrawn(store: RunStore) -> None:
    store.write(commit_key("case-1"), b"damaged")
    void = read_ledger(store, "run").void[commit_key("case-1")]
    store.delete(commit_key("case-1"))
    write_commit(store, commit_of("case-1", b"labels"), {label_key("case-1"): b"labels"})
    withdraw(store, "case-1", void)
    assert list(read_ledger(store, "run").commits) == ["case-1"]


def test_an_unsafe_case_id_stays_inside_the_run_folder(store: RunStore) -> None:
    write_failure(store, FailedCase("../../evil", FAILURE, None, None))
    (key,) = store.list("errors")
    assert ".." not in key
    assert read_ledger(store, "run").failures["../../evil"].failure == FAILURE
