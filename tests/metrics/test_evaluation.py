"""The rows that scoring a case makes: their columns, what is refused, and where lesions lie."""

import math

import numpy as np
import pytest

from goat_ray.errors import CaseError, Category
from goat_ray.imaging.nifti import Grid
from goat_ray.metrics.evaluation import score_case
from goat_ray.metrics.specs import SPECS, RegionPolicy, Spec
from tests.metrics.maps import ET, NETC, RC, SNFH, grid_of, score, spec_of_et, volume

ABOUT = ["region", "spec", "official", "penalised", "region_labels"]
WHOLE = [
    "gt_volume_vox", "gt_volume_mm3", "gt_empty", "pred_volume_vox", "pred_volume_mm3", "pred_empty", "null_reason",
    "dice", "nsd_0_5", "nsd_1_0", "hd95_mm", "hd95_penalty_mm", "sensitivity", "specificity", "precision",
]  # fmt: skip
COUNTS = ["n_gt", "n_pred", "tp", "fp", "fn"]
LESIONWISE = ["n_gt_scored", "n_gt_ignored", "lw_dice", "lw_nsd_0_5", "lw_nsd_1_0", "lw_hd95_mm", "lw_hd95_found_mm"]
ON_IDS = ["official_hd95_mm", "official_sensitivity", "official_specificity"]
ONE_TO_ONE = [
    "match_precision", "match_recall", "match_f1", "sq_dice", "sq_dice_std", "sq_nsd", "sq_nsd_std", "sq_hd95_mm",
    "sq_hd95_std_mm", "official_global_nsd", "official_global_hd95_vox",
]  # fmt: skip
LESION = [
    "region", "spec", "kind", "lesion_id", "n_components", "scored", "detected", "pred_ids", "n_pred",
    "pred_volume_mm3", "intersection_mm3", "dice", "iou", "nsd_0_5", "nsd_1_0", "hd95_mm", "hd95_scored_mm",
    "shares_prediction", "shell_match_only", "sq_nsd", "sq_hd95_mm", "volume_vox", "volume_mm3", "centroid_i",
    "centroid_j", "centroid_k", "centroid_x_mm", "centroid_y_mm", "centroid_z_mm", "bbox_i0", "bbox_i1", "bbox_j0",
    "bbox_j1", "bbox_k0", "bbox_k1", "equiv_diameter_mm",
]  # fmt: skip

REFERENCE = volume(((3, 4, 5), (8, 7, 6), SNFH), ((5, 6, 7), 4, ET), ((6, 7, 8), 2, NETC), ((16, 16, 16), 4, ET))
PREDICTION = volume(((4, 4, 5), (8, 7, 6), SNFH), ((6, 6, 7), 4, ET), ((16, 2, 16), 4, ET))
ON_IDS_SPECS = ["goat2025-gli", "goat2025-met", "goat2025-ped", "goat2025-ssa"]


# --- rows


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("is_empty", [False, True])
def test_rows_have_the_columns_of_the_tables_whatever_the_case(name, is_empty):
    nothing = np.zeros_like(REFERENCE)
    pair = (nothing, nothing) if is_empty else (REFERENCE, PREDICTION)
    found = score_case(*pair, grid_of(REFERENCE), SPECS[name])
    kind = ONE_TO_ONE if SPECS[name].matching == "one-to-one" else LESIONWISE
    for row in found.regions:
        assert sorted(row) == sorted([*ABOUT, *WHOLE, *COUNTS, *kind])
    for row in found.lesions:
        assert sorted(row) == sorted(LESION)
    assert bool(found.lesions) != is_empty


@pytest.mark.parametrize("name", SPECS)
def test_official_numbers_are_only_added_where_the_organisers_confused_ids_with_masks(name):
    plain = score_case(REFERENCE, PREDICTION, grid_of(REFERENCE), SPECS[name])
    found = score_case(REFERENCE, PREDICTION, grid_of(REFERENCE), SPECS[name], official=True)
    assert found.lesions == plain.lesions
    for row, plain_row in zip(found.regions, plain.regions, strict=True):
        more = row.keys() - plain_row.keys()
        assert sorted(more) == (ON_IDS if name in ON_IDS_SPECS else [])
        assert {column: value for column, value in row.items() if column not in more} == plain_row


@pytest.mark.parametrize("name", SPECS)
def test_regions_come_in_the_specs_order_and_lesions_by_region(name):
    spec = SPECS[name]
    found = score_case(REFERENCE, PREDICTION, grid_of(REFERENCE), spec)
    assert [row["region"] for row in found.regions] == list(spec.regions)
    assert [row["region_labels"] for row in found.regions] == [list(p.labels) for p in spec.regions.values()]
    assert [row["official"] for row in found.regions] == [region in spec.official_regions for region in spec.regions]
    assert {row["spec"] for row in (*found.regions, *found.lesions)} == {name}
    regions = [row["region"] for row in found.lesions]
    assert regions == sorted(regions, key=list(spec.regions).index)


