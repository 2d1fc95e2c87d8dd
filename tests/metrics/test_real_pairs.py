"""Real label pairs: every number that the official BraTS-2023 script gives for them."""

import csv
from collections import defaultdict

import numpy as np
import pytest

from goat_ray.imaging.nifti import decode_labels
from goat_ray.metrics.evaluation import score_case
from goat_ray.metrics.specs import SPECS

PAIRS = [
    "BraTS-GLI-01478-000_empty",
    "BraTS-GLI-01478-000_identity",
    "BraTS-GLI-01478-000_labels_1_2_swapped",
    "BraTS-GLI-01478-000_shift2",
    "BraTS-GLI-01478-000_spurious_ET_blob",
    "Brats18_2013_2_1_empty",
    "Brats18_2013_2_1_shift2",
    "Brats18_2013_2_1_spurious_ET_blob",
    "GLI-00001-000_isen-vs-BraTS23_1",
    "TCGA-FG-6692_hnfnetv1-20-vs-fusion",
    "TCGA-FG-6692_isen-20-vs-fusion",
    "TCGA-FG-6692_scan-20-vs-fusion",
]

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def golden(data_root):
    """The script's table by pair and region."""
    table = defaultdict(dict)
    with (data_root / "pairs" / "golden_brats2023_lesionwise.csv").open() as file:
        for row in csv.DictReader(file):
            place = row.pop("pair"), row.pop("Labels")
            del row["reference"], row["prediction"]
            table[place[0]][place[1]] = {column: float(value) for column, value in row.items()}
    return table


def read_labels(path):
    return decode_labels(path.read_bytes(), path.name)


def official_columns(row):
    return {
        "Num_TP": row["tp"],
        "Num_FP": row["fp"],
        "Num_FN": row["fn"],
        "Sensitivity": row["sensitivity"],
        "Specificity": row["specificity"],
        "Legacy_Dice": row["dice"],
        "Legacy_HD95": row["hd95_penalty_mm"] if row["hd95_mm"] is None else row["hd95_mm"],
        "GT_Complete_Volume": row["gt_volume_mm3"],
        "LesionWise_Score_Dice": row["lw_dice"],
        "LesionWise_Score_HD95": row["lw_hd95_mm"],
    }


def test_every_pair_is_compared(golden):
    assert sorted(golden) == sorted(PAIRS)
    assert all(regions.keys() == {"WT", "TC", "ET"} for regions in golden.values())


@pytest.mark.parametrize("pair", PAIRS)
def test_a_real_pair_scores_as_by_the_official_script(pair, golden, data_root):
    reference, its_grid = read_labels(data_root / "pairs" / pair / "reference.nii.gz")
    prediction, grid = read_labels(data_root / "pairs" / pair / "prediction.nii.gz")
    np.testing.assert_allclose(grid.affine, its_grid.affine)
    score = score_case(reference, prediction, grid, SPECS["brats2023-gli"])
    found = {row["region"]: official_columns(row) for row in score.regions if row["official"]}
    assert found == {region: pytest.approx(columns, rel=0, abs=1e-9) for region, columns in golden[pair].items()}
