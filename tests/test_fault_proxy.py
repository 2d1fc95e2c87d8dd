import errno
import http.client
import io
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from goat_ray import filesystems
from goat_ray.storage import RunStore
from tests.conftest import ROOT
from tests.fault_proxy import KINDS, FaultProxy, RandomFaults

pytest_plugins = ("tests.s3_server",)

LARGE = bytes(range(256)) * (5 * 2**20 // 256)
SIGNED = {"Authorization": "AWS key:signature"}  # moto looks no closer than that


def s3_without_retries(proxy: FaultProxy):
    return boto3.client("s3", endpoint_url=proxy.address, config=Config(retries={"total_max_attempts": 1}))


def connected(address: str) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=20))


def raw_socket(address: str) -> socket.socket:
    where = urlsplit(address)
    return socket.create_connection((where.hostname, where.port), timeout=10)


@contextmanager
def asked(address: str, method: str, path: str, body: bytes | None = None) -> Iterator[http.client.HTTPResponse]:
    """A reply whose body is yet to be read."""
    with connected(address) as connection:
        connection.request(method, path, body, headers=SIGNED)
        with connection.getresponse() as reply:
            yield reply


def status(address: str, method: str, path: str, body: bytes | None = None) -> int:
    with asked(address, method, path, body) as reply:
        return reply.status


def read(address: str, path: str) -> bytes:
    with asked(address, "GET", path) as reply:
        return reply.read()


@pytest.fixture
def bucket(s3_bucket: str) -> str:
    return s3_bucket.removeprefix("s3://")


@pytest.fixture
def small(fault_proxy: FaultProxy, bucket: str) -> str:
    """Path of an object of ten bytes."""
    s3_without_retries(fault_proxy).put_object(Bucket=bucket, Key="small", Body=b"0123456789")
    return f"/{bucket}/small"


def test_undisturbed_traffic_passes_unchanged(fault_proxy, bucket):
    s3 = s3_without_retries(fault_proxy)
    s3.put_object(Bucket=bucket, Key="a b/ü", Body=LARGE, Metadata={"case": "x"})
    s3.upload_fileobj(io.BytesIO(LARGE * 2), bucket, "multipart")

    assert s3.get_object(Bucket=bucket, Key="a b/ü")["Body"].read() == LARGE
    assert s3.get_object(Bucket=bucket, Key="a b/ü", Range="bytes=255-258")["Body"].read() == b"\xff\x00\x01\x02"
    head = s3.head_object(Bucket=bucket, Key="a b/ü")
    assert (head["ContentLength"], head["Metadata"]) == (len(LARGE), {"case": "x"})
    assert s3.get_object(Bucket=bucket, Key="multipart")["Body"].read() == LARGE * 2
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["a b/ü", "multipart"]

    s3.delete_object(Bucket=bucket, Key="a b/ü")
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=bucket, Key="a b/ü")
    assert not fault_proxy.counts["faults"]
    assert fault_proxy.counts["requests"]["HEAD"] == 2


def test_a_conditional_put_is_refused_where_something_is(fault_proxy, bucket):
    s3 = s3_without_retries(fault_proxy)
    s3.put_object(Bucket=bucket, Key="commit", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="commit", Body=b"2", IfNoneMatch="*")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert s3.get_object(Bucket=bucket, Key="commit")["Body"].read() == b"1"


def test_a_chunked_request_arrives_whole_and_its_connection_lives_on(fault_proxy, bucket):
    pieces = (LARGE[start : start + 100_000] for start in range(0, len(LARGE), 100_000))
    with connected(fault_proxy.address) as connection:
        connection.request("PUT", f"/{bucket}/chunked", pieces, headers=SIGNED, encode_chunked=True)
        with connection.getresponse() as reply:
            assert (reply.status, reply.read()) == (200, b"")
        used = connection.sock
        connection.request("HEAD", f"/{bucket}/chunked", headers=SIGNED)
        with connection.getresponse() as reply:
            assert (reply.headers["Content-Length"], reply.read()) == (str(len(LARGE)), b"")
        connection.request("GET", f"/{bucket}/chunked", headers=SIGNED)
        with connection.getresponse() as reply:
            assert reply.read() == LARGE
        assert used is not None
        assert connection.sock is used


