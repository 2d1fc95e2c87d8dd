"""A whole training set: sixty unlabelled and twenty labelled phantoms, three embedded teachers, nnU-Net's verdict."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from goat_ray.demo.cohort import DemoCase, write_demo_cohort
from goat_ray.demo.phantoms import BENCHMARK_SEEDS
from goat_ray.pipeline.pseudolabel import PseudoLabelSummary
from goat_ray.pseudolabel.config import PseudoLabelConfig
from tests.cohorts import embedded_with_small_windows
from tests.inline import pseudo_label_inline

N_LABELLED, N_UNLABELLED = 20, 60
COPIED, IN_PLACE = "Dataset603_BraTS", "Dataset604_InPlace"
TUMOURS = ("large_glioma", "small_metastases", "meningioma_like", "no_enhancing")


@dataclass(frozen=True)
class Made:
    """What was made, and where."""

    config: PseudoLabelConfig
    summary: PseudoLabelSummary

    @property
    def provenance(self) -> pd.DataFrame:
        return pq.read_table(Path(self.config.out) / COPIED / "provenance.parquet").to_pandas()


def phantoms(name: str, seeds: range) -> list[DemoCase]:
    sites = "north", "south", "island"
    return [
        DemoCase(f"{name}-{number:03d}", seed, TUMOURS[number % 4], sites[number % 3])
        for number, seed in enumerate(seeds)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("made")
    seeds = BENCHMARK_SEEDS[: N_LABELLED + N_UNLABELLED]
    write_demo_cohort(root / "labelled", phantoms("expert", seeds[:N_LABELLED]), (32, 36, 30))
    write_demo_cohort(root / "cohort", phantoms("hospital", seeds[N_LABELLED:]), (32, 36, 30))
    config = PseudoLabelConfig.model_validate(
        {
            "cohort": str(root / "cohort"),
            "labelled": str(root / "labelled"),
            "ensemble": str(embedded_with_small_windows(root / "ensemble")),
            "members": ("ResNetM", "ResNetL", "ResNetXL"),
            "out": str(root / "out"),
            "gates": {"preset": "strict"},
        }
    )
    return Made(config, pseudo_label_inline(config))


def test_every_case_is_in_the_dataset_or_has_a_reason(made: Made) -> None:
    kept, refused = made.summary.kept, made.summary.refused
    assert made.summary.failed == 0
    assert kept["human"] == N_LABELLED
    assert kept["pseudo"] + refused["gate"] == N_UNLABELLED
    assert len(made.provenance) == N_LABELLED + N_UNLABELLED


@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
def test_what_the_strict_gates_keep_is_closer_to_the_truth(made: Made, region: str) -> None:
    provenance = made.provenance.set_index("case_id")
    regions = pq.read_table(Path(made.config.out) / "tables" / "regions.parquet").to_pandas().set_index("case_id")
    dice = regions.loc[regions["region"] == region, "dice"].dropna()
    is_kept = provenance.loc[dice.index, "accepted"].astype(bool)
    assert np.minimum(is_kept.sum(), (~is_kept).sum()) >= 10
    assert dice[is_kept].mean() > dice[~is_kept].mean() + 0.03


def test_nnunet_verifies_plans_and_preprocesses_both_forms(made: Made, tmp_path: Path) -> None:
    in_place = made.config.model_copy(update={"form": "in-place", "dataset": IN_PLACE})
    assert pseudo_label_inline(in_place).kept == made.summary.kept
    places = {"nnUNet_raw": made.config.out, "nnUNet_preprocessed": tmp_path / "p", "nnUNet_results": tmp_path / "r"}
    done = subprocess.run(
        [sys.executable, "-c", PREPROCESS],
        env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(place) for name, place in places.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("verify_dataset_integrity Done") == 2
    assert "Error" not in done.stdout
    kept = {*made.provenance.loc[made.provenance["accepted"], "case_id"]}
    for name in (COPIED, IN_PLACE):
        assert {path.stem for path in (tmp_path / "p" / name / "nnUNetPlans_3d_fullres").glob("*.pkl")} == kept


# nnU-Net's own program, with threads in place of its process pools: each process would import all of it again. And its
# intensity statistics from few voxels: it draws a hundred million, with replacement where there are not so many.
PREPROCESS = """
import multiprocessing.pool
import sys

class Threads:
    Pool = staticmethod(multiprocessing.pool.ThreadPool)

multiprocessing.get_context = lambda method=None: Threads
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry

start = DatasetFingerprintExtractor.__init__
def start_with_few_voxels(self, *arguments, **settings):
    start(self, *arguments, **settings)
    self.num_foreground_voxels_for_intensitystats = 10_000
DatasetFingerprintExtractor.__init__ = start_with_few_voxels
sys.argv = ["plan", "-d", "603", "604", "-c", "3d_fullres", "--verify_dataset_integrity", "-npfp", "1", "-np", "1"]
plan_and_preprocess_entry()
"""