@pytest.mark.parametrize("name", SPECS)
def test_rows_count_the_lesions_that_are_listed(name):
    found = score_case(REFERENCE, PREDICTION, grid_of(REFERENCE), SPECS[name])
    for row in found.regions:
        lesions = [lesion for lesion in found.lesions if lesion["region"] == row["region"]]
        assert row["n_gt"] == sum(lesion["kind"] == "gt" for lesion in lesions)
        assert row["fp"] == sum(lesion["kind"] == "fp" for lesion in lesions)
        assert row["gt_volume_vox"] == sum(lesion["volume_vox"] for lesion in lesions if lesion["kind"] == "gt")


def test_values_are_plain_so_that_tables_and_json_take_them():
    plain = (str, bool, int, float, list, tuple, type(None))
    for name in SPECS:
        found = score_case(REFERENCE, PREDICTION, grid_of(REFERENCE), SPECS[name], official=True)
        strange = {
            (column, type(value))
            for row in (*found.regions, *found.lesions)
            for column, value in row.items()
            if not isinstance(value, plain)
        }
        assert not strange


def test_no_number_is_infinite_or_not_a_number():
    for name in SPECS:
        for pair in ((REFERENCE, PREDICTION), (REFERENCE, np.zeros_like(REFERENCE)), (PREDICTION * 0, PREDICTION)):
            found = score_case(*pair, grid_of(REFERENCE), SPECS[name], official=True)
            numbers = [v for row in (*found.regions, *found.lesions) for v in row.values() if isinstance(v, float)]
            assert all(math.isfinite(number) for number in numbers)


# --- labels


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("which", ["reference", "prediction"])
def test_a_label_that_the_spec_does_not_know_is_a_fault_of_the_case(name, which):
    strange = SPECS[name].max_label + 1
    maps = {"reference": REFERENCE, "prediction": PREDICTION, which: volume(((1, 1, 1), 1, strange))}
    with pytest.raises(CaseError, match=f"the {which} holds label {strange}, but {name} takes 0 to") as caught:
        score_case(*maps.values(), grid_of(REFERENCE), SPECS[name])
    assert caught.value.category is Category.INVALID_LABELS
    assert caught.value.hint


def test_label_4_is_no_tumour_in_2023_and_a_resection_cavity_in_gli_2025():
    reference = np.where(PREDICTION == 0, volume(((18, 18, 4), 4, RC)), REFERENCE)
    without = np.where(reference == RC, 0, reference).astype(np.uint8)
    spec = SPECS["brats2023-gli"]
    assert score_case(reference, PREDICTION, grid_of(reference), spec) == score_case(
        without, PREDICTION, grid_of(reference), spec
    )
    regions, lesions = score(reference, reference, SPECS["goat2025-gli"])
    assert (regions["RC"].n_gt, regions["RC"].gt_volume_vox, regions["RC"].lw_dice) == (1, 64, 1)
    assert regions["WT"].gt_volume_vox == np.count_nonzero(without)
    assert [lesion.volume_vox for lesion in lesions if lesion.region == "RC"] == [64]


def test_ped_reads_label_1_as_enhancing():
    labels = volume(((4, 4, 4), 4, NETC))
    regions, _ = score(labels, labels, SPECS["goat2025-ped"])
    assert (regions["ET"].gt_volume_vox, regions["NETC"].gt_volume_vox, regions["TC"].gt_volume_vox) == (64, 0, 64)


def test_a_spec_of_ones_own_may_name_any_region():
    spec = Spec(
        name="cyst",
        max_label=7,
        regions={"cyst": RegionPolicy(labels=(7,)), "all": RegionPolicy(labels=(7, 2), dilation_vox=0)},
    )
    labels = volume(((4, 4, 4), 4, 7), ((14, 14, 14), 4, SNFH))
    regions, _ = score(labels, labels, spec)
    assert {name: region.n_gt for name, region in regions.items()} == {"cyst": 1, "all": 2}


# --- where lesions lie


def test_a_lesion_row_tells_volume_and_place_of_a_known_box():
    # First axis to the left in steps of 2 mm, second to the top in 3, third to the front in 0.5.
    affine = np.array([[-2, 0, 0, 90], [0, 0, 0.5, -20], [0, 3, 0, 5], [0, 0, 0, 1.0]])
    reference = volume(((6, 9, 11), (5, 3, 2), ET), shape=(20, 18, 16))
    prediction = volume(((0, 0, 14), (1, 2, 2), ET), shape=(20, 18, 16))
    found = score_case(reference, prediction, Grid(reference.shape, affine), spec_of_et())
    lesion, false = found.lesions
    assert (lesion["kind"], lesion["volume_vox"], lesion["volume_mm3"]) == ("gt", 30, 90)
    assert [lesion[f"centroid_{axis}"] for axis in "ijk"] == [8, 10, 11.5]
    assert [lesion[f"centroid_{axis}_mm"] for axis in "xyz"] == [90 - 16, -20 + 5.75, 5 + 30]
    assert [lesion[f"bbox_{end}"] for end in ("i0", "i1", "j0", "j1", "k0", "k1")] == [6, 11, 9, 12, 11, 13]
    assert lesion["equiv_diameter_mm"] == pytest.approx((6 * 90 / math.pi) ** (1 / 3))
    assert (false["kind"], false["volume_vox"], false["volume_mm3"]) == ("fp", 4, 12)
    assert [false[f"centroid_{axis}"] for axis in "ijk"] == [0, 0.5, 14.5]
    assert [false[f"centroid_{axis}_mm"] for axis in "xyz"] == [90, -20 + 7.25, 5 + 1.5]
    assert [false[f"bbox_{end}"] for end in ("i0", "i1", "j0", "j1", "k0", "k1")] == [0, 1, 0, 2, 14, 16]


