"""The challenge contract of the image: no arguments, /input to /output."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pyarrow as pa
import pytest

from goat_ray.storage import RunStore
from goat_ray.tables import table_key
from tests.cohorts import write_case, write_tiny_ensemble
from tests.conftest import ROOT

ENTRYPOINT = ROOT / "jobs" / "container.py"
FOLDERS = ("input", "output", "ensemble", "scratch")
GOOD, BAD = "BraTS-GoAT-00001", "BraTS-GoAT-00002"
SMALL_SHM = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]

Container = Callable[..., subprocess.CompletedProcess[str]]


def places(mounts: Path) -> dict[str, str]:
    """What tells the entrypoint where its folders are."""
    return {f"GOAT_RAY_{name.upper()}": str(mounts / name) for name in FOLDERS}


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def container(mounts: Path) -> Container:
    """Runs the entrypoint as the image would, with 64 MB of shared memory where that can be had."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    can_unshare = subprocess.run([*SMALL_SHM, "true"], capture_output=True, check=False).returncode == 0

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*(SMALL_SHM if can_unshare else []), sys.executable, ENTRYPOINT, *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, env={**environment, **places(mounts)}
        )

    return run


@pytest.fixture
def entrypoint(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The same for calls in this process, whose arguments and log it changes."""
    monkeypatch.setattr(sys, "argv", [str(ENTRYPOINT)])
    monkeypatch.setattr(logging.getLogger("goat_ray"), "handlers", [])
    monkeypatch.syspath_prepend(str(ENTRYPOINT.parent))
    import container

    return container


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_labels_of_good_cases_come_out_and_nothing_else(
    container: Container, entrypoint: ModuleType, mounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(mounts / "input", GOOD)
    next(write_case(mounts / "input", BAD, seed=2).glob("*-t2w*")).write_bytes(b"no image")
    write_tiny_ensemble(mounts / "ensemble")
    (mounts / "output" / f"{BAD}.nii.gz").write_bytes(b"of an earlier call, when the case was another")
    before = files(mounts / "input")

    first = container()
    assert first.returncode == 3, first.stderr
    assert BAD in first.stdout
    assert files(mounts / "output").keys() == {f"{GOOD}.nii.gz"}
    label = nibabel.load(mounts / "output" / f"{GOOD}.nii.gz")
    scan = nibabel.load(mounts / "input" / GOOD / f"{GOOD}-t1c.nii.gz")
    assert label.shape == scan.shape
    assert np.array_equal(label.affine, scan.affine)
    assert set(np.unique(label.dataobj)) <= {0, 1, 2, 3}
    assert files(mounts / "input") == before

    shutil.rmtree(mounts / "input" / BAD)
    (mounts / "output" / f"{GOOD}.nii.gz").unlink()
    for name, place in places(mounts).items():
        monkeypatch.setenv(name, place)
    assert entrypoint.segment(["--device", "cpu"]) == 0
    assert files(mounts / "output").keys() == {f"{GOOD}.nii.gz"}


def test_without_an_ensemble_nothing_is_predicted(container: Container, mounts: Path) -> None:
    write_case(mounts / "input", GOOD)
    done = container()
    assert done.returncode == 2
    assert f"no ensemble at {mounts}/ensemble/ensemble.yaml" in done.stderr
    assert not files(mounts / "output")


def test_an_output_that_cannot_be_written_is_told_before_any_work(container: Container, mounts: Path) -> None:
    (mounts / "ensemble" / "ensemble.yaml").touch()
    (mounts / "output").rmdir()
    (mounts / "output").write_text("a file")
    done = container()
    assert done.returncode == 2
    assert "--user" in done.stderr
    assert not files(mounts / "scratch")


def test_bad_usage_hands_nothing_out(container: Container, mounts: Path) -> None:
    write_case(mounts / "input", GOOD)
    write_tiny_ensemble(mounts / "ensemble")
    done = container("--decode", "nonsense")
    assert done.returncode == 2
    assert not files(mounts / "output")


def test_any_other_word_is_a_command(container: Container) -> None:
    done = container(sys.executable, "-c", "import sys; print('worker'); sys.exit(7)")
    assert (done.returncode, done.stdout) == (7, "worker\n")


@pytest.mark.parametrize(("state", "handed_out"), [("stopped by SIGTERM", ["a.nii.gz"]), ("running", [])])
def test_a_run_that_was_stopped_hands_out_what_is_done_and_one_that_broke_does_not(
    entrypoint: ModuleType, tmp_path: Path, state: str, handed_out: list[str]
) -> None:
    run, output = RunStore(str(tmp_path / "run")), RunStore(str(tmp_path / "output"))
    run.write("run.json", json.dumps({"fingerprint": {}, "state": state}).encode())
    run.write("labels/a.nii.gz", b"label")
    case = {"case_id": "a", "status": "ok", "label_key": "labels/a.nii.gz"}
    failed = {"case_id": "../b", "status": "failed", "label_key": None}
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.Table.from_pylist([case, failed]), sink)
    run.write(table_key("cases"), sink.getvalue().to_pybytes())
    assert entrypoint.delivered(run, output, 1) == 1
    assert list(files(tmp_path / "output")) == handed_out if handed_out else not (tmp_path / "output").exists()


def test_labels_that_are_gone_are_an_error(entrypoint: ModuleType, tmp_path: Path) -> None:
    run = RunStore(str(tmp_path / "run"))
    run.write("run.json", json.dumps({"fingerprint": {}, "state": "finished"}).encode())
    assert entrypoint.delivered(run, RunStore(str(tmp_path / "output")), 0) == 1