def test_a_client_that_waits_to_be_told_to_continue_is_told(fault_proxy, bucket):
    request = f"PUT /{bucket}/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    with raw_socket(fault_proxy.address) as raw, raw.makefile("rb") as replies:
        raw.sendall(request.encode())
        assert replies.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert replies.readline() == b"\r\n"
        raw.sendall(b"body")
        assert replies.readline().startswith(b"HTTP/1.1 200")
    assert read(fault_proxy.address, f"/{bucket}/k") == b"body"


def test_many_connections_are_served_at_once(fault_proxy, small):
    fault_proxy.slow_body_s = 0.5
    fault_proxy.fail("slow_body", times=16)
    start = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda _: read(fault_proxy.address, small), range(16))) == [b"0123456789"] * 16
    assert time.monotonic() - start < 16 * 0.5 / 2


def test_slow_down_is_an_error_of_s3_that_upstream_never_hears_of(fault_proxy, bucket):
    s3 = s3_without_retries(fault_proxy)
    fault_proxy.fail("slow_down", method="PUT")
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    assert refused.value.response["Error"]["Code"] == "SlowDown"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert fault_proxy.counts["faults"] == {"slow_down": 1}


def test_slow_down_on_head_has_no_body_that_could_be_taken_for_the_next_reply(fault_proxy):
    fault_proxy.fail("slow_down", method="HEAD")
    with raw_socket(fault_proxy.address) as raw, raw.makefile("rb") as replies:
        raw.sendall(b"HEAD /bucket/k HTTP/1.1\r\nConnection: close\r\n\r\n")
        reply = replies.read()
    assert reply.startswith(b"HTTP/1.1 503 Slow Down\r\n")
    assert reply.index(b"\r\n\r\n") == len(reply) - 4


@pytest.mark.parametrize(("kind", "acted"), [("reset", False), ("lost_reply", True)])
def test_a_dropped_connection_is_a_reset_before_or_after_upstream_acted(fault_proxy, bucket, kind, acted):
    fault_proxy.fail(kind, method="PUT")
    with pytest.raises(ConnectionResetError) as dropped:
        status(fault_proxy.address, "PUT", f"/{bucket}/k", b"1")
    assert dropped.value.errno == errno.ECONNRESET  # http.client calls an orderly end a reset too, without this number
    listed = s3_without_retries(fault_proxy).list_objects_v2(Bucket=bucket)
    assert listed["KeyCount"] == acted
    assert fault_proxy.counts["faults"] == {kind: 1}


def test_a_truncated_reply_promises_more_than_comes(fault_proxy, small):
    fault_proxy.fail("truncated")
    with asked(fault_proxy.address, "GET", small) as reply:
        assert (reply.status, reply.headers["Content-Length"]) == (200, "10")
        with pytest.raises(http.client.IncompleteRead) as cut:
            reply.read()
    assert cut.value.partial == b"01234"
    assert fault_proxy.counts["faults"] == {"truncated": 1}


def test_a_slow_body_comes_in_pieces_after_a_prompt_head(fault_proxy, small):
    fault_proxy.slow_body_s = 0.8
    fault_proxy.fail("slow_body")
    start = time.monotonic()
    with asked(fault_proxy.address, "GET", small) as reply:
        headed_s = time.monotonic() - start
        pieces = list(iter(lambda: reply.read1(100), b""))
    assert b"".join(pieces) == b"0123456789"
    assert len(pieces) > 1
    assert headed_s < 0.8 <= time.monotonic() - start


def test_a_reply_without_body_cannot_be_truncated_and_does_not_count(fault_proxy, bucket):
    s3 = s3_without_retries(fault_proxy)
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    fault_proxy.fail("truncated", times=2)
    s3.head_object(Bucket=bucket, Key="empty")
    assert read(fault_proxy.address, f"/{bucket}/empty") == b""
    assert not fault_proxy.counts["faults"]
    s3.put_object(Bucket=bucket, Key="full", Body=b"12")
    with pytest.raises(http.client.IncompleteRead):
        read(fault_proxy.address, f"/{bucket}/full")


def test_a_rule_hits_only_what_it_names_and_as_often_as_it_says(fault_proxy, bucket):
    fault_proxy.fail("slow_down", method="PUT", key_contains="commits/a b", times=2)
    address = fault_proxy.address
    statuses = [
        status(address, "PUT", f"/{bucket}/labels/a", b"1"),
        status(address, "GET", f"/{bucket}/commits/a%20b"),
        *(status(address, "PUT", f"/{bucket}/commits/a%20b", b"1") for _ in range(3)),
    ]
    assert statuses == [200, 404, 503, 503, 200]
    assert fault_proxy.counts == {"requests": {"PUT": 4, "GET": 1}, "faults": {"slow_down": 2}}


