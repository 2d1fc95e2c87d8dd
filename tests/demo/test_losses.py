import pytest
import torch
import torch.nn.functional as F

from goat_ray.demo.losses import dice_and_cross_entropy, dice_topk_focal, region_dice_and_cross_entropy


def golden_input() -> tuple[torch.Tensor, torch.Tensor]:
    sample, label, voxel = torch.meshgrid(torch.arange(2), torch.arange(4), torch.arange(100), indexing="ij")
    logits = 3 * torch.sin(0.1 * (97 * sample + 31 * label + voxel).double())
    target = (7 * torch.arange(100) + torch.arange(2)[:, None]) % 4
    return logits.view(2, 4, 4, 5, 5), target.view(2, 4, 5, 5)


def test_the_fine_tuning_loss_has_the_golden_value() -> None:
    assert dice_topk_focal(*golden_input()).item() == pytest.approx(8.466087, abs=1e-6)


def test_a_label_the_head_does_not_have_costs_only_what_is_wrongly_given_to_it() -> None:
    nothing = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    logits = 50 * F.one_hot(nothing, 4).movedim(-1, 1).double()
    assert dice_and_cross_entropy(logits, nothing).item() == pytest.approx(0, abs=1e-6)
    logits[:, :, 0, 0] = torch.tensor([0.0, 0.0, 0.0, 50.0]).view(1, 4, 1)
    wrong_vox = 8
    expected = wrong_vox / (wrong_vox + 100) / 3 + 50 * wrong_vox / 512
    assert dice_and_cross_entropy(logits, nothing).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", [dice_and_cross_entropy, dice_topk_focal])
def test_a_perfect_and_certain_prediction_costs_nothing(loss) -> None:
    _, target = golden_input()
    certain = 50 * F.one_hot(target, 4).movedim(-1, 1).double()
    assert loss(certain, target).item() == pytest.approx(0, abs=1e-4)


def test_a_perfect_and_certain_prediction_of_regions_costs_nothing() -> None:
    _, target = golden_input()
    regions = torch.stack([target > 0, target % 2 == 1, target == 3], dim=1).double()
    assert region_dice_and_cross_entropy(100 * (regions - 0.5), regions).item() == pytest.approx(0, abs=1e-4)
    assert region_dice_and_cross_entropy(100 * (0.5 - regions), regions).item() > 1
