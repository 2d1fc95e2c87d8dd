"""What Prometheus is told: what is counted, that Ray exports it, and that it never costs a case."""

import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import nibabel
import pyarrow.parquet as pq
import pytest

from goat_ray.config import EvaluateConfig, RunConfig
from goat_ray.errors import Category, Failure
from goat_ray.pipeline import telemetry
from goat_ray.pipeline.evaluate import evaluate_cohort
from goat_ray.pipeline.telemetry import CaseCounter
from tests.cohorts import phantom, write_case
from tests.inline import predict_inline

Labels = tuple[tuple[str, str], ...]
FAILURE = Failure(Category.EMPTY_IMAGE, "t1c is zero", "export it again", "read")
COUNTERS = ("CASES", "STAGE_SECONDS", "STAGE_CPU_SECONDS", "READ_BYTES", "WRITTEN_BYTES")


class Tallied:
    """A counter that keeps what it is told, and takes what Ray's takes."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.sums: dict[Labels, float] = {}

    def inc(self, value: float, tags: Mapping[str, str]) -> None:
        assert value > 0
        assert tuple(tags) == self.keys
        labels = tuple((key, tags[key]) for key in self.keys if key != "run")
        self.sums[labels] = self.sums.get(labels, 0) + value


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tallied]:
    """Every counter, in the driver and in stages of this process."""
    fakes = {name: Tallied(getattr(telemetry, name).info["tag_keys"]) for name in COUNTERS}
    for name, fake in fakes.items():
        monkeypatch.setattr(telemetry, name, fake)
    monkeypatch.setattr(telemetry.ray, "is_initialized", lambda: True)
    return fakes


def by_stage(counter: Tallied) -> dict[str, float]:
    return {dict(labels)["stage"]: value for labels, value in counter.sums.items()}


def test_cases_work_and_bytes_of_a_run_are_those_of_its_tables(
    config: RunConfig, cohort: Path, tmp_path: Path, counters: dict[str, Tallied]
) -> None:
    mixed = tmp_path / "mixed"
    for number in (1, 2):
        write_case(mixed, f"case-{number}", number)
    (write_case(mixed, "torn") / "torn-t2w.nii.gz").write_text("no image")
    (write_case(mixed, "lacking") / "lacking-t1n.nii.gz").unlink()
    summary = predict_inline(config.model_copy(update={"cohort": str(mixed)}))
    assert counters["CASES"].sums == {
        (("outcome", "ok"), ("category", "")): 2,
        (("outcome", "failed"), ("category", "unreadable_file")): 1,
        (("outcome", "failed"), ("category", "missing_modality")): 1,
    }
    healthy = [path for number in (1, 2) for path in (mixed / f"case-{number}").iterdir()]
    assert list(counters["READ_BYTES"].sums.values()) == [sum(path.stat().st_size for path in healthy)]
    outputs = [*Path(summary.out, "labels").iterdir(), *Path(summary.out, "thumbnails").iterdir()]
    assert list(counters["WRITTEN_BYTES"].sums.values()) == [sum(path.stat().st_size for path in outputs)]
    timings = pq.read_table(f"{summary.out}/tables/timings.parquet").to_pylist()
    for name, column in (("STAGE_SECONDS", "seconds"), ("STAGE_CPU_SECONDS", "cpu_seconds")):
        counted = by_stage(counters[name])
        assert counted.keys() == {"read", "predict", "finish", "commit"}
        for stage in ("read", "predict", "finish"):
            told = sum(row[column] for row in timings if row["step"] == stage)
            assert counted[stage] == pytest.approx(told)


def test_a_case_that_lost_its_workers_is_counted_by_the_driver(counters: dict[str, Tallied]) -> None:
    CaseCounter("abc").case_ended("case-1", Failure(Category.WORKER_LOST, "it ended", "", "unknown", 3))
    assert list(counters["CASES"].sums) == [(("outcome", "failed"), ("category", "worker_lost"))]


def test_cases_that_end_before_ray_is_there_are_counted_once_it_is(
    counters: dict[str, Tallied], monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = CaseCounter("abc")
    monkeypatch.setattr(telemetry.ray, "is_initialized", lambda: False)
    for number in range(3):
        counter.case_ended(f"case-{number}", FAILURE)
    assert not counters["CASES"].sums
    monkeypatch.setattr(telemetry.ray, "is_initialized", lambda: True)
    counter.case_ended("case-3", None)
    assert sorted(counters["CASES"].sums.values()) == [1, 3]


def test_a_counter_that_fails_costs_no_case_and_is_told_of_once(
    config: RunConfig,
    counters: dict[str, Tallied],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no metrics today")

    for fake in counters.values():
        monkeypatch.setattr(fake, "inc", broken)
    summary = predict_inline(config.model_copy(update={"limit": 2}))
    assert (summary.ok, summary.failed) == (2, 0)
    assert caplog.text.count("no metrics today") == 1


def test_names_have_the_prefix_and_base_units_that_prometheus_asks_for() -> None:
    names = {getattr(telemetry, name).info["name"] for name in COUNTERS}
    assert all(name.startswith("goat_ray_") and name.endswith("_total") for name in names)
    assert {name.removesuffix("_total").rpartition("_")[2] for name in names} == {"cases", "seconds", "bytes"}


def exported(run_id: str) -> dict[str, float]:
    """Sums of a run's counters, as the node's metrics port has them, by name and stage or outcome."""
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    sums: dict[str, float] = {}
    with urllib.request.urlopen(url, timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("ray_goat_ray_") and f'run="{run_id}"' in line:
                name, _, rest = line.partition("{")
                labels, _, value = rest.rpartition("} ")
                which = [part for part in labels.split(",") if part.startswith(("stage=", "outcome="))]
                key = " ".join([name, *which])
                sums[key] = sums.get(key, 0.0) + float(value)
    return sums


def test_ray_exports_what_driver_and_workers_count(ray_cluster: None, tmp_path: Path) -> None:
    head = phantom(1)
    for name in ("one", "two"):
        nibabel.save(nibabel.Nifti1Image(head.labels, head.affine), tmp_path / f"{name}.nii.gz")
    # A spec of its own makes a run id of its own: what other runs count reaches the port some seconds late.
    spec = tmp_path / "spec.yaml"
    spec.write_text("{name: counted, base: brats2023-gli}")
    config = EvaluateConfig(labels=str(tmp_path), references=str(tmp_path), out=str(tmp_path / "run"), spec=str(spec))
    summary = evaluate_cohort(config)
    assert summary.ok == 2
    wanted = [
        'ray_goat_ray_cases_total outcome="ok"',
        *(f'ray_goat_ray_stage_seconds_total stage="{name}"' for name in ("evaluate", "commit")),
        'ray_goat_ray_stage_cpu_seconds_total stage="evaluate"',
        "ray_goat_ray_read_bytes_total",
    ]
    deadline = time.monotonic() + 40  # Ray reports every ten seconds
    while time.monotonic() < deadline:
        now = exported(summary.run_id)
        if now.get(wanted[0], 0) >= 2 and all(now.get(key, 0) > 0 for key in wanted):
            break
        time.sleep(0.5)
    assert now[wanted[0]] == 2
    assert [key for key in wanted if now.get(key, 0) <= 0] == []
