"""Copies in a folder: equal to what is wanted, never made twice, and nothing left behind."""

import gzip
import hashlib
from pathlib import Path

import pytest

from goat_ray.errors import GoatRayError
from goat_ray.pseudolabel.files import Source, reconcile
from goat_ray.storage import RunStore

RECORD = "copies.parquet"


def source(path: Path, content: bytes) -> Source:
    path.write_bytes(content)
    return Source(str(path), hashlib.sha256(content).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "dataset"))


def test_copies_are_made_once(store: RunStore, tmp_path: Path) -> None:
    wanted = {"a/1.nii.gz": source(tmp_path / "x.nii.gz", b"x"), "a/2.nii.gz": source(tmp_path / "y.nii.gz", b"y")}
    assert reconcile(store, wanted, RECORD) == 2
    assert store.read("a/1.nii.gz") == b"x"
    assert reconcile(store, wanted, RECORD) == 0


def test_what_is_no_longer_wanted_goes_and_what_is_not_ours_stays(store: RunStore, tmp_path: Path) -> None:
    x, y = source(tmp_path / "x.nii.gz", b"x"), source(tmp_path / "y.nii.gz", b"y")
    reconcile(store, {"1.nii.gz": x, "2.nii.gz": y}, RECORD)
    store.write("notes.txt", b"mine")
    assert reconcile(store, {"1.nii.gz": x}, RECORD) == 1
    assert set(store.list()) == {"1.nii.gz", "notes.txt", RECORD}


def test_other_content_of_the_same_size_is_copied_again(store: RunStore, tmp_path: Path) -> None:
    reconcile(store, {"1.nii.gz": source(tmp_path / "x.nii.gz", b"old")}, RECORD)
    assert reconcile(store, {"1.nii.gz": source(tmp_path / "x.nii.gz", b"new")}, RECORD) == 1
    assert store.read("1.nii.gz") == b"new"


def test_a_damaged_copy_is_made_again(store: RunStore, tmp_path: Path) -> None:
    wanted = {"1.nii.gz": source(tmp_path / "x.nii.gz", b"content")}
    reconcile(store, wanted, RECORD)
    store.write("1.nii.gz", b"cont")
    assert reconcile(store, wanted, RECORD) == 1
    assert store.read("1.nii.gz") == b"content"


def test_a_source_that_changed_since_it_was_checked_is_refused(store: RunStore, tmp_path: Path) -> None:
    checked = source(tmp_path / "x.nii.gz", b"checked")
    (tmp_path / "x.nii.gz").write_bytes(b"swapped")
    with pytest.raises(GoatRayError, match="has changed since it was checked"):
        reconcile(store, {"1.nii.gz": checked}, RECORD)


def test_a_call_that_dies_leaves_nothing_unknown(store: RunStore, tmp_path: Path) -> None:
    good = source(tmp_path / "x.nii.gz", b"x")
    gone = Source(str(tmp_path / "gone.nii.gz"), "0" * 64)
    with pytest.raises(GoatRayError):
        reconcile(store, {"1.nii.gz": good, "2.nii.gz": gone}, RECORD)
    reconcile(store, {"3.nii.gz": good}, RECORD)
    assert set(store.list()) == {"3.nii.gz", RECORD}


def test_plain_sources_are_compressed_where_the_copy_is(store: RunStore, tmp_path: Path) -> None:
    wanted = {"1.nii.gz": source(tmp_path / "x.nii", b"plain")}
    reconcile(store, wanted, RECORD)
    assert gzip.decompress(store.read("1.nii.gz")) == b"plain"
    assert reconcile(store, wanted, RECORD) == 0


def test_a_damaged_record_is_told(store: RunStore) -> None:
    store.write(RECORD, b"no parquet")
    with pytest.raises(GoatRayError, match=r"copies\.parquet is damaged"):
        reconcile(store, {}, RECORD)
