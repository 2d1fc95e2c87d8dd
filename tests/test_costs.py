"""What a case costs, recomputed by hand."""

import pyarrow as pa
import pytest

from goat_ray.costs import Costs
from goat_ray.tables import SCHEMAS

# Medians: read 2 s wall and 1 s CPU, predict 10 and 9, finish 1 and 0.8, commit 0.2 and 0.1.
STEPS = {
    "read": ([2, 1, 6], [1, 0.5, 3]),
    "predict": ([40, 10, 10], [9, 9, 30]),
    "finish": ([1, 1, 4], [0.8, 0.8, 0.8]),
    "commit": ([0.2, 0.1, 0.3], [0.1, 0.1, 0.4]),
    "member A": ([8, 8, 8], [None, None, None]),
    "thumbnail": ([0.1, 0.1, 0.1], [None, None, None]),
}


def timings(steps: dict[str, tuple[list[float], list[float | None]]]) -> pa.Table:
    rows = [
        {"case_id": f"case-{number}", "step": step, "seconds": seconds, "cpu_seconds": cpu}
        for step, (wall, cpus) in steps.items()
        for number, (seconds, cpu) in enumerate(zip(wall, cpus, strict=True))
    ]
    return pa.Table.from_pylist(rows[::-1], schema=SCHEMAS["timings"])


@pytest.fixture
def costs() -> Costs:
    return Costs.of(timings(STEPS))


def test_stages_are_steps_with_processor_time_in_the_order_of_the_pipeline(costs: Costs) -> None:
    assert [*costs.stages] == ["read", "predict", "finish", "commit"]


def test_medians_and_means_are_over_cases(costs: Costs) -> None:
    predict = costs.stages["predict"]
    assert (predict.cases, predict.wall_median_s, predict.cpu_median_s) == (3, 10, 9)
    assert (predict.wall_mean_s, predict.cpu_mean_s) == (20, 16)


def test_cores_are_cpu_seconds_a_second_of_predict_rounded_up(costs: Costs) -> None:
    assert costs.cores == pytest.approx({"read": 0.1, "predict": 0.9, "finish": 0.08, "commit": 0.01})
    assert costs.cores_per_worker == 2  # 1.09


def test_a_whole_number_of_cores_is_not_rounded_up_for_the_last_bit_of_a_float() -> None:
    cpu_s = dict(zip(("read", "predict", "finish", "commit"), (0.1, 1.5, 2.7, 2.7), strict=True))
    assert sum(cpu_s.values()) > 7
    assert Costs.of(timings({step: ([1], [cpu]) for step, cpu in cpu_s.items()})).cores_per_worker == 7


@pytest.mark.parametrize(("cpus", "workers"), [(16, 13), (2.09, 1), (2.0, 0), (12.99, 11)])
def test_a_node_feeds_as_many_workers_as_its_processors_but_one_hold(costs: Costs, cpus: float, workers: int) -> None:
    assert costs.workers_fed(cpus) == workers  # (cpus - 1) / 1.09


def test_the_time_is_that_of_predict_or_of_processors_that_cannot_keep_up(costs: Costs) -> None:
    assert costs.time_s(1000, workers=4, cpus=16) == pytest.approx(1000 * 10 / 4)
    assert costs.time_s(1000, workers=4, cpus=2) == pytest.approx(1000 * 10.9 / 2)


def test_where_nothing_was_predicted_there_is_nothing_to_feed() -> None:
    scored = Costs.of(timings({"evaluate": ([3], [2]), "commit": ([1], [0])}))
    assert [*scored.stages] == ["commit", "evaluate"]
    assert (scored.cores, scored.cores_per_worker, scored.workers_fed(8)) == ({}, None, 0)
    assert Costs.of(timings({})).to_dict() == {"stages": {}, "cores": {}, "cores_per_worker": None}


def test_costs_in_plain_values_are_those_of_the_object(costs: Costs) -> None:
    told = costs.to_dict()
    assert told["stages"]["read"] == {
        "cases": 3,
        "wall_median_s": 2,
        "wall_mean_s": 3,
        "cpu_median_s": 1,
        "cpu_mean_s": 1.5,
    }
    assert (told["cores"]["predict"], told["cores_per_worker"]) == (0.9, 2)
