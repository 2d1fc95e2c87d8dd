"""A worker that cannot go on with a case leaves word and ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from goat_ray.config import S3Config
from goat_ray.errors import Category, DeviceLostError
from goat_ray.ledger import read_suspects
from goat_ray.pipeline import watchdog
from goat_ray.pipeline.rows import Row, reference_row, run_stage
from goat_ray.pipeline.watchdog import Surroundings, watched
from goat_ray.storage import RunStore
from tests.pipeline.test_rows import CASE

HANG = """
import sys, time
from goat_ray.config import S3Config
from goat_ray.pipeline import watchdog
watchdog._LAST_RESORT_S = 0.5
here = watchdog.Surroundings(sys.argv[1], S3Config(), 0.5)
with watchdog.watched(here, "case-1", "predict"):
    {hang}
"""
ASLEEP = "time.sleep(60)"
HOLDING_THE_LOCK = "import ctypes; ctypes.PyDLL(None).sleep(60)"


def hang(root: Path, how: str) -> tuple[int, float]:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HANG.format(hang=how), root], capture_output=True)
    return done.returncode, time.monotonic() - started


def test_a_worker_that_hangs_leaves_word_and_ends(tmp_path: Path) -> None:
    code, seconds = hang(tmp_path, ASLEEP)
    assert (code, seconds < 20) == (70, True)
    (suspect,) = read_suspects(RunStore(str(tmp_path)))["case-1"]
    assert (suspect.category, suspect.stage) == (Category.TIMED_OUT, "predict")
    assert "within 0.5 s" in suspect.message


def test_a_worker_that_hangs_in_c_with_the_interpreters_lock_ends_too(tmp_path: Path) -> None:
    code, seconds = hang(tmp_path, HOLDING_THE_LOCK)
    assert code != 0
    assert seconds < 20


def test_work_in_time_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr(watchdog.os, "_exit", ends.append)
    with watched(Surroundings(str(tmp_path), S3Config(), 0.2), "case-1", "read"):
        pass
    time.sleep(0.4)
    assert (ends, read_suspects(RunStore(str(tmp_path)))) == ([], {})


def test_a_case_that_loses_the_device_ends_its_worker_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    monkeypatch.setattr(watchdog.os, "_exit", ends.append)

    def work(*_: object) -> Row:
        raise DeviceLostError("member A lost the device: CUDA error: an illegal memory access was encountered")

    with pytest.raises(DeviceLostError):
        run_stage("predict", work, {}, reference_row(CASE), Surroundings(str(tmp_path), S3Config(), None))
    assert ends == [70]
    (suspect,) = read_suspects(RunStore(str(tmp_path)))["case-1"]
    assert suspect.category == Category.MODEL_FAILED
    assert "illegal memory access" in suspect.message
