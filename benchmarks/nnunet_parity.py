"""Narrow twins of published BraTS models, fitted on the spot: nnU-Net's own predictor against ours on a real head.

Run from the repository root: `OMP_NUM_THREADS=1 python -m benchmarks.nnunet_parity`. Plans and images are read from
`GOAT_RAY_DATA`. A twin keeps its model's strides, blocks, patch, channel order and labels; only its features are
fewer. It is fitted because random weights leave nearly every voxel a tie. Exits with 1 when a bar is missed.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks._processes import as_a_worker
from benchmarks._record import record
from goat_ray.cases import Case, discover
from goat_ray.demo.losses import dice_and_cross_entropy, region_dice_and_cross_entropy
from goat_ray.imaging.geometry import network_spacing_mm, to_network_axes, uncrop
from goat_ray.imaging.nifti import decode_labels
from goat_ray.imaging.reading import LoadedCase, load_case
from goat_ray.labels import MODALITIES, LabelMap, region_mask
from goat_ray.members.ensemble import Ensemble
from goat_ray.members.importing import import_results
from goat_ray.members.plans import parse_plans
from goat_ray.members.predictor import Prediction, Predictor, PredictorSettings
from goat_ray.members.preprocess import Preprocessed, preprocess
from goat_ray.members.windows import padded_grid, window_starts
from tests.members.results import nnunet_network, with_narrow_features, write_results_folder

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GOAT_RAY_DATA", ROOT.parent / "shared" / "data"))
FITTED_ON = ("BraTS-GLI-00000-000", "Brats18_2013_2_1")
COMPARED_ON = "BraTS-GLI-01481-000"

NARROWER = 8
STEPS = 60
FIT_PATCH = (64, 64, 64)
LEARNING_RATE = 2e-2
FAINT = 0.05
MAX_DP = 2e-3
REGIONS = ("WT", "TC", "ET")


@dataclass(frozen=True, slots=True)
class Twin:
    """A published model, and by hand what our importer has to find out about it.

    Attributes:
        plans: folder of its plans and dataset files.
        channels: modality of each input.
        trained: BraTS label of each integer of its training labels.
        written: BraTS label of each integer that nnU-Net writes for it.
    """

    plans: str
    channels: tuple[str, ...]
    trained: tuple[int, ...] = (0, 1, 2, 3)
    written: tuple[int, ...] = (0, 1, 2, 3)


EDEMA_FIRST = (0, 2, 1, 3)
TWINS = (
    Twin("ShadowTwin41_BraTS2024_GoAT", ("t1c", "t1n", "t2f", "t2w"), EDEMA_FIRST, EDEMA_FIRST),
    # Trained on BraTS integers, but regions_class_order paints WT as 1 and TC as 2.
    Twin("ahwtsang_BraTS2023_GLI_ResEncM", ("t1n", "t1c", "t2w", "t2f"), written=EDEMA_FIRST),
    Twin("HeeSeungShin_BraTS2026_GoAT_ResEncM", ("t1n", "t1c", "t2w", "t2f")),
    Twin("AutoNNUnet_MSD01_PlainConv", ("t2f", "t1n", "t1c", "t2w"), EDEMA_FIRST, EDEMA_FIRST),
)


def main() -> None:
    started = time.perf_counter()
    as_a_worker()
    # One thread each: bits depend on the number of threads.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(measure, TWINS))
    missed = [f"{row['plans']}: {bar}" for row in rows for bar in row.pop("missed")]
    record(
        "nnunet_parity",
        {
            "what": "nnUNetPredictor and goat_ray's Predictor, same weights, one unseen real case, CPU, no mirroring",
            "fit": {"cases": len(FITTED_ON), "steps": STEPS, "patch": FIT_PATCH, "features_divided_by": NARROWER},
            "threads_per_twin": 1,
            "bars": {"nnunet_differing_vox": 0, "nnunet_max_dp": MAX_DP, "exact_batch_4_differing_vox": 0},
            "missed": missed,
            "seconds": round(time.perf_counter() - started),
            "twins": rows,
        },
        packages=("dynamic-network-architectures", "nnunetv2", "numpy", "SimpleITK", "torch"),
    )
    if missed:
        sys.exit("\n".join(missed))


def measure(twin: Twin) -> dict[str, Any]:
    """Fits one twin and compares both predictors on it; `missed` lists the bars it does not meet."""
    torch.set_num_threads(1)
    folder = DATA / "plans" / "real" / twin.plans
    dataset = json.loads((folder / "dataset.json").read_text())
    plans = with_narrow_features(json.loads((folder / "plans.json").read_text()), NARROWER)
    network, fit_s = timed(lambda: fitted(twin, plans, dataset))
    case = case_named(COMPARED_ON)
    with tempfile.TemporaryDirectory() as place:
        results = write_results_folder(Path(place), plans, dataset, network.state_dict())
        ensemble = import_results([str(results)], Path(place) / "ensemble.yaml")
        (theirs, heads), nnunet_s = timed(lambda: nnunet_prediction(network, plans, dataset, twin, case))
        regions, loaded = is_regions(dataset), load_case(case)
        ours = Ours(ensemble, loaded, "regions" if regions else "argmax")
        same = ours.predict("nnunet", 1)
        exact, batched = ours.predict("exact", 1), ours.predict("exact", 4)
    labels = np.array(twin.written, np.uint8)[theirs]
    expected = heads[(slice(None), *loaded.box.slices)]
    exact_labels = uncrop(exact.labels, loaded.box, loaded.full_shape)
    member = ensemble.members[0]
    size, _ = padded_grid(ours.volume.image.shape[1:], member.patch_size)
    row: dict[str, Any] = {
        "plans": twin.plans,
        "format": "new" if "architecture" in plans["configurations"]["3d_fullres"] else "old",
        "network": member.architecture.family,
        "training": "regions" if regions else "labels",
        "channels": member.card.channels,
        "parameters": member.card.parameters,
        "patch_size": member.patch_size,
        "windows": len(window_starts(size, member.patch_size)),
        "crop_shape": loaded.box.shape,
        "found_vox": {region: int(region_mask(labels, region).sum()) for region in REGIONS},
        "dice_with_expert": dice(labels, reference(case, loaded)),
        "nnunet": {
            "differing_vox": different(uncrop(same.labels, loaded.box, loaded.full_shape), labels),
            "max_dp": max_dp(same, expected, twin, regions),
        },
        "exact": {
            "differing_vox": different(exact_labels, labels),
            "max_dp": max_dp(exact, expected, twin, regions),
            "dice_with_nnunet": dice(exact_labels, labels),
            "batch_4_differing_vox": different(batched.labels, exact.labels),
        },
        "seconds": {"fit": fit_s, "nnUNetPredictor": nnunet_s, **ours.seconds},
    }
    row["missed"] = bars_missed(row, twin)
    print(json.dumps(row), flush=True)
    return row


def bars_missed(row: dict[str, Any], twin: Twin) -> list[str]:
    """Each bar that a twin does not meet, in words."""
    nnunet, exact = row["nnunet"], row["exact"]
    bars = {
        f"read as {', '.join(row['channels'])}": row["channels"] != twin.channels,
        f"a region was not found: {row['found_vox']}": not all(row["found_vox"].values()),
        f"nnunet: {nnunet['differing_vox']} voxels differ": nnunet["differing_vox"] > 0,
        f"nnunet: max |dp| is {nnunet['max_dp']}": not nnunet["max_dp"] <= MAX_DP,
        f"exact: batches of 4 change {exact['batch_4_differing_vox']} voxels": exact["batch_4_differing_vox"] > 0,
    }
    return [bar for bar, missed in bars.items() if missed]


class Ours:
    """One imported member on one case, under any recipe; `seconds` of every run, by recipe and batch."""

    def __init__(self, ensemble: Ensemble, loaded: LoadedCase, decode: Any) -> None:
        self.ensemble, self.decode = ensemble, decode
        self.spec = ensemble.members[0].preprocessing
        self.volume = preprocessed(loaded, self.spec)
        self.seconds: dict[str, float] = {}

    def predict(self, blending: Any, batch: int) -> Prediction:
        """One run of a freshly loaded predictor; loading is not part of its seconds."""
        settings = PredictorSettings(
            blending=blending, decode=self.decode, windows_per_batch=batch, threads=1, keep_probabilities=True
        )
        predictor = Predictor(self.ensemble, settings)
        prediction: Prediction
        prediction, seconds = timed(lambda: predictor.predict({self.spec: self.volume}))
        self.seconds[f"{blending}, batch {batch}"] = seconds
        return prediction


def nnunet_prediction(
    network: nn.Module, plans: dict[str, Any], dataset: dict[str, Any], twin: Twin, case: Case
) -> tuple[LabelMap, NDArray[np.float32]]:
    """nnU-Net's labels (z, y, x) and head probabilities (heads, z, y, x), from its own reader to its own export."""
    with quiet():
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        manager = PlansManager(plans)
        predictor = nnUNetPredictor(
            use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.manual_initialization(
            network,
            manager,
            manager.get_configuration("3d_fullres"),
            [network.state_dict()],
            dataset,
            "nnUNetTrainer",
            None,
        )
        files = [case.images[modality] for modality in twin.channels]
        images, properties = manager.image_reader_writer_class().read_images(files)
        labels, probabilities = predictor.predict_single_npy_array(images, properties, None, None, True)
    return np.asarray(labels), np.asarray(probabilities)


def fitted(twin: Twin, plans: dict[str, Any], dataset: dict[str, Any]) -> nn.Module:
    """nnU-Net's own network for the plans, fitted to random patches around the tumours of two cases."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    regions, spec = is_regions(dataset), parse_plans(plans).preprocessing
    heads = [value for value in dataset["labels"].values() if not regions or value != 0]
    network: Any = nnunet_network(plans, len(twin.channels), len(heads), deep_supervision=False).train()
    with torch.no_grad():  # a shallow network to begin with, which learns in a few steps
        network.decoder.transpconvs[-1].weight.mul_(FAINT)
        network.decoder.transpconvs[-1].bias.zero_()
    scans = [scan(case_named(name), twin, spec) for name in FITTED_ON]
    last = list(network.decoder.seg_layers[-1].parameters())
    others = [weights for weights in network.parameters() if all(weights is not one for one in last)]
    rates = [LEARNING_RATE, 10 * LEARNING_RATE]  # the last layer has furthest to go, and no norm behind it
    optimizer = torch.optim.AdamW([{"params": others}, {"params": last}], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        image, labels = patch_of(*scans[step % len(scans)], random)
        logits = network(image)
        if regions:
            wanted = torch.stack([torch.isin(labels, torch.tensor(value)) for value in heads], 1)
            loss = region_dice_and_cross_entropy(logits, wanted.float())
        else:
            loss = dice_and_cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    trained: nn.Module = network.eval().requires_grad_(False)
    return trained


def scan(case: Case, twin: Twin, spec: Any) -> tuple[NDArray[np.float32], LabelMap]:
    """A case as the twin is trained: its channels (c, z, y, x) and its own label integers (z, y, x)."""
    loaded = load_case(case)
    own = np.argsort(twin.trained).astype(np.uint8)
    labels = own[reference(case, loaded)[loaded.box.slices]]
    return preprocessed(loaded, spec).image[[MODALITIES.index(name) for name in twin.channels]], labels


def patch_of(
    image: NDArray[np.float32], labels: LabelMap, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of one patch and its labels, at a random place: every second voxel of most of the head.

    Instance normalisation then sees about what it sees in a full window, at an eighth of the cost.
    """
    starts = [random.integers(n - 2 * length + 1) for n, length in zip(labels.shape, FIT_PATCH, strict=True)]
    window = tuple(slice(start, start + 2 * length, 2) for start, length in zip(starts, FIT_PATCH, strict=True))
    batch = torch.from_numpy(image[(slice(None), *window)].copy())[None]
    return batch, torch.from_numpy(labels[window].astype(np.int64))[None]


def preprocessed(loaded: LoadedCase, spec: Any) -> Preprocessed:
    return preprocess(loaded.crop, loaded.mask, network_spacing_mm(loaded.grid), spec)


def reference(case: Case, loaded: LoadedCase) -> LabelMap:
    """The expert's labels (z, y, x), whole grid."""
    if case.reference is None:
        raise SystemExit("a case without expert labels")
    path = Path(case.reference)
    labels, _ = decode_labels(path.read_bytes(), path.name)
    return to_network_axes(labels, loaded.grid.affine)


def case_named(case_id: str) -> Case:
    return next(case for case in discover(str(DATA / "cohort")).cases if case.case_id == case_id)


def is_regions(dataset: dict[str, Any]) -> bool:
    return any(isinstance(value, list) for value in dataset["labels"].values())


def max_dp(prediction: Prediction, heads: NDArray[np.float32], twin: Twin, regions: bool) -> float:
    """Largest difference to nnU-Net's heads: of the labels, or of the regions WT, TC, ET once nested."""
    p = prediction.probabilities
    if p is None:
        raise SystemExit("no probabilities were kept")
    if regions:
        ours: Sequence[NDArray[np.float32]] = (1 - p[0], p[1] + p[3], p[3])
        theirs: Sequence[NDArray[np.float32]] = tuple(np.maximum.accumulate(heads[::-1])[::-1])
    else:
        ours, theirs = tuple(p), tuple(heads[np.argsort(twin.trained)])
    return float(max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)))


def different(labels: LabelMap, others: LabelMap) -> int:
    return int(np.count_nonzero(labels != others))


def dice(labels: LabelMap, others: LabelMap) -> dict[str, float | None]:
    """Dice of each region; None where neither has it."""
    scores: dict[str, float | None] = {}
    for region in REGIONS:
        a, b = region_mask(labels, region), region_mask(others, region)
        voxels = int(a.sum() + b.sum())
        scores[region] = round(float(2 * (a & b).sum() / voxels), 6) if voxels else None
    return scores


def timed(function: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = function()
    return result, round(time.perf_counter() - started, 1)


@contextmanager
def quiet() -> Iterator[None]:
    """nnU-Net prints and warns about folders and plan formats."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main()
