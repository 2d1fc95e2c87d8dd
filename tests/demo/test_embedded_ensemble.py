from dataclasses import replace

import numpy as np
import pytest

from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE
from goat_ray.demo.phantoms import BENCHMARK_SEEDS, make_phantom
from goat_ray.demo.recipes import RECIPES
from goat_ray.imaging.geometry import brain_mask_box, to_network_axes
from goat_ray.labels import MODALITIES, region_mask
from goat_ray.members.cards import TEXT_FILE
from goat_ray.members.ensemble import Ensemble, check_members, load_ensemble
from goat_ray.members.predictor import Predictor, PredictorSettings
from goat_ray.members.preprocess import preprocess

CODES = ["ResNetM", "ResNetL", "ResNetXL", "FinetuneM", "FinetuneL", "FinetuneXL", "UMamba"]


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    return load_ensemble(EMBEDDED_ENSEMBLE)


def test_it_has_the_seven_members_of_the_winning_ensemble_and_all_can_run(ensemble: Ensemble) -> None:
    assert [member.code for member in ensemble.members] == CODES
    check_members(ensemble)


def test_it_takes_at_most_eight_megabytes() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED_ENSEMBLE.parent.rglob("*") if path.is_file()) <= 8_000_000


def test_members_differ_in_channel_order_label_scheme_and_network(ensemble: Ensemble) -> None:
    assert {member.scheme.kind for member in ensemble.members} == {"labels", "regions"}
    assert {member.architecture.family for member in ensemble.members} == {"residual_encoder", "umamba_bot"}
    assert len({member.card.channels for member in ensemble.members}) == 2


def test_a_fine_tuned_member_has_its_twins_network_and_other_weights(ensemble: Ensemble) -> None:
    members = {member.code: member for member in ensemble.members}
    for size in ("M", "L", "XL"):
        base, tuned = members[f"ResNet{size}"], members[f"Finetune{size}"]
        assert base.architecture == tuned.architecture
        assert base.sha256 != tuned.sha256


def test_every_card_says_that_it_knows_phantoms_only(ensemble: Ensemble) -> None:
    for member in ensemble.members:
        card = (member.weights.parent / TEXT_FILE).read_text(encoding="utf-8")
        assert "phantoms only" in card
        assert "No clinical use" in card
        assert "Phantoms" in member.card.source.dataset


def test_members_are_those_of_the_recipes(ensemble: Ensemble) -> None:
    for member, recipe in zip(ensemble.members, RECIPES, strict=True):
        assert (member.code, member.card.channels) == (recipe.code, recipe.channels)
        assert member.card.trainer == recipe.trainer
        assert member.card.source.training_cases == len(recipe.seeds)


def test_no_two_members_share_a_training_phantom() -> None:
    seeds = [seed for recipe in RECIPES for seed in recipe.seeds]
    assert len(seeds) == len(set(seeds))


def test_it_finds_the_tumour_of_a_phantom_it_never_saw(ensemble: Ensemble) -> None:
    phantom = make_phantom(BENCHMARK_SEEDS[-1], (74, 93, 76), "large_glioma", "south")
    volumes = [to_network_axes(phantom.images[name], phantom.affine) for name in MODALITIES]
    mask, box = brain_mask_box(volumes)
    spec = ensemble.members[0].preprocessing
    volume = preprocess(np.stack([one[box.slices] for one in volumes]), mask, (1.0, 1.0, 1.0), spec)
    predicted = Predictor(_with_small_windows(ensemble), PredictorSettings(threads=1)).predict({spec: volume})
    reference = to_network_axes(phantom.labels, phantom.affine)[box.slices]
    for region, least in (("WT", 0.85), ("TC", 0.7), ("ET", 0.6)):
        found, truth = region_mask(predicted.labels, region), region_mask(reference, region)
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > least, region


def _with_small_windows(ensemble: Ensemble) -> Ensemble:
    """The same members on windows that just hold a small head, to keep the test short."""
    card = {"patch_size": (80, 96, 80)}
    members = (replace(member, card=member.card.model_copy(update=card)) for member in ensemble.members)
    return replace(ensemble, members=tuple(members))
