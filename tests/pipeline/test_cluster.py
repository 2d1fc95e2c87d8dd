"""How a cluster's resources are divided."""

from itertools import pairwise

import pytest

from goat_ray.errors import ConfigError
from goat_ray.pipeline.cluster import plan_placement

REPARTITION_CPUS = 1.0  # Ray Data's default for its own task
CLUSTERS = [[2.0], [3.0], [8.0], [64.0], [8.0, 8.0], [2.0] * 4, [16.0, 4.0], [0.0, 16.0, 16.0]]


@pytest.mark.parametrize("nodes", CLUSTERS)
@pytest.mark.parametrize("workers", [None, 1, 2, 3, 5, 16])
@pytest.mark.parametrize("gpus", [0, 16])
def test_evenly_spread_predict_workers_leave_processors_on_every_node(
    nodes: list[float], workers: int | None, gpus: int
) -> None:
    plan = plan_placement(nodes, gpus, None, workers, None)
    usable = [cpus for cpus in nodes if cpus]
    workers_on_a_node = -(-plan.workers // len(usable))
    for cpus in usable:
        free = cpus - workers_on_a_node * plan.predict_cpus - plan.commit_cpus
        assert free >= max(plan.read_cpus, plan.finish_cpus, REPARTITION_CPUS)


@pytest.mark.parametrize("cpus", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("workers", [None, 1, 2, 3, 5])
def test_neighbouring_stages_never_ask_for_the_same(cpus: int, workers: int | None) -> None:
    plan = plan_placement([cpus], 0, None, workers, None)
    shares = [plan.read_cpus, plan.predict_cpus, plan.finish_cpus, plan.commit_cpus]
    assert all(one != other for one, other in pairwise(shares))


def test_threads_do_not_depend_on_the_number_of_workers() -> None:
    threads = {plan_placement([16], 0, None, workers, None).threads for workers in (None, 1, 2, 3, 9)}
    assert len(threads) == 1


def test_every_gpu_gets_one_worker() -> None:
    plan = plan_placement([32], 4, None, None, None)
    assert (plan.device, plan.workers, plan.predict_gpus) == ("cuda", 4, 1.0)


def test_gpus_stay_unused_when_the_cpu_is_asked_for() -> None:
    plan = plan_placement([32], 4, "cpu", None, None)
    assert (plan.device, plan.workers, plan.predict_gpus) == ("cpu", 4, 0.0)


@pytest.mark.parametrize(("gpus", "workers"), [(0, None), (2, 3)])
def test_more_gpus_than_there_are_is_refused(gpus: int, workers: int | None) -> None:
    with pytest.raises(ConfigError, match="GPU"):
        plan_placement([8], gpus, "cuda", workers, None)


def test_a_plan_explains_itself() -> None:
    assert "1 predict worker(s) with 2 CPU threads" in plan_placement([2], 0, None, None, None).explain()


def test_a_cluster_that_could_only_deadlock_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 logical CPUs"):
        plan_placement([1, 1, 1], 0, None, None, None)
