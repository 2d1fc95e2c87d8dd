"""What a few cases took, and what is made of it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from goat_ray.cases import Case, FailedCase
from goat_ray.config import PoolConfig, RunConfig, S3Config
from goat_ray.costs import Costs
from goat_ray.errors import Category, ConfigError, Failure, GoatRayError
from goat_ray.filesystems import use_s3
from goat_ray.pipeline import measure
from goat_ray.pipeline.hardware import Cluster, Node
from goat_ray.pipeline.job import RunSummary
from goat_ray.pipeline.measure import Measured, measure_cohort, spread
from goat_ray.pipeline.placement import Placement, Pool
from goat_ray.pipeline.progress import Silent
from goat_ray.preflight import CheckConfig, GridKind, Runnable, check_cohort
from goat_ray.storage import RunStore, list_files
from tests.test_costs import STEPS, timings

pytest_plugins = ("tests.s3_server",)

NODE = Node(16.0, 8, "A100")


def measured_of(**replaced: Any) -> Measured:
    """A thousand cases for eight GPUs: ten seconds of predict each, 1.09 cores a GPU."""
    pool = Pool(("A", "B"), workers=8, cpus=1.5, gpus=1.0, gpu_type="A100")
    values: dict[str, Any] = {
        "case_ids": ("case-1", "case-2", "case-3"),
        "failures": (),
        "costs": Costs.of(timings(STEPS)),
        "placement": Placement("cuda", 1, (pool,), "as asked"),
        "cluster": Cluster((NODE,)),
        "cases": 1000,
        "label_bytes": 5e4,
        "output_bytes": 2e5,
        "device_peak_bytes": 5 * 10**9,
    }
    return Measured(**{**values, **replaced})


def runnable_of(sizes: Sequence[int]) -> list[Runnable]:
    return [Runnable(Case(f"c{place}", {}), GridKind((9, 9, 9), (1, 1, 1)), size) for place, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("number", "sizes"),
    [(1, [50]), (2, [30, 80]), (3, [20, 50, 90]), (10, [*range(10, 110, 10)]), (99, [*range(10, 110, 10)])],
)
def test_the_cases_chosen_are_spread_over_the_sizes(number: int, sizes: list[int]) -> None:
    chosen = spread(runnable_of([100, 10, 90, 20, 80, 30, 70, 40, 60, 50]), number)
    found = [one.image_bytes for one in chosen]
    assert len(found) == len(set(found)) == len(sizes)
    assert all(abs(one - wanted) <= 10 for one, wanted in zip(found, sizes, strict=True))


def test_the_estimate_is_cases_times_predict_over_workers() -> None:
    measured = measured_of()
    assert (measured.time_s, measured.waits_for_cpus) == (1000 * 10 / 8, False)
    told = measured.to_dict()
    assert told["estimate"] == {
        "time_s": 1250.0,
        "waits_for_cpus": False,
        "label_bytes": 50_000_000,
        "output_bytes": 200_000_000,
    }
    assert (told["workers"], told["workers_fed_by_node"], told["device_peak_bytes"]) == (8, 13, 5 * 10**9)


def test_processors_that_cannot_keep_up_set_the_pace_unless_more_may_come() -> None:
    few = measured_of(cluster=Cluster((replace(NODE, cpus=4.0),)))
    assert few.waits_for_cpus
    assert few.time_s == pytest.approx(1000 * 10.9 / 4)
    growing = measured_of(cluster=Cluster((Node(4.0),), most_gpus=8))
    assert (growing.cpus, growing.waits_for_cpus) == (math.inf, False)


def test_a_node_is_judged_by_the_smallest_that_has_gpus() -> None:
    nodes = (Node(4.0), Node(64.0, 8), Node(32.0, 4))
    assert measured_of(cluster=Cluster(nodes)).node_cpus == 32
    assert measured_of(cluster=Cluster((Node(8.0), Node(6.0)))).node_cpus == 6


def leftovers(folder: Path) -> list[Path]:
    return [*folder.glob("*measured*"), *folder.glob("goat-ray-check-*")]


def test_cases_are_really_predicted_and_nothing_is_left_of_them(
    ray_cluster: None, cohort: Path, ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sites = tmp_path / "sites.csv"
    sites.write_text("case_id,site\nBraTS-GoAT-00001,north\n")
    pools = ({"members": ["Labels"], "workers": 2}, {"members": ["Regions"]})
    config = CheckConfig(
        cohort=str(cohort), ensemble=str(ensemble), sites=str(sites), device="cpu", threads=1, workers=3, pools=pools
    )
    runnable = check_cohort(config).runnable
    measured = measure_cohort(config, runnable, 2, Silent())
    assert len(measured.case_ids) == 2
    assert {*measured.case_ids} < {one.case.case_id for one in runnable}
    assert [*measured.costs.stages] == ["read", "predict", "finish", "commit"]
    assert all(stage.cases == 2 and stage.wall_median_s > 0 for stage in measured.costs.stages.values())
    assert [pool.workers for pool in measured.placement.pools] == [2, 1]
    assert (measured.placement.device, measured.device_peak_bytes, measured.cases) == ("cpu", None, 5)
    assert 0 < measured.label_bytes < measured.output_bytes
    assert leftovers(tmp_path) == []


def test_a_cluster_needs_a_place_that_its_workers_reach(tmp_path: Path) -> None:
    config = CheckConfig(cohort="c", ensemble="e", address="ray://head:10001")
    with pytest.raises(ConfigError, match="--out"), measure._scratch(config):
        pass
    beside = config.model_copy(update={"out": str(tmp_path / "run")})
    with measure._scratch(beside) as folder:
        assert Path(folder).parent == tmp_path
        (Path(folder) / "labels").mkdir(parents=True)
    assert leftovers(tmp_path) == []


def test_on_s3_what_was_measured_is_deleted(s3_bucket: str, s3_endpoint: str) -> None:
    use_s3(S3Config())
    config = RunConfig(cohort="c", ensemble="e", out=f"{s3_bucket}/run", address="ray://head:10001")
    with measure._scratch(config) as folder:
        RunStore(folder).write("run/labels/a.nii.gz", b"x")
        assert len(list_files(s3_bucket)) == 1
    assert list_files(s3_bucket) == {}


@pytest.mark.parametrize(
    ("stopped", "words"),
    [("", "torn: unreadable_file: t2f is damaged. Copy it again"), ("SIGINT was received", "SIGINT was received")],
)
def test_where_nothing_was_predicted_the_reason_is_told(stopped: str, words: str) -> None:
    failure = Failure(Category.UNREADABLE_FILE, "t2f is damaged.", "Copy it again", "read")
    summary = RunSummary("r", "out", 1, 0, 1, 0, 0, (FailedCase("torn", failure),), (), 1.0, stopped=stopped)
    with pytest.raises(GoatRayError, match=words):
        measure._measured(summary, measured_of().placement, Cluster((NODE,)), 1)


def test_pools_are_measured_with_one_worker_each() -> None:
    pools = (PoolConfig(members=("A",), workers=4), PoolConfig(members=("B",)))
    config = RunConfig(cohort="c", ensemble="e", out="o", pools=pools, limit=7, sites="s", suffixes={"t1ce": "t1c"})
    placement = measured_of().placement
    small = measure._small(config, "/f", replace(placement, pools=placement.pools * 2, threads=5))
    assert ([pool.workers for pool in small.pools], small.workers, small.threads) == ([1, 1], 2, 5)
    assert (small.cohort, small.out, small.limit, small.sites, small.suffixes) == (
        "/f/cohort.csv",
        "/f/run",
        None,
        None,
        None,
    )
