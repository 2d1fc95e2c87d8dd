"""Which members live where, and that every plan can start."""

from itertools import pairwise

import pytest

from goat_ray.config import PoolConfig
from goat_ray.errors import ConfigError
from goat_ray.pipeline.cutting import Need
from goat_ray.pipeline.hardware import Cluster, Node
from goat_ray.pipeline.placement import Placement, Wishes, plan_placement

GB = 10**9
REPARTITION_CPUS = 1.0  # Ray Data's default for its own task
CPU_CLUSTERS = [[2.0], [3.0], [8.0], [64.0], [8.0, 8.0], [2.0] * 4, [16.0, 4.0], [0.0, 16.0, 16.0]]
SEVEN = tuple(Need(code, GB, 4 * GB, cost) for code, cost in zip("ABCDEFG", (1, 2, 2, 1, 2, 2, 3), strict=True))
CANVAS = GB // 2


def cpus(*nodes: float) -> Cluster:
    return Cluster(tuple(map(Node, nodes)))


def gpus(*nodes: tuple[int, str], **memory_gb: int) -> Cluster:
    """Nodes of 32 processors with so many GPUs of a type each."""
    types = {kind: number * GB for kind, number in memory_gb.items()}
    return Cluster(tuple(Node(32.0, number, kind) for number, kind in nodes), types)


def plan(cluster: Cluster, **wishes: object) -> Placement:
    return plan_placement(cluster, SEVEN, CANVAS, Wishes(**wishes))  # type: ignore[arg-type]


def held(placement: Placement) -> list[str]:
    return ["".join(pool.members) for pool in placement.pools]


