"""CPU time and memory of scoring full-size cases, reading included: one thread, each measurement in a fresh process.

Scenes are those of the golden set's generator: gliomas 1 to 3 and metastases 11 to 13, 240×240×155 voxels of 1 mm.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._record import record

SCENES = {"glioma": (1, 2, 3), "mets": (11, 12, 13)}
SPECS = {"glioma": ("brats2023-gli", "goat2025-gli"), "mets": ("brats2023-met", "goat2025-met")}
REPEATS = 5
LIMITS = {"brats2023": 0.6, "goat2025": 1.5, "peak_rss_mb": 300}


def write_scenes(folder: Path) -> None:
    from goat_ray.imaging.nifti import Grid, encode_labels
    from tests.metrics.golden.scenes import glioma_pair, mets_pair

    for kind, seeds in SCENES.items():
        for seed in seeds:
            maps = {"glioma": glioma_pair, "mets": mets_pair}[kind](seed)
            for role, labels in zip(("reference", "prediction"), maps, strict=True):
                file = encode_labels(labels, Grid(labels.shape, np.eye(4)))
                (folder / f"{kind}{seed}-{role}.nii.gz").write_bytes(file)


def score_once(folder: str, scene: str, spec_name: str, regions: str, official: str) -> None:
    """What the fresh process does: score one case REPEATS times, and print CPU seconds and peak memory."""
    from goat_ray.imaging.nifti import decode_labels
    from goat_ray.metrics.evaluation import score_case
    from goat_ray.metrics.specs import SPECS as KNOWN

    spec = KNOWN[spec_name]
    if regions == "official":
        kept = {region: policy for region, policy in spec.regions.items() if policy.official}
        joined = {name for policy in kept.values() for name in policy.join}
        spec = spec.model_copy(update={"regions": kept | {name: spec.regions[name] for name in joined}})
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.process_time()
        maps = [
            decode_labels(Path(folder, f"{scene}-{role}.nii.gz").read_bytes(), role)
            for role in ("reference", "prediction")
        ]
        result = score_case(maps[0][0], maps[1][0], maps[1][1], spec, official=official == "official")
        seconds.append(time.process_time() - start)
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lesions = sum(row["kind"] == "gt" for row in result.lesions)
    print(
        json.dumps({"seconds": seconds[1:], "peak_rss_mb": rss_mb, "regions": len(result.regions), "lesions": lesions})
    )


def measure(folder: Path, scene: str, spec: str, regions: str, official: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.metrics_speed", "--one", str(folder), scene, spec, regions, official]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **one_thread})
    found = json.loads(done.stdout)
    seconds = found.pop("seconds")
    row = {
        "scene": scene,
        "spec": spec,
        "regions_scored": regions,
        "defect_columns": official == "official",
        "cpu_s": {"n": len(seconds), "median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
        **found,
    }
    print(
        f"{scene:9s} {spec:14s} {regions:8s} {'with' if row['defect_columns'] else 'without'} defect columns: "
        f"{row['cpu_s']['median']:.3f} CPU-s, {row['peak_rss_mb']:.0f} MB, {row['lesions']} lesions"
    )
    return row


def main() -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scenes(folder)
        for kind, seeds in SCENES.items():
            for seed in seeds:
                for spec in SPECS[kind]:
                    variants = [("official", "plain"), ("all", "plain")]
                    variants += [("official", "official")] if spec.startswith("goat2025") else []
                    rows += [measure(folder, f"{kind}{seed}", spec, *variant) for variant in variants]
    plain = [row for row in rows if not row["defect_columns"]]
    worst = {
        family: max(row["cpu_s"]["median"] for row in plain if row["spec"].startswith(family))
        for family in ("brats2023", "goat2025")
    }
    medians = {
        f"{family}, {regions} regions": statistics.median(
            row["cpu_s"]["median"]
            for row in plain
            if row["spec"].startswith(family) and row["regions_scored"] == regions
        )
        for family in worst
        for regions in ("official", "all")
    }
    peak_rss_mb = max(row["peak_rss_mb"] for row in plain)
    with_defects = [row for row in rows if row["defect_columns"]]
    summary = {
        "without_defect_columns": {"worst_cpu_s": worst, "median_cpu_s": medians, "peak_rss_mb": peak_rss_mb},
        "with_defect_columns": {
            "worst_cpu_s": max(row["cpu_s"]["median"] for row in with_defects),
            "peak_rss_mb": max(row["peak_rss_mb"] for row in with_defects),
        },
        "limits_without_defect_columns": LIMITS,
    }
    record(
        "metrics_speed", {"unit": "CPU seconds a case, reading included", **summary, "rows": rows}, ("numpy", "scipy")
    )
    over = [family for family, seconds in worst.items() if seconds > LIMITS[family]]
    if over or peak_rss_mb > LIMITS["peak_rss_mb"]:
        raise SystemExit(f"over the limit: {over or f'{peak_rss_mb:.0f} MB'}")


if __name__ == "__main__":
    score_once(*sys.argv[2:]) if sys.argv[1:2] == ["--one"] else main()
