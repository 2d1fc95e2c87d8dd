from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from goat_ray.demo import train
from goat_ray.demo.recipes import RECIPES, Recipe
from goat_ray.members.ensemble import load_ensemble, load_network


@pytest.fixture(autouse=True)
def small_and_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(train, "_PATCH", (32, 16, 16))  # the least that every network takes
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def short(code: str) -> Recipe:
    recipe = next(recipe for recipe in RECIPES if recipe.code == code)
    return replace(recipe, steps=2, seeds=recipe.seeds[:2])


def test_the_same_seeds_give_the_same_weights_and_others_do_not() -> None:
    recipe = short("ResNetM")
    other = replace(recipe, seeds=range(recipe.seeds.start + 500, recipe.seeds.start + 502))
    one, again, another = (train.train_member(made, None).state_dict() for made in (recipe, recipe, other))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], another[name]) for name in one)


def test_trained_members_come_back_from_the_ensemble_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = tuple(short(code) for code in ("ResNetM", "FinetuneM", "UMamba"))
    monkeypatch.setattr(train, "RECIPES", recipes)
    trained = {}
    for recipe in recipes:
        base = train._folder(tmp_path / "results", recipes[0]) if recipe.base else None
        trained[recipe.code] = train.train_member(recipe, base)
        train._write_results(train._folder(tmp_path / "results", recipe), recipe, trained[recipe.code])
    train.train_ensemble(tmp_path / "out", tmp_path / "results", jobs=1)
    ensemble = load_ensemble(tmp_path / "out" / "ensemble.yaml")
    assert [member.code for member in ensemble.members] == ["ResNetM", "FinetuneM", "UMamba"]
    for member in ensemble.members:
        network = load_network(member)
        expected = dict(trained[member.code].named_parameters())
        assert all(torch.equal(value, expected[name]) for name, value in network.named_parameters())