@pytest.mark.parametrize("nodes", CPU_CLUSTERS)
@pytest.mark.parametrize("workers", [None, 2, 3, 5, 16])
@pytest.mark.parametrize("mode", ["resident", "shard"])
def test_workers_on_cpus_leave_processors_on_every_node(nodes: list[float], workers: int | None, mode: str) -> None:
    placement = plan(cpus(*nodes), workers=workers, mode=mode)
    usable = [number for number in nodes if number]
    on_a_node = -(-placement.workers // len(usable))
    for number in usable:
        free = number - on_a_node * placement.pools[0].cpus
        assert free >= max(placement.read_cpus, placement.finish_cpus, REPARTITION_CPUS)


@pytest.mark.parametrize("gpus_of_nodes", [[2], [8], [8, 1], [4, 0, 2], [16]])
@pytest.mark.parametrize("mode", [None, "shard"])
def test_workers_on_gpus_leave_processors_on_every_node(gpus_of_nodes: list[int], mode: str | None) -> None:
    nodes = tuple(Node(8.0, number, "T") for number in gpus_of_nodes)
    placement = plan(Cluster(nodes), mode=mode)
    for node in nodes:
        assert node.cpus - node.gpus * placement.pools[0].cpus >= REPARTITION_CPUS


@pytest.mark.parametrize("number", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("workers", [None, 1, 2, 3, 5])
def test_neighbouring_stages_never_ask_for_the_same(number: int, workers: int | None) -> None:
    placement = plan(cpus(number), workers=workers)
    shares = [placement.read_cpus, placement.pools[0].cpus, placement.finish_cpus]
    assert all(one != other for one, other in pairwise(shares))


def test_threads_do_not_depend_on_the_number_of_workers() -> None:
    assert len({plan(cpus(16), workers=workers).threads for workers in (None, 1, 2, 3, 9)}) == 1


def test_every_gpu_gets_one_worker_with_every_member() -> None:
    placement = plan(gpus((4, "H100"), H100=80))
    assert (placement.device, placement.mode, held(placement)) == ("cuda", "resident", ["ABCDEFG"])
    assert (placement.workers, placement.pools[0].gpus) == (4, 1.0)
    assert placement.explain() == (
        "placement resident: 4 workers with all 7 members, 1 GPU each; 16 cases read at a time "
        "(members and the largest case take 12.3 GB, H100 has 80.0 GB)"
    )


def test_gpus_stay_unused_when_the_cpu_is_asked_for() -> None:
    placement = plan(gpus((4, "H100")), device="cpu")
    assert (placement.device, placement.workers, placement.pools[0].gpus) == ("cpu", 4, 0.0)
    assert "4 workers with all 7 members, 8 CPU threads each" in placement.explain()


def test_a_small_card_gets_a_part_of_the_members_in_their_order() -> None:
    placement = plan(gpus((7, "T4"), T4=12))
    assert placement.mode == "shard"
    assert held(placement) == ["ABCD", "EFG"]  # costs 6 and 7; no other cut in two is as even
    assert [pool.workers for pool in placement.pools] == [3, 4]


def test_no_more_parts_than_the_memory_demands() -> None:
    by_memory = [len(plan(gpus((7, "T"), T=memory)).pools) for memory in (14, 12, 10, 9, 8)]
    assert by_memory == [1, 2, 3, 4, 7]


def test_a_member_that_no_gpu_holds_is_refused_with_what_helps() -> None:
    with pytest.raises(ConfigError, match=r"member A .* 6.3 GB .* T has 6.0 GB; lower windows_per_batch"):
        plan(gpus((7, "T"), T=6))


def test_of_different_gpus_those_are_used_that_hold_every_member() -> None:
    placement = plan(gpus((8, "T4"), (2, "H100"), (4, "A100"), T4=12, H100=80, A100=40))
    assert (placement.mode, placement.workers, placement.pools[0].gpu_type) == ("resident", 4, "A100")
    assert "10 GPU(s) stay idle" in placement.explain()


def test_different_gpus_that_all_hold_every_member_are_all_used() -> None:
    placement = plan(gpus((2, "H100"), (4, "A100"), H100=80, A100=40))
    assert (placement.workers, placement.pools[0].gpu_type) == (6, None)


def test_memory_that_is_not_known_is_taken_to_suffice_and_said_so() -> None:
    placement = plan(gpus((1, "X")))
    assert placement.mode == "resident"
    assert "unknown" in placement.explain()


def test_either_mode_can_be_forced() -> None:
    assert held(plan(gpus((2, "T"), T=8), mode="resident")) == ["ABCDEFG"]
    assert held(plan(gpus((2, "T"), T=80), mode="shard")) == ["ABCD", "EFG"]
    assert held(plan(cpus(8), mode="shard")) == ["ABCD", "EFG"]


def test_pools_can_be_spelled_out_with_a_gpu_type_each() -> None:
    pools = (
        PoolConfig(members=("A", "B", "C", "D", "E", "F"), accelerator_type="A10G"),
        PoolConfig(members=("G",), accelerator_type="T4", workers=1, python="/opt/mamba/bin/python"),
    )
    placement = plan(gpus((4, "A10G"), (4, "T4")), pools=pools)
    assert [(pool.workers, pool.gpu_type) for pool in placement.pools] == [(4, "A10G"), (1, "T4")]
    assert placement.pools[1].python == "/opt/mamba/bin/python"


@pytest.mark.parametrize("codes", [("A", "B"), ("B", "A", "C", "D", "E", "F", "G"), (*"ABCDEFG", "A")])
def test_pools_that_are_not_the_ensemble_in_its_order_are_refused(codes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="every member once and in the ensemble's order, A, B, C"):
        plan(cpus(8), pools=(PoolConfig(members=codes),))


def test_a_member_alone_cannot_be_divided() -> None:
    with pytest.raises(ConfigError, match="single member"):
        plan_placement(cpus(8), SEVEN[:1], CANVAS, Wishes(mode="shard"))


@pytest.mark.parametrize(
    ("cluster", "wishes"),
    [
        (cpus(8), {"device": "cuda"}),
        (gpus((2, "T")), {"workers": 3}),
        (gpus((1, "T")), {"mode": "shard"}),
        (gpus((4, "T")), {"mode": "shard", "workers": 1}),
        (gpus((4, "T")), {"pools": (PoolConfig(members=tuple("ABCDEFG"), accelerator_type="U"),)}),
        (gpus((4, "T")), {"pools": (PoolConfig(members=tuple("ABCDEFG"), workers=5),)}),
        (cpus(8), {"pools": (PoolConfig(members=tuple("ABCDEFG"), accelerator_type="T"),)}),
        (cpus(8), {"mode": "shard", "workers": 1}),
        (cpus(1, 1, 1), {}),
    ],
)
def test_a_plan_that_could_never_start_is_refused(cluster: Cluster, wishes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        plan(cluster, **wishes)


def test_gpus_that_an_autoscaler_may_bring_can_be_asked_for() -> None:
    growing = Cluster((Node(4.0),), most_gpus=8)
    assert (plan(growing).device, plan(growing).workers) == ("cuda", 8)
    assert plan(growing, workers=3).workers == 3
    started = Cluster((Node(4.0), Node(16.0, 1, "T")), most_gpus=8)
    assert (plan(started).workers, plan(started, workers=5).workers) == (1, 5)
    with pytest.raises(ConfigError, match="9 worker"):
        plan(growing, workers=9)


def test_one_case_at_a_time_goes_through_one_worker_of_each_pool() -> None:
    alone = plan(gpus((7, "T4"), T4=12)).alone()
    assert [pool.workers for pool in alone.pools] == [1, 1]
    assert alone.read_slots == 1


def test_processors_beside_a_gpu_are_left_to_the_feeding_of_it() -> None:
    placement = plan(Cluster((Node(16.0, 1, "H100"),)))
    assert (placement.threads, placement.pools[0].cpus, placement.read_slots) == (2, 2.0, 4)
