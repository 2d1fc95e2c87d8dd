"""What a member takes of a device."""

from math import prod

import pytest
import torch
from torch import Tensor, nn

from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE
from goat_ray.members import footprint as module
from goat_ray.members.ensemble import Member, load_ensemble
from goat_ray.members.footprint import canvas_bytes, footprint


@pytest.fixture(scope="module")
def member() -> Member:
    return load_ensemble(EMBEDDED_ENSEMBLE, ["ResNetL"]).members[0]


class Chain(nn.Module):
    """Three maps of 2, 8 and 8 features, of which two are alive at a time beside the input; the last is a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(4, 2, 1, bias=False), nn.Conv3d(2, 8, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.second(self.first(x))
        return torch.relu_(features)[:, :4]


def test_memory_counts_from_the_operation_that_takes_it_until_it_is_dropped(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "build_network", lambda *_: Chain())
    taken = footprint(member)
    voxels = prod(member.patch_size)
    assert taken.weights_bytes == 4 * (4 * 2 + 2 * 8)
    assert taken.activation_bytes == 4 * voxels * (4 + 2 + 8)
    assert taken.flops == 2 * voxels * (4 * 2 + 2 * 8)


def test_a_published_network_keeps_six_of_its_largest_maps(member: Member) -> None:
    taken, map_bytes = footprint(member), 4 * member.architecture.features[0] * prod(member.patch_size)
    assert 5.5 < taken.activation_bytes / map_bytes < 6.6  # 5.7 counted by hand, and the input
    assert taken.weights_bytes == 4 * member.card.parameters


def test_a_canvas_grows_with_the_crop() -> None:
    assert canvas_bytes((155, 240, 240)) == 10 * canvas_bytes((31, 120, 240))
    assert 0.5e9 < canvas_bytes((155, 240, 240)) < 1e9
