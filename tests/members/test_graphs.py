"""How recordings are kept, shared and given up; a GPU's own are in `test_gpu_form.py`."""

import logging

import pytest
import torch
from torch import nn

from goat_ray.members import graphs
from goat_ray.members.gpu_form import GpuForm
from goat_ray.members.graphs import Graphed, GraphPool, Recording


class Doubling(nn.Module):
    """Counts its passes; a pass inside a recording counts too."""

    def __init__(self, factor=2):
        super().__init__()
        self.factor, self.passes = factor, 0

    def forward(self, x):
        self.passes += 1
        return self.factor * x


class Replay:
    """Stands in for a CUDA graph: writes over the logits that it was recorded with."""

    def __init__(self, network, windows, logits):
        self.network, self.windows, self.logits, self.replays = network, windows, logits, 0

    def replay(self):
        self.replays += 1
        self.logits.copy_(self.network.factor * self.windows)

    def pool(self):
        return "the pool"


@pytest.fixture
def recorded(monkeypatch):
    """Arguments of each recording; a CPU has no graphs to record."""
    calls = []

    def record(network, windows, pool):
        calls.append((network, windows.shape, pool))
        still = windows.clone()
        logits = torch.full_like(windows, torch.nan)
        return Recording(Replay(network, still, logits), still, logits)

    monkeypatch.setattr(graphs, "warm_up", lambda network, windows: network(windows))
    monkeypatch.setattr(graphs, "record", record)
    return calls


def batch(samples, value=1.0):
    return torch.full((samples, 1, 2, 2, 2), value)


def test_a_shape_is_recorded_once_for_each_network_and_memory_is_shared(recorded):
    pool, first, second = GraphPool(), Doubling(), Doubling()
    for samples in (4, 4, 2, 4):
        for network in (first, second):
            assert torch.equal(Graphed(network, pool)(batch(samples, 3.0)), batch(samples, 6.0))
    four, two = batch(4).shape, batch(2).shape
    assert [shape for _, shape, _ in recorded] == [four, four, two, two]
    assert [memory for _, _, memory in recorded] == [None, "the pool", "the pool", "the pool"]
    assert first.passes == second.passes == 2  # the warm-ups


def test_logits_survive_the_next_replay(recorded):
    form = GpuForm(Graphed(Doubling(), GraphPool()), torch.float32)
    first = form(batch(2, 1.0))
    second = form(batch(2, 5.0))
    assert torch.equal(first, batch(2, 2.0))
    assert torch.equal(second, batch(2, 10.0))


def test_a_recording_that_fails_is_told_and_none_is_tried_again(recorded, monkeypatch, caplog):
    pool, network = GraphPool(), Doubling()
    graphed = Graphed(network, pool)
    graphed(batch(4))

    def failing(*_):
        recorded.append("failed")
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "record", failing)
    with caplog.at_level(logging.WARNING):
        for samples in (2, 4, 2):
            assert torch.equal(graphed(batch(samples)), batch(samples, 2.0))
    assert recorded.count("failed") == 1
    assert [entry.getMessage() for entry in caplog.records] == [
        "networks run without CUDA graphs from here on: recording one failed, "
        "operation not permitted when stream is capturing"
    ]


def test_a_lack_of_memory_before_the_recording_is_the_ladders(recorded, monkeypatch):
    def full(_network, windows):
        if len(windows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(graphs, "warm_up", full)
    pool, network = GraphPool(), Doubling()
    with pytest.raises(torch.OutOfMemoryError):
        pool.run(network, batch(4))
    assert recorded == []
    pool.run(network, batch(2))
    assert len(recorded) == 1


def test_a_closed_pool_holds_nothing_and_runs_networks_as_they_are(recorded, caplog):
    pool, network = GraphPool(), Doubling()
    pool.run(network, batch(2))
    with caplog.at_level(logging.WARNING):
        pool.close("memory is short")
        pool.close("memory is short")
    assert pool._recordings == {}
    passes = network.passes
    assert torch.equal(pool.run(network, batch(2)), batch(2, 2.0))
    assert network.passes == passes + 1
    assert len(recorded) == 1
    assert len(caplog.records) == 1
