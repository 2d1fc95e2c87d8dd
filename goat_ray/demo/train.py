"""Trains the embedded ensemble on phantoms: `python -m goat_ray.demo.train --out goat_ray/demo/ensemble`.

The members are written as nnU-Net results folders and imported from there like anybody's. Equal seeds, thread
count and torch give equal weights. All seven took 16 minutes on two busy cores with bfloat16 matrix units.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goat_ray.demo import losses
from goat_ray.demo.phantoms import SITES, Phantom, make_phantom
from goat_ray.demo.recipes import DATASET, RECIPES, Recipe
from goat_ray.imaging.geometry import brain_mask_box, to_network_axes
from goat_ray.labels import MODALITIES, REGIONS, LabelMap, region_mask
from goat_ray.members.cards import TEXT_FILE
from goat_ray.members.importing import ImportOptions, import_results
from goat_ray.members.networks import build_network, initialize_weights
from goat_ray.members.plans import Preprocessing, parse_plans
from goat_ray.members.preprocess import preprocess
from goat_ray.members.results import ImportSource
from goat_ray.members.weights import load_checkpoint

_LOGGER = logging.getLogger(__name__)

_PATCH = (64, 80, 64)
_CHECKPOINT = Path("fold_all", "checkpoint_final.pth")
_WARM_UP = 0.1
# Necrotic cores are the rarest and hardest part: more than their share.
_TUMOURS = ("large_glioma", "small_metastases", "meningioma_like", "no_enhancing", "no_enhancing", "none")
_RARITY = 4.0
_LIMITS = (
    "- **Knows phantoms only**: trained on the synthetic heads of `goat_ray/demo/phantoms.py` and on no image of any "
    "person. What it marks in a real scan means nothing. No clinical use, no diagnosis.\n"
)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A head as members read it: normalised (c, z, y, x) image, channels in `MODALITIES` order, (z, y, x) labels."""

    image: NDArray[np.float32]
    labels: LabelMap


def train_ensemble(out: Path, results: Path, jobs: int) -> None:
    """Train what `results` does not hold yet, `jobs` members at a time, and import all into the folder `out`."""
    chains = [[r for r in RECIPES if base.code in (r.code, r.base)] for base in RECIPES if base.base is None]
    # One thread per process: two members side by side beat one on two threads, and the count changes no weight.
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_set_up_process) as pool:
        list(pool.map(partial(_train_chain, results), chains))
    sources = [ImportSource(_folder(results, recipe), recipe.code) for recipe in RECIPES]
    options = ImportOptions(licence="Apache-2.0", overwrite=True)
    ensemble = import_results(sources, out / "ensemble.yaml", name="embedded phantom ensemble", options=options)
    for member in ensemble.members:
        with (member.weights.parent / TEXT_FILE).open("a", encoding="utf-8") as card:
            card.write(_LIMITS)


def _set_up_process() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)


def _train_chain(results: Path, chain: Sequence[Recipe]) -> None:
    """A base member, then its twin that starts from it; those already there are left alone."""
    base = _folder(results, chain[0])
    for recipe in chain:
        folder = _folder(results, recipe)
        if not (folder / _CHECKPOINT).exists():
            started = time.perf_counter()
            _write_results(folder, recipe, train_member(recipe, base if recipe.base else None))
            _LOGGER.info("%s trained in %.0f s", recipe.code, time.perf_counter() - started)


def _folder(results: Path, recipe: Recipe) -> Path:
    return results / recipe.code / DATASET / f"{recipe.trainer}__{recipe.plans['plans_name']}__3d_fullres"


