"""What must hold for any pair of label maps, and agreement with a slow and direct reading of the lesion-wise rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, generate_binary_structure, label

from goat_ray.imaging.nifti import Grid
from goat_ray.metrics.evaluation import score_case
from goat_ray.metrics.specs import SPECS, Spec
from tests.metrics.maps import ET, grid_of, volume

SIDE = 24
NEIGHBOURS_18, NEIGHBOURS_26 = generate_binary_structure(3, 2), np.ones((3, 3, 3))

# Joined tissues depend on how lesions are numbered, and with it on the order of the axes: the first contact wins.
WITHOUT_JOIN = ["brats2023-gli", "brats2023-met", "goat2025-men", "goat2025-ped"]

some = settings(max_examples=15, deadline=None, derandomize=True)

SIDES = st.tuples(*[st.integers(1, 7)] * 3)
BOXES = st.tuples(st.tuples(*[st.integers(0, SIDE - 1)] * 3), SIDES, st.sampled_from([0, 1, 2, 3, 3]))
SPACINGS = st.tuples(*[st.sampled_from([0.5, 1.0, 1.5, 3.0])] * 3)


@st.composite
def pairs(draw):
    """A reference and a prediction that have some boxes in common, shifted a little."""
    shift = st.tuples(*[st.integers(-2, 2)] * 3)
    ours, theirs = draw(st.lists(BOXES, max_size=4)), draw(st.lists(BOXES, max_size=2))
    for start, sides, tissue in draw(st.lists(BOXES, min_size=1, max_size=5)):
        by = draw(shift)
        ours.append((start, sides, tissue))
        theirs.append((tuple(max(0, s + b) for s, b in zip(start, by, strict=True)), sides, tissue))
    return volume(*ours), volume(*theirs)


def regions_of(reference, prediction, name, spacing_mm=(1.0, 1.0, 1.0)):
    spec = SPECS[name] if isinstance(name, str) else name
    return score_case(reference, prediction, grid_of(reference, spacing_mm), spec).regions


def same(row):
    """Equal to the row but for rounding."""
    return {
        key: pytest.approx(value, rel=1e-12, abs=1e-12) if isinstance(value, float) else value
        for key, value in row.items()
    }


# --- symmetries


@pytest.mark.parametrize("name", WITHOUT_JOIN)
@some
@given(pair=pairs(), spacing=SPACINGS, order=st.permutations(range(3)), flipped=st.sets(st.integers(0, 2)))
def test_flips_and_orders_of_the_axes_change_no_score(name, pair, spacing, order, flipped):
    turned = [np.flip(labels, tuple(flipped)).transpose(order) for labels in pair]
    turned_spacing = tuple(spacing[axis] for axis in order)
    assert regions_of(*turned, name, turned_spacing) == [same(row) for row in regions_of(*pair, name, spacing)]


@some
@given(pair=pairs(), order=st.permutations(range(3)), flipped=st.sets(st.integers(0, 2)))
def test_flips_and_orders_of_the_axes_change_no_assignment_in_total(pair, order, flipped):
    # Pairs may be assigned in several ways with the same total, so only the total is compared; spacings are equal
    # because the program turns them around.
    turned = [np.flip(labels, tuple(flipped)).transpose(order) for labels in pair]
    unique = ("n_gt", "n_pred", "dice", "hd95_mm", "nsd_0_5", "nsd_1_0")
    for row, expected in zip(regions_of(*turned, "brats2026-goat"), regions_of(*pair, "brats2026-goat"), strict=True):
        assert [row[key] for key in unique] == [pytest.approx(expected[key]) for key in unique]
        assert row["tp"] * (row["sq_dice"] or 0) == pytest.approx(expected["tp"] * (expected["sq_dice"] or 0))


@pytest.mark.parametrize("name", ["brats2023-gli", "goat2025-gli", "brats2026-goat"])
@some
@given(pair=pairs())
def test_memory_order_changes_nothing(name, pair):
    expected = score_case(*pair, grid_of(pair[0]), SPECS[name], official=True)
    mixed = np.asfortranarray(pair[0]), np.ascontiguousarray(pair[1][::-1])[::-1]
    assert score_case(*mixed, grid_of(pair[0]), SPECS[name], official=True) == expected


@some
@given(pair=pairs(), factor=st.sampled_from([0.25, 2.0, 3.0]), spacing=SPACINGS)
def test_distances_grow_with_the_spacing_and_nothing_else_does(pair, factor, spacing):
    # No lesion may be too small, for that is a matter of mm³.
    spec = SPECS["brats2023-gli"]
    regions = {name: p.model_copy(update={"min_volume_mm3": 0}) for name, p in spec.regions.items()}
    spec = spec.model_copy(update={"regions": regions})
    rows, scaled = (regions_of(*pair, spec, spacing), regions_of(*pair, spec, tuple(factor * mm for mm in spacing)))
    for row, larger in zip(rows, scaled, strict=True):
        for key in ("hd95_mm", "lw_hd95_found_mm"):
            assert larger[key] == (None if row[key] is None else pytest.approx(factor * row[key]))
        for key in ("gt_volume_mm3", "pred_volume_mm3"):
            assert larger[key] == pytest.approx(factor**3 * row[key])
        for key in ("lw_dice", "dice", "tp", "fp", "fn", "sensitivity", "specificity", "precision"):
            assert larger[key] == row[key]


@some
@given(pair=pairs(), corner=st.tuples(*[st.integers(0, 5)] * 3))
def test_where_the_tumour_lies_in_a_larger_image_changes_only_specificity(pair, corner):
    # Growth is cut at the border of the image, but what would meet beyond it meets at it as well.
    moved = [np.pad(labels, [(c, 5 - c) for c in corner]) for labels in pair]
    apart = [np.pad(labels, [(5, 5)] * 3) for labels in pair]
    for row, expected in zip(regions_of(*moved, "goat2025-ped"), regions_of(*apart, "goat2025-ped"), strict=True):
        del row["specificity"], expected["specificity"]
        assert row == expected


# --- perfect and worse


@pytest.mark.parametrize("name", WITHOUT_JOIN)
@some
@given(pair=pairs())
def test_a_perfect_prediction_scores_one_with_no_false_lesion(name, pair):
    for row in regions_of(pair[0], pair[0], name):
        assert (row["lw_dice"], row["fp"], row["fn"], row["lw_hd95_mm"]) == (1, 0, 0, 0)
        assert row["tp"] == row["n_gt_scored"]
        assert row["lw_nsd_0_5"] == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("name", ["brats2023-gli", "brats2026-goat"])
@some
@given(pair=pairs())
def test_the_whole_of_a_perfect_prediction_is_perfect_where_none_of_it_is_dropped(name, pair):
    for row in regions_of(pair[0], pair[0], name):
        whole = [row[key] for key in ("dice", "hd95_mm", "sensitivity", "precision")]
        assert whole == ([None] * 4 if row["gt_empty"] else [1, 0, 1, 1])
        assert row["gt_volume_vox"] == row["pred_volume_vox"]


@some
@given(pair=pairs(), spacing=SPACINGS)
def test_a_perfect_prediction_is_matched_lesion_by_lesion(pair, spacing):
    for row in regions_of(pair[0], pair[0], "brats2026-goat", spacing):
        assert row["tp"] == row["n_gt"] == row["n_pred"]
        perfect = [row[key] for key in ("match_f1", "sq_dice", "sq_nsd", "sq_hd95_mm", "official_global_hd95_vox")]
        assert perfect == pytest.approx([1, 1, 1, 0, 0]) if row["n_gt"] else perfect == [None] * 5


@pytest.mark.parametrize("name", ["brats2023-gli", "goat2025-gli", "goat2025-ped"])
@some
@given(pair=pairs())
def test_one_more_false_lesion_far_away_is_one_false_positive_and_no_gain(name, pair):
    reference, prediction = (np.pad(labels, ((0, 20), (0, 0), (0, 0))) for labels in pair)
    worse = prediction.copy()
    worse[SIDE + 14 : SIDE + 20, 2:8, 2:8] = ET
    for row, less in zip(regions_of(reference, prediction, name), regions_of(reference, worse, name), strict=True):
        added = int(ET in row["region_labels"])
        assert less["fp"] == row["fp"] + added
        assert (less["tp"], less["fn"]) == (row["tp"], row["fn"])
        assert less["lw_dice"] <= row["lw_dice"]
        assert less["lw_nsd_1_0"] <= row["lw_nsd_1_0"]
        n = row["n_gt_scored"] + row["fp"]
        assert less["lw_dice"] == pytest.approx(row["lw_dice"] * n / (n + added) if n + added else 1)


# --- the rule, read literally


def slow_lesions(mask, dilation):
    """Masks of the lesions: whatever lies in one component of the grown mask."""
    grown = binary_dilation(mask, NEIGHBOURS_18, dilation) if dilation else mask
    numbered, n = label(grown, NEIGHBOURS_26)
    return [mask & (numbered == i) for i in range(1, n + 1)]


def slow_scores(reference, prediction, policy, voxel_volume_mm3):
    """Lesion-wise Dice, TP, FP and FN, one whole-volume mask at a time."""
    true, predicted = np.isin(reference, policy.labels), np.isin(prediction, policy.labels)
    if policy.min_pred_vox is None:
        found = slow_lesions(predicted, 0)
    else:
        found = [p for p in slow_lesions(predicted, policy.dilation_vox) if p.sum() > policy.min_pred_vox]
    scores, hits, met = [], 0, set()
    for lesion in slow_lesions(true, policy.dilation_vox):
        near = binary_dilation(lesion, NEIGHBOURS_18, policy.dilation_vox)
        matched = [i for i, p in enumerate(found) if (p & near).any()]
        met.update(matched)
        if lesion.sum() * voxel_volume_mm3 <= policy.min_volume_mm3:
            continue
        union = np.any([found[i] for i in matched], axis=0) if matched else np.zeros_like(lesion)
        scores.append(2 * (lesion & union).sum() / (lesion.sum() + union.sum()))
        hits += bool(matched)
    false = len(found) - len(met)
    n = len(scores) + false
    return {"lw_dice": sum(scores) / n if n else 1.0, "tp": hits, "fp": false, "fn": len(scores) - hits}


@pytest.mark.parametrize("name", WITHOUT_JOIN)
@some
@given(pair=pairs(), spacing=SPACINGS)
def test_scores_are_those_of_the_rule_read_literally(name, pair, spacing):
    for row in regions_of(*pair, name, spacing):
        slow = slow_scores(*pair, SPECS[name].regions[row["region"]], float(np.prod(spacing)))
        assert {key: row[key] for key in slow} == pytest.approx(slow, rel=1e-12)


@some
@given(seed=st.integers(0, 2**32), density=st.floats(0.001, 0.03))
def test_on_scattered_voxels_too_scores_are_those_of_the_rule(seed, density):
    rng = np.random.default_rng(seed)
    reference, prediction = ((rng.random((16, 15, 14)) < density).astype(np.uint8) * ET for _ in range(2))
    for name in ("brats2023-met", "goat2025-ped"):
        policy = SPECS[name].regions["WT"].model_copy(update={"min_volume_mm3": 1})
        spec = Spec(name="wt", regions={"WT": policy})
        (row,) = score_case(reference, prediction, Grid(reference.shape, np.eye(4)), spec).regions
        slow = slow_scores(reference, prediction, policy, 1.0)
        assert {key: row[key] for key in slow} == pytest.approx(slow, rel=1e-12)
