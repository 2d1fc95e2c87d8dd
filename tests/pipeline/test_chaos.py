"""Whatever dies or is damaged, every case ends as exactly one of committed and failed with a reason."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

from goat_ray.commits import error_key
from goat_ray.config import RunConfig, S3Config
from goat_ray.errors import Category
from goat_ray.pipeline.job import RunSummary
from goat_ray.storage import RunStore
from goat_ray.tables import read_table
from tests import chaos
from tests.fault_proxy import KINDS, FaultProxy, RandomFaults
from tests.inline import predict_inline

HEALTHY, CORRUPT, POISONOUS = 8, 2, 1
WITHOUT_POISON = {"limit": HEALTHY + CORRUPT}
FAILURES = {f"case-broken-{number}": Category.UNREADABLE_FILE for number in range(CORRUPT)}

pytestmark = pytest.mark.usefixtures("s3_endpoint")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Healthy cases, two corrupt ones and one that kills its worker."""
    cohort = tmp_path_factory.mktemp("chaos")
    chaos.write_cohort(cohort, HEALTHY, CORRUPT)
    return cohort


@pytest.fixture(autouse=True)
def journals(tmp_path: Path, s3_bucket: str) -> Iterator[None]:
    """Nothing of one test is left for another, or on the machine."""
    yield
    for place in (tmp_path, s3_bucket):
        for name in ("wild", "run", "calm"):
            chaos.journal(f"{place}/{name}").unlink(missing_ok=True)


def config_of(cohort: object, out: object, ensemble: Path, **changes: object) -> RunConfig:
    return RunConfig(cohort=str(cohort), out=str(out), ensemble=str(ensemble), threads=1, workers=2, **changes)


def failures_of(summary: RunSummary) -> dict[str, Category]:
    return {failed.case_id: failed.failure.category for failed in summary.failures}


def assert_like_calm(disturbed: RunSummary, config: RunConfig, out: str, extra: tuple[str, ...] = ()) -> None:
    """The disturbed run left, byte by byte, what one without Ray and faults leaves, and the errors of `extra`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chaos, "PAUSE_S", 0.0)
        config = config.model_copy(update={"out": out, **WITHOUT_POISON})
        calm = predict_inline(config, worker=chaos.StubPredict)
    assert (calm.ok, failures_of(calm)) == (HEALTHY, FAILURES)
    theirs, ours = chaos.lasting(calm.out), chaos.lasting(disturbed.out)
    assert ours.keys() - theirs.keys() == {error_key(case_id) for case_id in extra}
    files = {key: data for key, data in theirs.items() if not (extra and key.startswith("tables/"))}
    assert {key: ours[key] for key in files} == files
    for name in chaos.STABLE_TABLES:
        tables = [read_table(RunStore(summary.out), name).to_pylist() for summary in (disturbed, calm)]
        assert [row for row in tables[0] if row["case_id"] not in extra] == tables[1], name


def test_a_disturbed_run_on_a_faulty_s3_ends_like_an_undisturbed_one(
    ray_cluster: None, folder: Path, ensemble: Path, s3_bucket: str, fault_proxy: FaultProxy
) -> None:
    chaos.upload(folder, f"{s3_bucket}/cohort")
    direct = config_of(f"{s3_bucket}/cohort", f"{s3_bucket}/wild", ensemble)
    fault_proxy.slow_body_s = 0.5
    fault_proxy.random_faults = RandomFaults(seed=1, rate=0.1, kinds=KINDS)
    for number, kind in enumerate(KINDS):  # chance might leave one out
        fault_proxy.fail(kind, "GET", f"case-{number:03d}-t2f")
    faulty = direct.model_copy(update={"s3": S3Config(endpoint_url=fault_proxy.address)})
    with chaos.killer(faulty.out, seed=2, times=2, pause_s=1.0) as killed:
        wild = chaos.carry_out(faulty)
    fault_proxy.random_faults = None
    assert len(killed) == 2
    assert set(fault_proxy.counts["faults"]) == set(KINDS)
    assert fault_proxy.counts["faults"].total() > 2 * len(KINDS)
    assert (wild.ok, wild.skipped) == (HEALTHY, 0)
    assert failures_of(wild) == {**FAILURES, chaos.POISON: Category.WORKER_LOST}
    assert chaos.predicted_without_need(wild.out) == []
    assert RunStore(wild.out).list("suspects") == {}
    assert_like_calm(wild, direct, f"{s3_bucket}/calm", extra=(chaos.POISON,))


@pytest.fixture
def drive(folder: Path, ensemble: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts drivers of the same run in processes of their own."""
    drivers = []

    def start(read_pause_s: float = 0.0, **changes: object) -> subprocess.Popen[str]:
        config = config_of(folder, tmp_path / "run", ensemble, **WITHOUT_POISON, **changes)
        path = tmp_path / "config.json"
        path.write_text(config.model_dump_json())
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos", path],
            env={**os.environ, "CHAOS_READ_PAUSE_S": str(read_pause_s)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()


def wait_until(something: Callable[[], object], driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not something():
        assert driver.poll() is None, "the driver ended too early"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def has_read(run: Path, since: float) -> bool:
    return any(event == "read" and moment > since for moment, event, _ in chaos.events(str(run)))


def test_a_killed_and_a_terminated_driver_lose_nothing(
    drive: Callable[..., subprocess.Popen[str]],
    folder: Path,
    ensemble: Path,
    tmp_path: Path,
    ray_cluster: None,
) -> None:
    run = tmp_path / "run"
    commits = partial(run.glob, "commits/*/*.json")
    killed = drive()  # with a Ray of its own, which dies with it
    wait_until(lambda: any(commits()), killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before, gone = len(list(commits())), time.time() + 1

    # It reads slowly, so that little is in work when the signal comes.
    terminated = drive(read_pause_s=1.0, address=ray.get_runtime_context().gcs_address, grace_s=100.0)
    wait_until(lambda: has_read(run, since=gone), terminated)
    terminated.terminate()
    assert terminated.wait(120) == 1
    record = json.loads((run / "run.json").read_text())
    counts = record["counts"]
    assert record["state"] == "stopped by SIGTERM"
    assert counts["discovered"] == counts["ok"] + counts["failed"] + counts["skipped"]
    assert counts["skipped"] > POISONOUS
    assert counts["already_done"] == before
    assert before < counts["ok"] == len(list(commits()))
    assert (run / "tables" / "cases.parquet").is_file()

    config = config_of(folder, run, ensemble, **WITHOUT_POISON)
    resumed = predict_inline(config, worker=chaos.StubPredict)
    assert resumed.already_done == counts["ok"]
    assert (resumed.ok, failures_of(resumed)) == (HEALTHY, FAILURES)
    assert_like_calm(resumed, config, str(tmp_path / "calm"))
