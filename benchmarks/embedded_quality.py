"""How well the embedded ensemble segments phantoms it was not trained on."""

import argparse
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._record import record
from goat_ray.config import PostprocessConfig
from goat_ray.demo.cohort import DEMO_SHAPE, EMBEDDED_ENSEMBLE
from goat_ray.demo.phantoms import BENCHMARK_SEEDS, SITES, TUMOURS, Phantom, make_phantom
from goat_ray.imaging.geometry import brain_mask_box, from_network_axes, to_network_axes, uncrop
from goat_ray.labels import MODALITIES, LabelMap, region_mask
from goat_ray.members.ensemble import Ensemble, load_ensemble
from goat_ray.members.predictor import Predictor, PredictorSettings
from goat_ray.members.preprocess import preprocess
from goat_ray.postprocess import postprocess

REAL_SHAPE = (240, 240, 155)
REGIONS = ("WT", "TC", "ET")
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=5, help="phantoms of each tumour type; sites take turns")
    parser.add_argument("--ensemble", type=Path, default=EMBEDDED_ENSEMBLE)
    arguments = parser.parse_args()
    ensemble = load_ensemble(arguments.ensemble)
    predictor = Predictor(ensemble, PredictorSettings(threads=THREADS))
    _record_quality(predictor, ensemble, arguments.heads)


def _record_quality(predictor: Predictor, ensemble: Ensemble, heads: int) -> None:
    rows = [
        _measure(predictor, ensemble.members[0].preprocessing, place, DEMO_SHAPE)
        for place in range(heads * len(TUMOURS))
    ]
    real = _measure(predictor, ensemble.members[0].preprocessing, heads * len(TUMOURS), REAL_SHAPE)
    with_tumour = [row for row in rows if row["tumour"] != "none"]
    record(
        "embedded_quality",
        {
            "ensemble_sha256": ensemble.sha256,
            "members": [member.code for member in ensemble.members],
            "recipe": {"blending": "exact", "decode": "majority", "postprocess": "adaptive", "threads": THREADS},
            "heads": {"n": len(rows), "shape_xyz": DEMO_SHAPE, "seeds": [rows[0]["seed"], rows[-1]["seed"]]},
            "dice": _dice_summary(with_tumour),
            "dice_by_tumour": {t: _dice_summary(r for r in rows if r["tumour"] == t) for t in TUMOURS if t != "none"},
            "dice_by_site": {s: _dice_summary(r for r in with_tumour if r["site"] == s) for s in SITES},
            "voxels_marked_without_tumour": [row["marked_vox"] for row in rows if row["tumour"] == "none"],
            "seconds_per_case": _summary([row["seconds"] for row in rows]),
            "cpu_seconds_per_case": _summary([row["cpu_seconds"] for row in rows]),
            "real_size": {"shape_xyz": REAL_SHAPE, **real},
            "cases": rows,
        },
        packages=("numpy", "scipy", "torch"),
    )


def _measure(predictor: Predictor, spec: Any, place: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    seed, tumour = BENCHMARK_SEEDS[place], tuple(TUMOURS)[place % len(TUMOURS)]
    site = tuple(SITES)[(place // len(TUMOURS)) % len(SITES)]
    phantom = make_phantom(seed, shape, tumour, site)
    started, cpu_started = time.perf_counter(), time.process_time()
    labels, member_seconds = _segment(predictor, spec, phantom)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    row = {
        "seed": seed,
        "tumour": tumour,
        "site": site,
        "dice": {region: _dice(labels, phantom.labels, region) for region in REGIONS},
        "marked_vox": int(np.count_nonzero(labels)),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "member_seconds": {code: round(value, 2) for code, value in member_seconds.items()},
    }
    print(row, flush=True)
    return row


def _segment(predictor: Predictor, spec: Any, phantom: Phantom) -> tuple[LabelMap, dict[str, float]]:
    """From images in memory to the final label map (x, y, z), and the seconds of each member."""
    volumes = [to_network_axes(np.rint(phantom.images[name]), phantom.affine) for name in MODALITIES]
    mask, box = brain_mask_box(volumes)
    volume = preprocess(np.stack([one[box.slices] for one in volumes]), mask, (1.0, 1.0, 1.0), spec)
    prediction = predictor.predict({spec: volume})
    kept = postprocess(prediction.labels, PostprocessConfig()).labels
    full = uncrop(kept, box, volumes[0].shape)
    return from_network_axes(full, phantom.affine), prediction.member_seconds


def _dice(labels: LabelMap, reference: LabelMap, region: str) -> float | None:
    """Voxel Dice of a region, None where the reference has none of it."""
    found, truth = region_mask(labels, region), region_mask(reference, region)
    if not truth.any():
        return None
    return round(float(2 * (found & truth).sum() / (found.sum() + truth.sum())), 4)


def _dice_summary(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    scored = [row["dice"] for row in rows]
    values = {region: [dice[region] for dice in scored if dice[region] is not None] for region in REGIONS}
    return {region: _summary(numbers) for region, numbers in values.items() if numbers}


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values),
        "median": round(statistics.median(values), 4),
        "mean": round(statistics.fmean(values), 4),
        "min": min(values),
        "max": max(values),
    }


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    main()
