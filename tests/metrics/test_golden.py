"""Every number that the organisers' programs gave for the golden scenes, within 1e-9; see golden/README.md."""

import gzip
import hashlib
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from goat_ray.errors import CaseError, Category
from goat_ray.imaging.nifti import Grid
from goat_ray.metrics.evaluation import score_case
from goat_ray.metrics.specs import SPECS, Spec
from tests.metrics.golden.scenes import MAKERS, scene

FOLDER = Path(__file__).parent / "golden"
TOLERANCE = 1e-9
HOW_MANY = {2023: 13_554, 2025: 35_528, 2026: 22_745}
"""Numbers in each file, all of which are compared."""


def read(year):
    return json.loads(gzip.decompress((FOLDER / f"golden_{year}.json.gz").read_bytes()))


CASES = json.loads((FOLDER / "cases.json").read_text())
GOLDEN = {year: read(year) for year in HOW_MANY}
SPEC_OF = {
    2023: {f"BraTS-{cohort}": SPECS[f"brats2023-{cohort.lower()}"] for cohort in ("GLI", "MEN", "MET")},
    2025: {f"BraTS-{cohort}": SPECS[f"goat2025-{cohort.lower()}"] for cohort in ("GLI", "MEN", "MET", "PED", "SSA")},
    2026: {
        "GoAT": SPECS["brats2026-goat"],
        "gli": Spec(
            name="brats2026-gli",
            matching="one-to-one",
            max_label=4,
            hd95_penalty=373,
            missing_penalty=373,
            regions={
                region: {"labels": labels, "dilation_vox": 0, "min_volume_mm3": 0}
                for region, labels in {
                    "WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,), "SNFH": (2,), "RC": (4,),
                }.items()
            },
        ),
    },
}  # fmt: skip
REFUSED = [name for name, found in GOLDEN[2026]["results"].items() if "error" in found["GoAT"]["raw"]]


def score(name, spec):
    """Score a scene; nibabel, too, hands out arrays in Fortran order."""
    made = scene(name)
    grid = Grid(made.reference.shape, np.diag([*made.spacing_mm, 1.0]))
    return score_case(np.asfortranarray(made.reference), np.asfortranarray(made.prediction), grid, spec, official=True)


def assert_same(ours, golden):
    """Both map the place of a number to the number."""
    assert ours.keys() == golden.keys()
    wrong = {place: (ours[place], number) for place, number in golden.items() if not is_same(ours[place], number)}
    assert not wrong


def is_same(ours, golden):
    if isinstance(golden, tuple):
        return ours == golden
    return ours == golden or abs(ours - golden) <= TOLERANCE or (math.isnan(ours) and math.isnan(golden))


def instead(value, substitute):
    return substitute if value is None else value


# --- 2023 and 2025


def pred_components(ids, spec):
    """What a reference lesion meets: the predicted ids, or how many where the program numbers them in its own order."""
    return tuple(ids) if spec.legacy_on_ids else len(ids)


def golden_lesionwise(year, name, challenge):
    columns, lesion_columns = GOLDEN[year]["region_columns"], GOLDEN[year]["lesion_columns"]
    found = GOLDEN[year]["results"][name][challenge]
    numbers = {}
    for row in found["regions"]:
        for column, value in list(zip(columns, row, strict=True))[1:]:
            numbers[row[0], column] = float(value)
    for row in found.get("lesions", []):
        for column, value in list(zip(lesion_columns, row, strict=True))[2:]:
            is_list = column == "pred_components"
            number = pred_components(value, SPEC_OF[year][challenge]) if is_list else float(value)
            numbers[row[0], f"lesion {row[1]}", column] = number
    return numbers


def our_lesionwise(score, spec, year, *, with_lesions):
    numbers = {}
    for row in score.regions:
        if row["official"]:
            numbers |= {(row["region"], column): value for column, value in region_columns(row, spec).items()}
    official = set(spec.official_regions)
    for lesion in score.lesions if with_lesions else ():
        if lesion["kind"] == "gt" and lesion["region"] in official:
            place = lesion["region"], f"lesion {lesion['lesion_id']}"
            numbers |= {(*place, column): value for column, value in lesion_columns(lesion, spec, year).items()}
    return numbers


