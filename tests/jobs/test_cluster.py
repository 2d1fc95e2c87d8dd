"""A real Ray head, with token authentication, that takes `ray job submit` and `goat-ray submit`."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from goat_ray.demo.cohort import BROKEN_CASE, DEMO_CASES, write_demo_cohort
from tests.cohorts import embedded_with_small_windows
from tests.conftest import ROOT

WHOLE = sorted(case.case_id for case in DEMO_CASES if case.case_id != BROKEN_CASE)
PORTS = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A running head: where its Jobs API is, its token, and the environment of those who know the token."""

    address: str
    token: str
    environment: dict[str, str]

    def start(self, folder: Path, *words: str, **changed: str) -> subprocess.Popen[str]:
        """A command in `folder` that submits something; `changed` is what its environment has otherwise."""
        return subprocess.Popen(
            [BIN / words[0], *words[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **changed},
            cwd=folder,
        )

    def submit(self, folder: Path, *words: str, **changed: str) -> subprocess.Popen[str]:
        """`goat-ray submit predict` in `folder`."""
        given = ("--config", "run.yaml", "--address", self.address)
        return self.start(folder, "goat-ray", "submit", "predict", *given, *words, **changed)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Until Ray says that it has started; its Jobs API answers before, and may yet go again."""
    for _ in range(400):
        assert process.poll() is None, log.read_text()
        if "Ray runtime started" in log.read_text():
            return
        time.sleep(0.25)
    pytest.fail("the head does not start")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the head and all that it started, and nothing else on this machine."""
    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family[1:], 10)
    process.wait(10)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How a command ended: its exit code and what it wrote."""
    try:
        stdout, stderr = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, stdout, stderr


@pytest.fixture
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="goat-"))  # short: the names of Unix sockets may have 107 characters
    token = secrets.token_hex(16)
    (folder / "token").write_text(token)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",  # workers that no stage needs, for every job
        "HOME": str(folder),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    words = [f"--{name}={port}" for name, port in ports.items()]
    words += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}", "--num-cpus=4", "--object-store-memory=200000000"]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            ["ray", "start", "--head", "--block", *words],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(folder / "head.log", process)
        yield Head(f"http://127.0.0.1:{ports['dashboard-port']}", token, environment)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What is submitted: the scripts, and settings for the demo's cohort in small, with its broken case."""
    write_demo_cohort(tmp_path / "cohort", DEMO_CASES, (32, 36, 30))
    manifest = embedded_with_small_windows(tmp_path / "ensemble")
    shutil.copytree(ROOT / "jobs", tmp_path / "checkout" / "jobs")
    places = {"cohort": tmp_path / "cohort", "ensemble": manifest, "out": tmp_path / "run"}
    quick = {"members": ["ResNetM", "UMamba"], "spec": "none", "thumbnails": False, "workers": 1, "threads": 1}
    settings = {name: str(place) for name, place in places.items()} | quick
    (tmp_path / "checkout" / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "checkout"


def test_a_cluster_takes_jobs_from_those_with_its_token_and_their_exit_codes_come_back(
    head: Head, checkout: Path
) -> None:
    run, other = checkout.parent / "run", checkout.parent / "other"
    script = ("python", "jobs/predict.py", "--config", "run.yaml", "--out", str(other), "--limit", str(len(WHOLE)))
    started = [
        head.submit(checkout),
        head.start(checkout, "ray", "job", "submit", "--address", head.address, "--working-dir", ".", "--", *script),
        head.submit(checkout, RAY_AUTH_MODE="disabled"),
    ]
    some_failed, by_ray, stranger = (outcome(process) for process in started)

    code, stdout, stderr = stranger
    assert (code, stdout) == (2, "")
    assert "lets in only those with its token" in stderr

    code, stdout, stderr = some_failed
    assert code == 3, stderr
    assert f"{len(DEMO_CASES)} cases to do" in stdout
    assert f"{BROKEN_CASE}\tunreadable_file" in stdout
    labels = {path.name: path.read_bytes() for path in (run / "labels").iterdir()}
    assert sorted(labels) == [f"{case_id}.nii.gz" for case_id in WHOLE]

    code, stdout, stderr = by_ray
    assert code == 0, stdout + stderr
    assert "succeeded" in stdout
    assert {path.name: path.read_bytes() for path in (other / "labels").iterdir()} == labels

    shutil.rmtree(checkout.parent / "cohort" / BROKEN_CASE)
    code, stdout, stderr = all_ok = outcome(head.submit(checkout))
    assert code == 0, stderr
    assert f"0 cases to do, {len(WHOLE)} already done" in stdout
    assert f"ray job status --address {head.address} raysubmit_" in stderr

    told = "".join(words for _, *both in (some_failed, by_ray, stranger, all_ok) for words in both)
    assert head.token not in told
