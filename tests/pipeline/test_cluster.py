"""How a cluster's resources are divided."""

from itertools import pairwise

import pytest

from goat_ray.errors import ConfigError
from goat_ray.pipeline.cluster import plan_placement


@pytest.mark.parametrize("cpus", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("workers", [None, 1, 2, 3, 5])
def test_predict_workers_leave_processors_for_the_other_stages(cpus: int, workers: int | None) -> None:
    plan = plan_placement({"CPU": cpus}, cpus, None, workers, None)
    held = plan.workers * plan.predict_cpus + plan.commit_cpus
    repartition_cpus = 1.0  # Ray Data's default for its own task
    assert cpus - held >= max(plan.read_cpus, plan.finish_cpus, repartition_cpus)


@pytest.mark.parametrize("cpus", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("workers", [None, 1, 2, 3, 5])
def test_neighbouring_stages_never_ask_for_the_same(cpus: int, workers: int | None) -> None:
    plan = plan_placement({"CPU": cpus}, cpus, None, workers, None)
    shares = [plan.read_cpus, plan.predict_cpus, plan.finish_cpus, plan.commit_cpus]
    assert all(one != other for one, other in pairwise(shares))


def test_threads_do_not_depend_on_the_number_of_workers() -> None:
    threads = {plan_placement({"CPU": 16}, 16, None, workers, None).threads for workers in (None, 1, 2, 3, 9)}
    assert len(threads) == 1


def test_every_gpu_gets_one_worker() -> None:
    plan = plan_placement({"CPU": 32, "GPU": 4}, 32, None, None, None)
    assert (plan.device, plan.workers, plan.predict_gpus) == ("cuda", 4, 1.0)


def test_gpus_stay_unused_when_the_cpu_is_asked_for() -> None:
    plan = plan_placement({"CPU": 32, "GPU": 4}, 32, "cpu", None, None)
    assert (plan.device, plan.workers, plan.predict_gpus) == ("cpu", 4, 0.0)


@pytest.mark.parametrize(("gpus", "workers"), [(0, None), (2, 3)])
def test_more_gpus_than_there_are_is_refused(gpus: int, workers: int | None) -> None:
    with pytest.raises(ConfigError, match="GPU"):
        plan_placement({"CPU": 8, "GPU": gpus}, 8, "cuda", workers, None)


def test_a_plan_explains_itself() -> None:
    assert "1 predict worker(s) with 2 CPU threads" in plan_placement({"CPU": 2}, 2, None, None, None).explain()


def test_a_cluster_that_could_only_deadlock_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        plan_placement({"CPU": 1}, 1, None, None, None)