def region_columns(row, spec):
    """A row of `regions` under the organisers' names; None becomes what they have in its place."""
    is_both_empty = row["null_reason"] == "both_empty"
    perfect, nearest = (1.0, 0.0) if is_both_empty else (0.0, row["hd95_penalty_mm"])
    official = "official_" if spec.legacy_on_ids else ""
    columns = {
        "Num_TP": row["tp"],
        "Num_FP": row["fp"],
        "Num_FN": row["fn"],
        "Sensitivity": instead(row[f"{official}sensitivity"], perfect),
        "Specificity": instead(row[f"{official}specificity"], 0.0),
        "Legacy_Dice": instead(row["dice"], 1.0),
        "Legacy_HD95": instead(row[f"{official}hd95_mm"], nearest),
        "GT_Complete_Volume": row["gt_volume_mm3"],
        "LesionWise_Score_Dice": row["lw_dice"],
        "LesionWise_Score_HD95": row["lw_hd95_mm"],
    }
    if spec.official_nsd:
        columns |= {
            "Legacy NSD @ 0.5": instead(row["nsd_0_5"], 1.0),
            "Legacy NSD @ 1.0": instead(row["nsd_1_0"], 1.0),
            "LesionWise_Score_NSD @ 0.5": row["lw_nsd_0_5"],
            "LesionWise_Score_NSD @ 1.0": row["lw_nsd_1_0"],
        }
    return columns


def lesion_columns(lesion, spec, year):
    columns = {
        "pred_components": pred_components(lesion["pred_ids"], spec),
        "gt_volume_mm3": lesion["volume_mm3"],
        "dice": lesion["dice"],
        "hd95": lesion["hd95_scored_mm"] if year == 2025 else instead(lesion["hd95_mm"], math.inf),
    }
    if spec.official_nsd:
        columns |= {"nsd05": lesion["nsd_0_5"], "nsd10": lesion["nsd_1_0"]}
    return columns


def check_lesionwise(year, name):
    for challenge, found in GOLDEN[year]["results"][name].items():
        spec = SPEC_OF[year][challenge]
        ours = our_lesionwise(score(name, spec), spec, year, with_lesions="lesions" in found)
        assert_same(ours, golden_lesionwise(year, name, challenge))


# --- 2026


def golden_one_to_one(name, config):
    found = GOLDEN[2026]["results"][name][config]
    numbers = {column: float(value) for column, value in found["csv_row"].items()}
    for region, raw in found["raw"].items():
        facts = dict(raw)
        instances = facts.pop("reference_instances", [])
        numbers |= {(region, fact): float(value) for fact, value in facts.items()}
        numbers |= numbered(region, instances)
    return numbers


def numbered(region, instances):
    """Facts of each instance; the program has them in an order of its own."""
    ordered = sorted(instances, key=lambda facts: (len(facts), [round(facts[fact], 6) for fact in sorted(facts)]))
    return {(region, f"instance {i}", fact): facts[fact] for i, facts in enumerate(ordered) for fact in facts}


def our_one_to_one(score, *, with_instances):
    numbers = {}
    for row in (row for row in score.regions if row["official"]):
        region = row["region"].lower()
        lesions = [lesion for lesion in score.lesions if lesion["region"] == row["region"] and lesion["kind"] == "gt"]
        raw = raw_facts(row, lesions)
        numbers |= {(region, fact): value for fact, value in raw.items()}
        if with_instances:
            numbers |= numbered(region, [instance_facts(lesion) for lesion in lesions])
        numbers |= {f"{column}_{region}": value for column, value in csv_columns(raw).items()}
    return numbers


def raw_facts(row, lesions):
    """A row of `regions` under panoptica's names: not a number where both maps are empty, infinite without a match."""
    is_both_empty = row["null_reason"] == "both_empty"
    undefined_distance = math.nan if is_both_empty else math.inf
    matched_vox = [lesion["volume_vox"] for lesion in lesions if lesion["detected"]]
    matched_mm3 = [lesion["volume_mm3"] for lesion in lesions if lesion["detected"]]
    facts = {
        "n_ref_instances": row["n_gt"],
        "n_pred_instances": row["n_pred"],
        "tp": row["tp"],
        "fp": row["fp"],
        "fn": row["fn"],
        "prec": row["match_precision"],  # left out by the program, too, where undefined
        "rec": row["match_recall"],
        "rq": instead(row["match_f1"], math.nan),
        "sq_dsc": instead(row["sq_dice"], math.nan),
        "sq_dsc_std": instead(row["sq_dice_std"], math.nan),
        "pq_dsc": math.nan if is_both_empty else row["match_f1"] * row["sq_dice"],
        "sq_hd95": instead(row["sq_hd95_mm"], undefined_distance),
        "sq_hd95_std": instead(row["sq_hd95_std_mm"], math.nan),
        "sq_nsd": instead(row["sq_nsd"], math.nan),
        "sq_nsd_std": instead(row["sq_nsd_std"], math.nan),
        "instance_voxel_count_ref": statistics.fmean(matched_vox) if matched_vox else math.nan,
        "instance_volume_ref": statistics.fmean(matched_mm3) if matched_mm3 else math.nan,
        "global_bin_volume_pred": row["pred_volume_vox"],
        "global_bin_volume_ref": row["gt_volume_vox"],
        "global_bin_dsc": instead(row["dice"], math.nan),
        "global_bin_hd95": instead(row["official_global_hd95_vox"], undefined_distance),
        "global_bin_nsd": instead(row["official_global_nsd"], math.nan),
    }
    return {fact: value for fact, value in facts.items() if value is not None}


