import errno
import os
import threading
from pathlib import Path

import boto3
import pytest

from goat_ray import filesystems, storage
from goat_ray.config import S3Config
from goat_ray.errors import MissingFile, StorageError
from goat_ray.storage import RunStore

pytest_plugins = ("tests.s3_server",)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3_bucket") + "/deep/run"


def client(endpoint: str):
    return boto3.client("s3", endpoint_url=endpoint)


def test_what_was_written_is_read_listed_measured_and_deleted(root):
    store = RunStore(root)
    store.write("labels/b.nii.gz", b"bb")
    store.write("labels/a.nii.gz", b"a")
    store.write("labels/a.nii.gz", b"aaa")
    store.write("run.json", b"{}")

    assert store.read("labels/a.nii.gz") == b"aaa"
    assert [(key, stat.size) for key, stat in store.list("labels").items()] == [
        ("labels/a.nii.gz", 3),
        ("labels/b.nii.gz", 2),
    ]
    assert store.list("labels/") == store.list("labels")
    assert list(store.list()) == ["labels/a.nii.gz", "labels/b.nii.gz", "run.json"]
    assert store.size("run.json") == 2
    assert storage.exists(root)
    assert storage.exists(storage.join(root, "labels"))
    assert storage.stat(storage.join(root, "run.json")).size == 2

    store.delete("run.json")
    store.delete("run.json")
    assert store.size("run.json") is None
    assert not storage.exists(storage.join(root, "run.json"))


def test_a_listing_sees_what_another_process_wrote_since_the_last_one(root):
    RunStore(root).write("commits/a.json", b"1")
    assert list(storage.list_files(root)) == ["commits/a.json"]
    RunStore(root).write("commits/b.json", b"2")
    assert list(storage.list_files(root)) == ["commits/a.json", "commits/b.json"]


def test_a_prefix_does_not_list_its_namesakes(root):
    store = RunStore(root)
    store.write("labels/a", b"")
    store.write("labels-old/b", b"")
    assert list(store.list("labels")) == ["labels/a"]


def test_a_folder_that_is_not_there_is_empty(root):
    RunStore(root).write("a", b"")
    assert RunStore(root).list("commits") == {}


def test_a_missing_file_has_its_own_error(root):
    RunStore(root).write("a", b"")
    for ask in (storage.read_bytes, storage.stat, lambda uri: storage.read_start(uri, 10)):
        with pytest.raises(MissingFile, match="run/nothing does not exist"):
            ask(storage.join(root, "nothing"))


@pytest.mark.parametrize(("data", "start"), [(b"abcdef", b"abc"), (b"ab", b"ab"), (b"", b"")])
def test_the_start_of_a_file_is_as_much_of_it_as_there_is(root, data, start):
    RunStore(root).write("a", data)
    assert storage.read_start(storage.join(root, "a"), 3) == start


def test_create_never_overwrites_other_bytes(root):
    store = RunStore(root)
    assert store.create("commits/a.json", b"first")
    assert not store.create("commits/a.json", b"second")
    assert store.read("commits/a.json") == b"first"


def test_a_reply_that_got_lost_counts_as_created(root):
    store = RunStore(root)
    store.write("commits/a.json", b"ours")
    assert store.create("commits/a.json", b"ours")