def test_the_spacing_that_the_file_stores_counts_for_scores_as_it_does_for_the_organisers():
    labels, pixdim = volume(((4, 4, 4), 3, ET)), tuple(np.float32([1, 1, 1.2]).tolist())
    shifted = volume(((4, 4, 5), 3, ET))
    for grid in (grid_of(labels, (1, 1, 1.2)), Grid(labels.shape, np.diag([1, 1, 1.2, 1]), pixdim)):
        (region,) = score_case(labels, shifted, grid, spec_of_et()).regions
        assert region["hd95_mm"] == pixdim[2] != 1.2
        assert region["gt_volume_mm3"] == pytest.approx(27 * pixdim[2], rel=1e-15)


@pytest.mark.parametrize("start", [(0, 0, 0), (21, 21, 21), (0, 21, 10)])
def test_a_lesion_at_the_border_scores_as_anywhere_else(start):
    middle, edge = volume(((10, 10, 10), 3, ET)), volume((start, 3, ET))
    (expected,), (region,) = (score_case(m, m, grid_of(m), spec_of_et()).regions for m in (middle, edge))
    assert region == expected
    (lesion,) = score_case(edge, edge, grid_of(edge), spec_of_et()).lesions
    assert [lesion[f"bbox_{axis}0"] for axis in "ijk"] == list(start)


def test_maps_may_be_in_any_memory_order_and_stay_as_they_are():
    expected = score_case(REFERENCE, PREDICTION, grid_of(REFERENCE), SPECS["goat2025-gli"], official=True)
    layouts = (
        np.asfortranarray,
        lambda a: np.ascontiguousarray(a[::-1, :, ::-1])[::-1, :, ::-1],
        lambda a: np.ascontiguousarray(a.transpose(1, 2, 0)).transpose(2, 0, 1),
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    )
    for first in layouts:
        for second in layouts:
            pair = first(REFERENCE), second(PREDICTION)
            for array in pair:
                array.flags.writeable = False
            assert score_case(*pair, grid_of(REFERENCE), SPECS["goat2025-gli"], official=True) == expected


# --- numbers that the organisers got wrong


def test_official_values_are_right_for_one_lesion_and_wrong_for_two():
    cube, other = ((4, 4, 4), 3, ET), ((16, 16, 16), 3, ET)
    one, two = volume(cube), volume(cube, other)
    et = score(one, one, SPECS["goat2025-met"], official=True)[0]["ET"]
    assert (et.official_sensitivity, et.official_specificity, et.official_hd95_mm) == (1, 1, 0)
    et = score(two, two, SPECS["goat2025-met"], official=True)[0]["ET"]
    assert (et.sensitivity, et.specificity, et.hd95_mm) == (1, 1, 0)
    # Only lesion 1 is a hit, out of 27 voxels that count once and 27 that count twice.
    assert et.official_sensitivity == pytest.approx(1 / 3)
    neither = 24**3 - 27
    assert et.official_specificity == pytest.approx(neither / (neither + 54))


def test_the_official_hd95_takes_the_inside_of_a_second_lesion_for_surface():
    cube = ((8, 8, 8), 10, ET)
    et = score(volume(((2, 2, 2), 1, ET), cube), volume(cube), SPECS["goat2025-met"], official=True)[0]["ET"]
    assert et.hd95_mm == 0
    # The 729 cells inside the cube, numbered 2, have code 2 · 255 modulo 256 and with it the area of a blunt corner.
    # The 125 of them deeper than 2 mm are less than 5 % of the area, together with the next 218 they are more.
    inside, surface = math.sqrt(3) / 8, 6 * 81 + 12 * 9 * math.sqrt(0.5) + 2 * math.sqrt(3)
    total = surface + 729 * inside
    assert 125 * inside < 0.05 * total < 343 * inside
    assert et.official_hd95_mm == 2


def test_the_official_hd95_is_nothing_where_one_side_is_empty_and_zero_where_both_are():
    cube, nothing = volume(((4, 4, 4), 3, ET)), volume()
    for pair, hd95_mm, sensitivity in (((cube, nothing), None, 0), ((nothing, cube), None, 0), ((nothing,) * 2, 0, 1)):
        et = score(*pair, SPECS["goat2025-met"], official=True)[0]["ET"]
        assert et.official_hd95_mm == hd95_mm
        assert et.official_sensitivity == sensitivity