def instance_facts(lesion):
    facts = {"voxel_count": lesion["volume_vox"], "volume": lesion["volume_mm3"], "is_matched": int(lesion["detected"])}
    if lesion["detected"]:
        facts |= {"sq_dsc": lesion["dice"], "sq_hd95": lesion["sq_hd95_mm"], "sq_nsd": lesion["sq_nsd"]}
    return facts


def csv_columns(raw):
    """The raw result as BraTS_evaluation writes it, the one infinity that it replaces included."""
    return {
        "all_instance_tp": raw["tp"],
        "all_instance_fp": raw["fp"],
        "all_instance_fn": raw["fn"],
        "all_instance_prec": raw.get("prec", math.nan),
        "all_instance_rec": raw.get("rec", math.nan),
        "all_instance_f1": raw["rq"],
        "global_dsc": raw["global_bin_dsc"],
        "global_nsd": raw["global_bin_nsd"],
        "global_hd95": 373.0 if math.isinf(raw["global_bin_hd95"]) else raw["global_bin_hd95"],
        **{
            f"lesionwise_{ours}_{ending}": raw[f"sq_{theirs}"]
            for score in ("dsc", "nsd", "hd95")
            for ours, ending, theirs in ((score, "mean", score), (score, "std", f"{score}_std"))
        },
    }


def check_one_to_one(name, config):
    with_instances = all("reference_instances" in raw for raw in GOLDEN[2026]["results"][name][config]["raw"].values())
    ours = our_one_to_one(score(name, SPEC_OF[2026][config]), with_instances=with_instances)
    assert_same(ours, golden_one_to_one(name, config))


# --- the tests


@pytest.mark.parametrize("name", CASES)
def test_a_scene_is_the_one_that_the_programs_were_run_on(name):
    made = scene(name)
    for key, array in (("sha256_gt", made.reference), ("sha256_pred", made.prediction)):
        assert hashlib.sha256(array.tobytes()).hexdigest() == CASES[name][key]
    assert list(made.spacing_mm) == CASES[name]["spacing_mm"]


@pytest.mark.parametrize("name", GOLDEN[2023]["results"])
def test_every_number_of_2023_is_reproduced(name):
    check_lesionwise(2023, name)


@pytest.mark.parametrize("name", GOLDEN[2025]["results"])
def test_every_number_of_2025_is_reproduced_wrong_ones_included(name):
    check_lesionwise(2025, name)


@pytest.mark.parametrize("name", [name for name in GOLDEN[2026]["results"] if name not in REFUSED])
def test_every_number_of_goat_2026_is_reproduced(name):
    check_one_to_one(name, "GoAT")


@pytest.mark.parametrize("name", GOLDEN[2026]["results"])
def test_every_number_of_gli_2026_is_reproduced(name):
    check_one_to_one(name, "gli")


@pytest.mark.parametrize("name", REFUSED)
def test_goat_2026_refuses_label_4_as_the_program_does(name):
    with pytest.raises(CaseError, match="label 4") as caught:
        score(name, SPECS["brats2026-goat"])
    assert caught.value.category is Category.INVALID_LABELS


def test_no_golden_number_is_left_out():
    lesionwise = {
        year: sum(
            len(golden_lesionwise(year, name, challenge))
            for name, found in GOLDEN[year]["results"].items()
            for challenge in found
        )
        for year in (2023, 2025)
    }
    one_to_one = sum(
        len(golden_one_to_one(name, config))
        for name, found in GOLDEN[2026]["results"].items()
        for config in found
        if not (config == "GoAT" and name in REFUSED)
    )
    assert lesionwise | {2026: one_to_one} == HOW_MANY
    assert len(REFUSED) == 4
    assert list(MAKERS) == list(CASES)
    assert all(found["results"].keys() <= CASES.keys() for found in GOLDEN.values())