def train_member(recipe: Recipe, base: Path | None) -> nn.Module:
    """Train one member from scratch, or from the results folder `base` of its twin."""
    torch.manual_seed(recipe.seeds.start)
    rng = np.random.default_rng(recipe.seeds.start)
    plans = parse_plans(recipe.plans)
    network = _start(recipe, base)
    # Four times faster on a CPU with bfloat16 units, and harmless at this size.
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing in torch's stubs
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, steps=recipe.steps))
    examples = [_example(seed, plans.preprocessing) for seed in recipe.seeds]
    for step in range(recipe.steps):
        images, target = _batch(examples[rng.integers(len(examples))], recipe, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        loss = _loss(logits.float(), target, recipe)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this untyped
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            _LOGGER.info("%s step %d of %d, loss %.3f", recipe.code, step + 1, recipe.steps, loss.item())
    return network


def _start(recipe: Recipe, base: Path | None) -> nn.Module:
    architecture = parse_plans(recipe.plans).architecture
    if recipe.code == "UMamba":
        architecture = replace(architecture, family="umamba_bot")
    has_regions = recipe.objective == "regions"
    network = build_network(architecture, len(MODALITIES), 3 if has_regions else 4)
    if base is not None:
        network.load_state_dict(load_checkpoint(base / _CHECKPOINT).weights)
        return network
    initialize_weights(network)
    # Start from how rare a tumour is: else the few features all learn the background first and stay that way.
    bias = network.get_parameter(f"decoder.seg_layers.{len(architecture.decoder_blocks) - 1}.bias")
    with torch.no_grad():
        bias.copy_(torch.tensor([-_RARITY] * 3 if has_regions else [_RARITY, 0.0, 0.0, 0.0]))
    return network


def _rate(step: int, steps: int) -> float:
    """Learning rate as a fraction of the highest: a linear warm-up, then half a cosine."""
    progress = (step + 1) / steps
    return min(progress / _WARM_UP, 0.5 * (1 + float(np.cos(np.pi * progress))) + 0.01)


def _example(seed: int, spec: Preprocessing) -> Example:
    """The head of one seed; a quarter is larger than the window, the others fill much or little of it."""
    rng = np.random.default_rng([seed, 1])
    scale = rng.uniform(0.48, 1.0) if rng.random() < 0.25 else rng.uniform(0.24, 0.48)
    x, y, z = (max(24, round(scale * size)) for size in (148, 186, 152))
    tumour, site = rng.choice(_TUMOURS), rng.choice([*SITES])
    return example_of(make_phantom(seed, (x, y, z), tumour, site), spec)


def example_of(phantom: Phantom, spec: Preprocessing) -> Example:
    """A phantom cropped to its brain and preprocessed."""
    volumes = [to_network_axes(np.rint(phantom.images[name]), phantom.affine) for name in MODALITIES]
    mask, box = brain_mask_box(volumes)
    image = preprocess(np.stack([volume[box.slices] for volume in volumes]), mask, (1.0, 1.0, 1.0), spec).image
    return Example(image, to_network_axes(phantom.labels, phantom.affine)[box.slices])


def _batch(example: Example, recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One head in a window, augmented; channels in the member's order, target as its loss takes it."""
    image, labels = _window(example, rng)
    image = _augmented(image[[MODALITIES.index(name) for name in recipe.channels]], rng)
    batch = torch.from_numpy(image[None]).to(memory_format=torch.channels_last_3d)
    return batch, torch.from_numpy(_target(labels, recipe)[None])


def _window(example: Example, rng: np.random.Generator) -> tuple[NDArray[np.float32], LabelMap]:
    """The head padded around with zeros, or cut to the training window around a voxel of the tumour; mirrored."""
    image, labels = example.image, example.labels
    tumour = np.argwhere(labels)
    seen = tumour[rng.integers(len(tumour))] if len(tumour) else rng.integers(labels.shape)
    for axis, size in enumerate(_PATCH):
        length = labels.shape[axis]
        start = int(np.clip(seen[axis] - rng.integers(size), 0, max(length - size, 0)))
        kept = range(start, min(start + size, length))
        image, labels = image.take(kept, axis + 1), labels.take(kept, axis)
        pad = [(0, 0)] * 3
        pad[axis] = ((size - len(kept)) // 2, (size - len(kept) + 1) // 2)
        image, labels = np.pad(image, [(0, 0), *pad]), np.pad(labels, pad)
    flips = [axis for axis in range(3) if rng.random() < 0.5]
    return np.flip(image, tuple(axis + 1 for axis in flips)), np.flip(labels, tuple(flips))


def _augmented(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Contrast, brightness and noise changed per channel; background stays zero."""
    gain, offset = rng.uniform(0.85, 1.15, (4, 1, 1, 1)), rng.normal(0, 0.1, (4, 1, 1, 1))
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 0.15))
    changed = image * gain.astype(np.float32) + offset.astype(np.float32) + noise
    return np.where(image == 0, np.float32(0), changed)


def _target(labels: LabelMap, recipe: Recipe) -> NDArray[np.float32] | NDArray[np.int64]:
    if recipe.objective == "regions":
        heads = [name for name in recipe.dataset["labels"] if name in REGIONS]
        return np.stack([region_mask(labels, name) for name in heads]).astype(np.float32)
    return labels.astype(np.int64)


def _loss(logits: Tensor, target: Tensor, recipe: Recipe) -> Tensor:
    match recipe.objective:
        case "dice_ce":
            return losses.dice_and_cross_entropy(logits, target)
        case "dice_topk_focal":
            return losses.dice_topk_focal(logits, target)
        case "regions":
            return losses.region_dice_and_cross_entropy(logits, target)


def _write_results(folder: Path, recipe: Recipe, network: nn.Module) -> None:
    """What nnU-Net leaves behind after a training, as far as an import reads it."""
    (folder / _CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(recipe.plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(recipe.dataset), encoding="utf-8")
    checkpoint = {
        "network_weights": {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        "trainer_name": recipe.trainer,
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "init_args": {"configuration": "3d_fullres", "fold": "all"},
        "current_epoch": 1,
    }
    torch.save(checkpoint, folder / _CHECKPOINT)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Train the embedded ensemble on phantoms.")
    parser.add_argument("--out", type=Path, required=True, help="folder for ensemble.yaml and the members")
    parser.add_argument("--results", type=Path, help="keep the nnU-Net results folders here; those present are reused")
    parser.add_argument("--jobs", type=int, default=2, help="members trained at a time, on one core each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        train_ensemble(arguments.out, arguments.results or Path(scratch), arguments.jobs)


if __name__ == "__main__":
    main()