def test_a_fault_that_does_not_exist_is_refused(fault_proxy):
    with pytest.raises(ValueError, match="'flood' is no fault; there are slow_down, reset"):
        fault_proxy.fail("flood")
    with pytest.raises(ValueError, match="'flood'"):
        RandomFaults(1, 0.5, ("flood",))


def test_random_faults_are_the_same_for_a_seed_whatever_the_order():
    keys = [f"/b/{number}" for number in range(300)]
    forth, back, other = RandomFaults(7, 0.3), RandomFaults(7, 0.3), RandomFaults(8, 0.3)
    chosen = {key: forth.choose("GET", key) for key in keys}
    assert {key: back.choose("GET", key) for key in reversed(keys)} == chosen
    assert {key: other.choose("GET", key) for key in keys} != chosen
    assert set(chosen.values()) == {None, *KINDS}
    assert 60 < sum(kind is not None for kind in chosen.values()) < 120


def test_random_faults_never_hit_a_request_too_often_in_a_row():
    for most_in_a_row in (0, 1, 3):
        faults = RandomFaults(7, 0.9, most_in_a_row=most_in_a_row)
        failed = [faults.choose("PUT", "/b/k") is not None for _ in range(500)]
        runs = [len(list(run)) for is_failure, run in itertools.groupby(failed) if is_failure]
        assert max(runs, default=0) == most_in_a_row


def test_random_faults_do_not_truncate_what_has_no_body():
    faults = RandomFaults(7, 1, most_in_a_row=1000)
    assert {faults.choose("PUT", "/b/k") for _ in range(200)} == {"slow_down", "reset", "lost_reply"}
    assert RandomFaults(7, 1, ("truncated",)).choose("HEAD", "/b/k") is None


def test_random_faults_hit_the_traffic_of_a_proxy(fault_proxy, small):
    fault_proxy.random_faults = RandomFaults(3, 0.5, ("slow_down",))
    expected = RandomFaults(3, 0.5, ("slow_down",))
    wanted = [503 if expected.choose("GET", small) else 200 for _ in range(30)]
    assert [status(fault_proxy.address, "GET", small) for _ in range(30)] == wanted
    assert fault_proxy.counts["faults"]["slow_down"] == wanted.count(503) > 0


def test_a_proxy_ends_while_clients_keep_their_connections(s3_endpoint, caplog):
    with FaultProxy(s3_endpoint) as proxy, connected(proxy.address) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()
        proxy.__exit__()
        assert "fault-proxy" not in [thread.name for thread in threading.enumerate()]
        assert "asyncio" not in [record.name for record in caplog.records]
        with pytest.raises(ConnectionRefusedError):
            status(proxy.address, "GET", "/")


def test_a_run_store_gets_through_a_fifth_of_its_requests_failing(fault_proxy, s3_endpoint, monkeypatch):
    monkeypatch.setattr(filesystems.time, "sleep", lambda _s: None)  # pauses are for real servers
    name = "bucket-of-faults"  # the same in every run, so that the faults are
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=name)
    fault_proxy.slow_body_s = 0.02
    fault_proxy.random_faults = RandomFaults(5, 0.2)
    store, commits = RunStore(f"s3://{name}/run"), []

    for number in range(40):
        label, content = f"labels/{number:02}", bytes([number]) * (1 + 1000 * number)
        commits.append(f"commits/{number:02}")
        store.write(label, content)
        assert store.read(label) == content
        assert store.create(commits[-1], content)
        assert list(store.list("commits")) == commits
        store.delete(label)

    assert store.list("labels") == {}
    assert set(fault_proxy.counts["faults"]) == set(KINDS)
    assert fault_proxy.counts["faults"].total() > 40


def test_the_command_counts_what_it_did_until_it_is_terminated(s3_endpoint, tmp_path):
    log = tmp_path / "faults.json"
    options = ["--upstream", s3_endpoint, "--rate", "1", "--kinds", "slow_down", "--log", str(log)]
    command = [sys.executable, "-m", "tests.fault_proxy", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        statuses = [status(address, "GET", "/") for _ in range(4)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert statuses == [503, 503, 200, 503]
    assert json.loads(log.read_text()) == {"requests": {"GET": 4}, "faults": {"slow_down": 3}}
