"""Pseudo-labels on phantoms whose truth is known: are the cases that gates keep better than those they refuse?

Three embedded members teach; a third of the unlabelled phantoms are spoilt by noise or by a contrast agent that did
not arrive. The dataset goes through nnU-Net's own integrity check, planner and preprocessing.

    python -m benchmarks.pseudo_labels [FOLDER]    # FOLDER: where the run folder stays to be looked at
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from benchmarks._record import record
from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE, DemoCase, write_demo_cohort
from goat_ray.demo.phantoms import BENCHMARK_SEEDS
from goat_ray.pipeline.progress import LogReporter
from goat_ray.pipeline.pseudolabel import pseudo_label_cohort
from goat_ray.pseudolabel.config import GatesConfig, PseudoLabelConfig
from goat_ray.pseudolabel.stored import read_stored
from goat_ray.storage import RunStore
from goat_ray.tables import read_table

SHAPE = (72, 84, 70)
TEACHERS = ("ResNetM", "ResNetL", "ResNetXL")
TUMOURS = ("large_glioma", "small_metastases", "meningioma_like", "no_enhancing")
SITES = ("north", "south", "island")
N_UNLABELLED, N_LABELLED = 60, 20
SETTINGS = {
    "none": {},
    "strict": {"preset": "strict"},
    "dice_wt_min=0.85": {"dice_wt_min": 0.85},
    "dice_tc_min=0.7": {"dice_tc_min": 0.7},
    "dice_et_min=0.5": {"dice_et_min": 0.5},
    "confidence_min=0.9": {"confidence_min": 0.9},
    "entropy_max=0.35": {"entropy_max": 0.35},
    "margin_min=0.2": {"margin_min": 0.2},
    "margin_min=0.8": {"margin_min": 0.8},
    "wt_components_max=5": {"wt_components_max": 5},
}


def main() -> None:
    """Make the cohorts, label one of them, and compare what each setting of gates keeps and refuses."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else folder)
        write_cohorts(root)
        config = PseudoLabelConfig(
            cohort=str(root / "cohort"),
            labelled=str(root / "labelled"),
            sites=str(root / "sites.csv"),
            ensemble=str(EMBEDDED_ENSEMBLE),
            members=TEACHERS,
            out=str(root / "out"),
        )
        summary = pseudo_label_cohort(config, LogReporter())
        record(
            "pseudo_labels",
            {
                "cohort": f"{N_UNLABELLED} unlabelled phantoms (a third spoilt), {N_LABELLED} labelled, {SHAPE}",
                "teachers": TEACHERS,
                "kept": dict(summary.kept),
                "gates": {name: quality(root / "out", GatesConfig(**gates)) for name, gates in SETTINGS.items()},
                "nnunet": nnunet(root),
            },
            packages=("torch", "ray", "numpy", "nnunetv2", "scikit-learn"),
        )


def write_cohorts(root: Path) -> None:
    """Write both cohorts and their common sheet of sites."""
    seeds = BENCHMARK_SEEDS[5000:]
    labelled, unlabelled = (
        [DemoCase(f"{name}-{i:03d}", seeds[first + i], TUMOURS[i % 4], SITES[i % 3]) for i in range(n)]
        for name, first, n in (("expert", 0, N_LABELLED), ("hospital", N_LABELLED, N_UNLABELLED))
    )
    write_demo_cohort(root / "labelled", labelled, SHAPE)
    write_demo_cohort(root / "cohort", unlabelled, SHAPE)
    for number, case in enumerate(unlabelled):
        if number % 3 == 2:
            spoil(root / "cohort" / case.case_id, number)
    sheets = [pd.read_csv(root / name / "sites.csv") for name in ("labelled", "cohort")]
    pd.concat(sheets).to_csv(root / "sites.csv", index=False)


def spoil(folder: Path, number: int) -> None:
    """Bury every image in noise, or show the native image as the one after contrast."""
    rng = np.random.default_rng(number)
    t1n = nibabel.load(folder / f"{folder.name}-t1n.nii.gz")
    if number % 2:
        nibabel.save(t1n, folder / f"{folder.name}-t1c.nii.gz")
        return
    for path in sorted(folder.glob("*-t*.nii.gz")):
        image = nibabel.load(path)
        data = np.asarray(image.dataobj).astype(float)
        inside = data > 0
        data[inside] += rng.normal(0, 0.25 * data[inside].mean(), inside.sum())
        nibabel.save(nibabel.Nifti1Image(np.where(inside, data.clip(1), 0).astype(np.int16), image.affine), path)


def quality(out: Path, gates: GatesConfig) -> dict[str, object]:
    """Scores against the truth of what a setting of gates keeps and of what it refuses."""
    store = RunStore(str(out))
    decisions = read_stored(store).decide(gates)
    regions = read_table(store, "regions").to_pandas().set_index("case_id")
    kept, refused = decisions.index[decisions["accepted"]], decisions.index[~decisions["accepted"]]
    return {
        "kept": len(kept),
        **{f"{region}_dice_kept": mean_dice(regions, region, kept) for region in ("WT", "TC", "ET")},
        **{f"{region}_dice_refused": mean_dice(regions, region, refused) for region in ("WT", "TC", "ET")},
    }


def mean_dice(regions: pd.DataFrame, region: str, case_ids: pd.Index) -> float | None:
    """Mean Dice of a region over some cases; both empty counts as 1."""
    rows = regions[regions["region"] == region].reindex(case_ids)
    scores = rows["dice"].where(rows["null_reason"] != "both_empty", 1.0)
    return round(float(scores.mean()), 4) if len(scores) else None


def nnunet(root: Path) -> dict[str, object]:
    """nnU-Net's own verdict on the dataset."""
    places = {"nnUNet_raw": "out", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    environment = {**os.environ, **{name: str(root / place) for name, place in places.items()}}
    command = [Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess"), "-d", "603", "-c", "3d_fullres"]
    command += ["--verify_dataset_integrity", "-npfp", "2", "-np", "2"]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    preprocessed = [*(root / "preprocessed" / "Dataset603_BraTS" / "nnUNetPlans_3d_fullres").glob("*.pkl")]
    return {
        "exit_code": done.returncode,
        "integrity_check_passed": "verify_dataset_integrity Done" in done.stdout,
        "preprocessed_cases": len(preprocessed),
        "elapsed_s": round(time.monotonic() - started, 1),
    }


if __name__ == "__main__":
    main()