def test_of_many_concurrent_creates_one_wins(root):
    store, start, won = RunStore(root), threading.Barrier(8), []

    def compete(number: int) -> None:
        start.wait()
        if store.create("commits/a.json", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("commits/a.json") == b"%d" % won[0]


def test_a_store_that_refuses_the_condition_gets_a_plain_put(s3_bucket, monkeypatch):
    fs = filesystems.s3()
    pipe_file = fs.pipe_file
    refusal = OSError(errno.ENOSYS, "not implemented")
    refusal.__cause__ = type("ClientError", (Exception,), {"response": {"Error": {"Code": "NotImplemented"}}})()

    def without_condition(path, data, mode="overwrite"):
        if mode == "create":
            raise refusal
        pipe_file(path, data)

    monkeypatch.setattr(fs, "pipe_file", without_condition)
    store = RunStore(s3_bucket)
    assert store.create("a", b"1")
    assert not store.create("a", b"2")


def test_a_store_that_ignores_the_condition_still_keeps_the_first(s3_bucket, monkeypatch):
    fs = filesystems.s3()
    pipe_file = fs.pipe_file
    monkeypatch.setattr(fs, "pipe_file", lambda path, data, mode="": pipe_file(path, data))
    store = RunStore(s3_bucket)
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert store.read("a") == b"1"


@pytest.mark.parametrize("key", ["", "../a", "a/../../b", "/etc/passwd", "a//b", "a/", "./a", "a\\b", "a\0b"])
def test_a_key_that_could_lead_out_of_the_run_is_refused(root, key):
    store = RunStore(root)
    for use in (store.read, store.size, store.delete, lambda k: store.write(k, b""), lambda k: store.create(k, b"")):
        with pytest.raises(StorageError, match="no key inside a run"):
            use(key)


def test_a_link_that_leads_out_of_the_run_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "labels").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run" / "loop").symlink_to(tmp_path / "run" / "loop")
    with pytest.raises(StorageError, match="through a link"):
        RunStore(str(tmp_path / "run")).write("labels/a", b"")
    with pytest.raises(StorageError):
        RunStore(str(tmp_path / "run")).read("loop/a")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_run_folder_may_itself_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    RunStore(str(tmp_path / "run")).write("labels/a", b"1")
    assert (tmp_path / "disk" / "labels" / "a").read_bytes() == b"1"


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    store = RunStore(str(tmp_path))
    store.write("a", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"Cannot write .*a: No space left on device"):
        store.write("a", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_what_a_killed_writer_left_is_not_listed(tmp_path):
    store = RunStore(str(tmp_path))
    store.write("labels/a", b"1")
    (tmp_path / "labels" / ".tmp-0123").write_bytes(b"half")
    assert list(store.list()) == ["labels/a"]


def test_a_failure_that_passes_is_tried_again(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"1")
    fs, _ = filesystems.locate(str(tmp_path))
    answers = [OSError(errno.EIO, "Input/output error"), TimeoutError(), b"1"]

    def flaky(_path: str) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(filesystems.time, "sleep", lambda _s: None)
    monkeypatch.setattr(fs, "cat_file", flaky)
    assert storage.read_bytes(str(tmp_path / "a")) == b"1"
    assert not answers


def test_a_failure_that_stays_is_given_up_soon(tmp_path, monkeypatch):
    fs, _ = filesystems.locate(str(tmp_path))
    calls = []

    def broken(path: str) -> bytes:
        calls.append(path)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(filesystems.time, "sleep", lambda _s: None)
    monkeypatch.setattr(fs, "cat_file", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.read_bytes(str(tmp_path / "a"))
    assert len(calls) == 6


def test_a_folder_cannot_be_read_as_a_file(tmp_path):
    with pytest.raises(StorageError, match="Cannot read"):
        storage.read_bytes(str(tmp_path))


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a").write_bytes(b"12")
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    (cohort / "case").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(cohort)
    (cohort / "broken").symlink_to(tmp_path / "nowhere")
    assert {key: stat.size for key, stat in storage.list_files(str(cohort)).items()} == {"case/a": 2}


def test_an_object_that_exists_but_cannot_be_read_says_so(s3_bucket, s3_endpoint):
    name = s3_bucket.removeprefix("s3://")
    client(s3_endpoint).put_object(Bucket=name, Key="cold", Body=b"1", StorageClass="GLACIER")
    with pytest.raises(StorageError, match=f"Cannot read {s3_bucket}/cold: .*storage class") as caught:
        storage.read_bytes(f"{s3_bucket}/cold")
    assert not isinstance(caught.value, MissingFile)


def test_a_bucket_that_is_not_there_is_missing(s3_endpoint):
    with pytest.raises(MissingFile):
        storage.list_files("s3://no-such-bucket-at-all/cohort")


def test_a_listing_goes_on_after_the_first_page(s3_bucket, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    store = RunStore(s3_bucket)
    for number in range(8):
        store.write(f"commits/{number}", b"")
    assert len(store.list("commits")) == 8


def test_folder_markers_are_no_files(s3_bucket, s3_endpoint):
    s3 = client(s3_endpoint)
    for key in ("cohort/", "cohort/case/", "cohort/case/a"):
        s3.put_object(Bucket=s3_bucket.removeprefix("s3://"), Key=key, Body=b"")
    assert list(storage.list_files(f"{s3_bucket}/cohort/")) == ["case/a"]


def test_messages_never_show_credentials():
    shown = filesystems.display("https://user:secret@host/bucket/a.nii.gz?X-Amz-Signature=secret")
    assert shown == "https://host/bucket/a.nii.gz"
    with pytest.raises(StorageError) as caught:
        storage.read_bytes("https://user:secret@host/a?token=secret")
    assert "secret" not in str(caught.value)
    assert "only local paths and s3://" in str(caught.value)


def test_what_a_client_library_says_is_not_repeated_in_the_message(s3_bucket, monkeypatch):
    fs = filesystems.s3()

    def refuse(_path: str) -> bytes:
        raise ValueError("could not reach http://user:secret@endpoint/")

    monkeypatch.setattr(filesystems.time, "sleep", lambda _s: None)
    monkeypatch.setattr(fs, "cat_file", refuse)
    with pytest.raises(StorageError, match=f"Cannot read {s3_bucket}/a: ValueError$"):
        storage.read_bytes(f"{s3_bucket}/a")


def test_chained_file_systems_are_plain_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="only local paths"):
        storage.read_bytes("simplecache::s3://bucket/a")


def test_local_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.absolute("cohort/a") == str(tmp_path / "cohort" / "a")
    assert storage.absolute("~/cohort") == "/home/someone/cohort"
    assert storage.absolute(f"file://{tmp_path}/x") == f"{tmp_path}/x"
    assert storage.absolute("s3://bucket/cohort/") == "s3://bucket/cohort"


def test_join_puts_one_slash_between_parts():
    assert storage.join("s3://bucket/", "a/", "b.json") == "s3://bucket/a/b.json"
    assert storage.join("/", "a") == "/a"


@pytest.fixture
def s3_choice():
    yield
    filesystems.use_s3(S3Config())


@pytest.mark.usefixtures("s3_choice")
def test_s3_is_reached_as_the_configuration_says(s3_endpoint, s3_bucket, tmp_path, monkeypatch):
    RunStore(s3_bucket).write("a", b"1")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    profiles = tmp_path / "credentials"
    profiles.write_text("[lab]\naws_access_key_id = lab-key\naws_secret_access_key = lab-secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    filesystems.use_s3(S3Config(endpoint_url=s3_endpoint, region="eu-central-1", profile="lab"))
    assert storage.read_bytes(f"{s3_bucket}/a") == b"1"
    session = filesystems.s3().session
    assert session.get_config_variable("profile") == "lab"
    assert filesystems.s3().client_kwargs["region_name"] == "eu-central-1"
    filesystems.use_s3(S3Config(endpoint_url=s3_endpoint, anonymous=True))
    assert filesystems.s3().anon
    with pytest.raises(StorageError):  # the server wants a signature, which an anonymous client has none to give
        storage.read_bytes(f"{s3_bucket}/a")


def test_threads_share_one_client(s3_bucket):
    found = []
    thread = threading.Thread(target=lambda: found.append(filesystems.s3()))
    thread.start()
    thread.join()
    assert found == [filesystems.s3()]


def test_pauses_grow_and_are_random(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(filesystems.time, "sleep", pauses.append)
    fs, _ = filesystems.locate(str(tmp_path))
    monkeypatch.setattr(fs, "cat_file", lambda _path: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    for _ in range(2):
        with pytest.raises(StorageError):
            storage.read_bytes(str(tmp_path / "a"))
    one, other = pauses[:5], pauses[5:]
    assert one != other
    for number, pause_s in enumerate(one):
        assert 0.1 * 2**number <= pause_s <= 0.2 * 2**number


def test_a_disk_without_links_still_keeps_the_first(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = RunStore(str(tmp_path))
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert store.read("a") == b"1"
