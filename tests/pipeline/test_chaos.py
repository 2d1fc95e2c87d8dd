"""Whatever dies or is damaged, every case ends as exactly one of committed and failed with a reason."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goat_ray.commits import error_key
from goat_ray.config import RunConfig, S3Config
from goat_ray.errors import Category
from goat_ray.pipeline.job import RunSummary
from goat_ray.storage import RunStore
from goat_ray.tables import read_table
from tests import chaos
from tests.fault_proxy import KINDS, FaultProxy, RandomFaults
from tests.inline import predict_inline

HEALTHY, CORRUPT = 12, 2
FAILURES = {
    "case-broken-0": Category.UNREADABLE_FILE,
    "case-broken-1": Category.UNREADABLE_FILE,
    chaos.POISON: Category.WORKER_LOST,
}

pytestmark = pytest.mark.usefixtures("s3_endpoint")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve healthy cases, two corrupt ones and one that kills its worker."""
    cohort = tmp_path_factory.mktemp("chaos")
    chaos.write_cohort(cohort, HEALTHY, CORRUPT)
    return cohort


@pytest.fixture(autouse=True)
def journals() -> Iterator[None]:
    """Nothing of one test is left for another, or on the machine."""
    yield
    for path in chaos.journals():
        path.unlink()


def config_of(cohort: object, out: object, ensemble: Path, **changes: object) -> RunConfig:
    return RunConfig(cohort=str(cohort), out=str(out), ensemble=str(ensemble), threads=1, workers=2, **changes)


def summary_of(summary: RunSummary) -> dict[str, Category]:
    assert summary.discovered == summary.ok + summary.failed
    return {failed.case_id: failed.failure.category for failed in summary.failures}


def assert_like_calm(disturbed: RunSummary, config: RunConfig, out: str) -> None:
    """All that the disturbed run left is what a run without Ray, faults and the poisonous case leaves."""
    calm = predict_inline(config.model_copy(update={"out": out, "limit": HEALTHY + CORRUPT}), worker=chaos.StubPredict)
    assert calm.failed == CORRUPT
    theirs, ours = chaos.lasting(calm.out), chaos.lasting(disturbed.out)
    extra = ours.keys() - theirs.keys()
    assert extra == {error_key(chaos.POISON)}
    assert {key: ours[key] for key in theirs if not key.startswith("tables/")} == {
        key: data for key, data in theirs.items() if not key.startswith("tables/")
    }
    for name in chaos.STABLE_TABLES:
        tables = [read_table(RunStore(summary.out), name).to_pylist() for summary in (disturbed, calm)]
        assert [row for row in tables[0] if row["case_id"] != chaos.POISON] == tables[1], name


def test_a_disturbed_run_on_a_faulty_s3_ends_like_an_undisturbed_one(
    ray_cluster: None, folder: Path, ensemble: Path, s3_bucket: str, fault_proxy: FaultProxy
) -> None:
    chaos.upload(folder, f"{s3_bucket}/cohort")
    direct = config_of(f"{s3_bucket}/cohort", f"{s3_bucket}/wild", ensemble)
    fault_proxy.random_faults = RandomFaults(seed=1, rate=0.1, kinds=KINDS)
    faulty = direct.model_copy(update={"s3": S3Config(endpoint_url=fault_proxy.address)})
    with chaos.killer(faulty.out, seed=2, times=2, pause_s=1.0) as killed:
        wild = chaos.carry_out(faulty)
    assert len(killed) == 2
    assert set(fault_proxy.counts["faults"]) == set(KINDS)
    assert summary_of(wild) == FAILURES
    assert chaos.predicted_without_need(wild.out) == []
    assert RunStore(wild.out).list("suspects") == {}
    assert_like_calm(wild, direct, f"{s3_bucket}/calm")


@pytest.fixture
def drive(folder: Path, ensemble: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts drivers of the same run in processes of their own."""
    drivers = []

    def start(**changes: object) -> subprocess.Popen[str]:
        config = config_of(folder, tmp_path / "run", ensemble, attempts=2, **changes)
        path = tmp_path / "config.json"
        path.write_text(config.model_dump_json())
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos", path], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()


def wait_for_commits(run: Path, driver: subprocess.Popen[str], number: int = 1) -> int:
    deadline = time.monotonic() + 120
    while (found := len(list(run.glob("commits/*/*.json")))) < number:
        assert driver.poll() is None, "the driver ended too early"
        assert time.monotonic() < deadline, "nothing was committed"
        time.sleep(0.02)
    return found


def test_a_killed_and_a_terminated_driver_lose_nothing(
    drive: Callable[..., subprocess.Popen[str]], folder: Path, ensemble: Path, tmp_path: Path, ray_cluster: None
) -> None:
    run = tmp_path / "run"
    killed = drive()
    wait_for_commits(run, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = len(list(run.glob("commits/*/*.json")))

    terminated = drive()
    wait_for_commits(run, terminated, before + 1)
    terminated.terminate()
    assert terminated.wait(60) == 1
    record = json.loads((run / "run.json").read_text())
    counts = record["counts"]
    assert record["state"] == "stopped by SIGTERM"
    assert counts["discovered"] == counts["ok"] + counts["failed"] + counts["skipped"]
    assert counts["skipped"] > 0
    assert counts["ok"] == len(list(run.glob("commits/*/*.json")))
    assert (run / "tables" / "cases.parquet").is_file()

    config = config_of(folder, run, ensemble, attempts=2)
    resumed = chaos.carry_out(config)
    assert resumed.already_done == counts["ok"]
    assert summary_of(resumed) == FAILURES
    assert_like_calm(resumed, config, str(tmp_path / "calm"))
