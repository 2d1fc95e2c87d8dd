"""The seven members in the size that nnU-Net's planner gives BraTS at 1 mm.

Nobody may publish trained ones, so the networks are random but for their last layer, which is fitted to one phantom:
labels look like labels, and every layer costs what it costs.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cpu_cost import REAL_SHAPE, phantoms
from goat_ray.demo.phantoms import make_phantom
from goat_ray.demo.recipes import RECIPES, Recipe, old_plans, residual_plans
from goat_ray.demo.train import example_of
from goat_ray.labels import MODALITIES, LabelMap, region_mask
from goat_ray.members.importing import import_results
from goat_ray.members.networks import build_network, initialize_weights
from goat_ray.members.plans import Preprocessing, Triple, parse_plans
from goat_ray.members.windows import padded_grid
from tests.members.results import write_results_folder

_FEATURES, _BLOCKS = [32, 64, 128, 256, 320, 320], [1, 3, 4, 6, 6, 6]
_SMALL, _LARGE, _CUBE = (128, 160, 112), (160, 192, 160), (128, 128, 128)
_PLANS = {
    "M": residual_plans("M", _SMALL, _FEATURES, _BLOCKS, (2, 2, 1)),
    "L": residual_plans("L", _LARGE, _FEATURES, _BLOCKS, (2, 2, 2)),
    "XL": residual_plans("XL", _LARGE, _FEATURES, _BLOCKS, (2, 2, 2)),
    "UMamba": old_plans(_CUBE, 32, 320, [2] * len(_FEATURES)),
}
_VOXELS_OF_A_CLASS = 20_000
_LOGIT = 6.0
_LEVELLING = 1e-3
_SEED = 900


def full_size_recipes() -> list[Recipe]:
    """The recipes of the embedded members, with the winner's networks and windows."""
    return [replace(r, plans=_PLANS[r.code.removeprefix("ResNet").removeprefix("Finetune")]) for r in RECIPES]


def write_full_size_ensemble(recipes: Sequence[Recipe], folder: Path) -> Path:
    """Make the members of the recipes and import them; returns their manifest."""
    sources = []
    for recipe in recipes:
        results = write_results_folder(
            folder / recipe.code, recipe.plans, recipe.dataset, fitted_network(recipe).state_dict(), recipe.trainer
        )
        sources.append(f"{recipe.code}={results}")
    import_results(sources, folder / "ensemble.yaml")
    return folder / "ensemble.yaml"


def fitted_network(recipe: Recipe) -> nn.Module:
    """A random network whose last layer tells the classes of a phantom apart."""
    torch.manual_seed(recipe.seeds.start)
    plans, heads = parse_plans(recipe.plans), 3 if recipe.objective == "regions" else 4
    family = "umamba_bot" if recipe.code == "UMamba" else plans.architecture.family
    network = build_network(replace(plans.architecture, family=family), len(recipe.channels), heads).eval()
    initialize_weights(network)
    window, labels = _window_of_a_phantom(recipe, plans.preprocessing, plans.patch_size)
    last: Any = network.decoder
    seen: list[Tensor] = []
    hook = last.seg_layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.inference_mode():
        network(window)
    hook.remove()
    weight, bias = _fit(seen[0].flatten(1).T, labels.ravel(), recipe.objective == "regions")
    with torch.no_grad():
        last.seg_layers[-1].weight.copy_(weight[:, :, None, None, None])
        last.seg_layers[-1].bias.copy_(bias)
    return network


def _window_of_a_phantom(recipe: Recipe, spec: Preprocessing, patch: Triple) -> tuple[Tensor, LabelMap]:
    """The middle of a head, as a member reads it (1, c, z, y, x), and its labels (z, y, x)."""
    demo = phantoms(1, first_seed=_SEED)[0]
    head = example_of(make_phantom(demo.seed, REAL_SHAPE, demo.tumour, demo.site), spec)
    channels = [_middle(head.image[MODALITIES.index(name)], patch) for name in recipe.channels]
    return torch.from_numpy(np.stack(channels))[None], _middle(head.labels, patch)


def _middle(volume: NDArray[Any], patch: Triple) -> NDArray[Any]:
    """A window round the middle of a volume, with zeros beyond it."""
    z, y, x = volume.shape
    size, inner = padded_grid((z, y, x), patch)
    padded = np.zeros(size, volume.dtype)
    padded[inner] = volume
    _, window = padded_grid(patch, size)  # which lies in the middle of what is larger
    return padded[window]


def _fit(features: Tensor, labels: LabelMap, is_regions: bool) -> tuple[Tensor, Tensor]:
    """Weight (heads, features) and bias of the layer that comes closest to large logits of the right sign."""
    random = np.random.default_rng(_SEED)
    found = [np.flatnonzero(labels == value) for value in range(4)]
    chosen = np.concatenate([random.choice(at, min(len(at), _VOXELS_OF_A_CLASS), replace=False) for at in found])
    truth = labels[chosen]
    regions = [region_mask(truth, region) for region in ("WT", "TC", "ET")]
    wanted = regions if is_regions else [truth == value for value in range(4)]
    targets = torch.from_numpy(np.stack(wanted, 1)).double() * 2 * _LOGIT - _LOGIT
    inputs = torch.nn.functional.pad(features[torch.from_numpy(chosen)].double(), (0, 1), value=1.0)
    moments = inputs.T @ inputs
    moments += _LEVELLING * moments.diagonal().mean() * torch.eye(len(moments))
    solution = torch.linalg.solve(moments, inputs.T @ targets).float()
    return solution[:-1].T, solution[-1]
