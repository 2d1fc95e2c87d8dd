"""The organisers' file formats: their columns, their numbers, their conventions where nothing is defined."""

import csv
import gzip
import io
import json
import math
import random
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goat_ray.imaging.nifti import Grid
from goat_ray.metrics.evaluation import score_case
from goat_ray.metrics.specs import SPECS, Spec
from goat_ray.report.exports import (
    all_full_scores_csv,
    all_scores_csv,
    brats2026_csv,
    brats2026_json,
    core_csv,
    export_files,
)
from tests.metrics.golden.scenes import scene as golden_scene

GOLDEN = Path(__file__).parent.parent / "metrics" / "golden"
REFUSED = "resection_cavity"  # by the organisers' program of 2026, for its label 4
Rows = list[dict[str, Any]]
SHAPE = (24, 20, 16)
ET, RC = 3, 4
CORE = ["Num_TP", "Num_FP", "Num_FN", "Sensitivity", "Specificity", "Legacy_Dice", "Legacy_HD95"]
LESION_WISE = ["LesionWise_Score_Dice", "LesionWise_Score_HD95"]
GOLDEN_SCENES = [
    "both_empty",
    "gt_empty_three_fp",
    "pred_empty",
    "one_missed_one_fp",
    "two_preds_one_gt",
    "near_miss_in_shell",
    "small_gt_missed_only",
    "anisotropic",
    "odd_spacing",
    "et_chain_two_cores",
    "resection_cavity",
    "fuzz_04",
    "mets_small_1",
]


def scene(*boxes: tuple[int, int, int]) -> np.ndarray:
    """Boxes 6×6×6 of (label, x, y); z starts at 4."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, x, y in boxes:
        labels[x : x + 6, y : y + 6, 4:10] = label
    return labels


EMPTY, ONE, SHIFTED, OTHER = scene(), scene((ET, 2, 2)), scene((ET, 3, 2)), scene((ET, 16, 13))
BOTH = ONE | OTHER


def rows_of(
    case_id: str, reference: np.ndarray, prediction: np.ndarray, spec: str | Spec = "brats2023-gli", cohort: str = "GLI"
) -> Rows:
    """Rows of `regions` for one case."""
    chosen = SPECS[spec] if isinstance(spec, str) else spec
    score = score_case(reference, prediction, Grid(SHAPE, np.eye(4)), chosen, official=True)
    about = {"case_id": case_id, "site": "north", "cohort": cohort, "penalised": False}
    return [{**about, **row} for row in score.regions]


def penalised(case_id: str, spec_name: str) -> Rows:
    """Rows of a case without prediction, with no more than what is known of it."""
    spec = SPECS[spec_name]
    scores = (
        {"sq_dice": 0.0, "sq_nsd": 0.0, "sq_hd95_mm": spec.missing_penalty, "match_f1": 0.0}
        if spec.matching == "one-to-one"
        else {"lw_dice": 0.0, "lw_nsd_0_5": 0.0, "lw_nsd_1_0": 0.0, "lw_hd95_mm": spec.missing_penalty}
    )
    return [
        {"case_id": case_id, "region": region, "spec": spec_name, "official": policy.official, "penalised": True}
        | scores
        for region, policy in spec.regions.items()
    ]


def parsed(content: bytes) -> tuple[list[str], dict[str, dict[str, float | None]]]:
    """Columns, and numbers by first column and column; empty cells are None."""
    lines = list(csv.reader(io.StringIO(content.decode())))
    columns, *body = lines
    return columns, {
        name: {column: float(cell) if cell else None for column, cell in zip(columns[1:], cells, strict=True)}
        for name, *cells in body
    }


def test_the_core_table_has_the_columns_of_2023() -> None:
    columns, table = parsed(core_csv(rows_of("a", ONE, ONE)))
    assert columns == ["Labels", *CORE, "GT_Complete_Volume", *LESION_WISE]
    assert list(table) == ["WT", "TC", "ET"]
    assert list(table["ET"].values()) == [1, 0, 0, 1, 1, 1, 0, 216, 1, 0]


@pytest.mark.parametrize("spec", ["goat2025-men", "goat2025-gli"])
def test_the_core_table_has_nsd_from_2025_on(spec: str) -> None:
    columns, table = parsed(core_csv(rows_of("a", ONE, ONE, spec)))
    nsd = ["NSD @ 0.5", "NSD @ 1.0"]
    legacy, lesion_wise = ([f"{kind} {name}" for name in nsd] for kind in ("Legacy", "LesionWise_Score"))
    lesion_wise = [name.replace("Score ", "Score_") for name in lesion_wise]
    assert columns == ["Labels", *CORE, *legacy, "GT_Complete_Volume", *LESION_WISE, *lesion_wise]
    assert table["ET"]["Legacy NSD @ 0.5"] == table["ET"]["LesionWise_Score_NSD @ 1.0"] == pytest.approx(1, abs=1e-8)


def test_only_regions_of_the_organisers_are_exported_in_the_order_of_the_spec() -> None:
    rows = rows_of("a", ONE, ONE, "goat2025-gli")
    assert list(parsed(core_csv(reversed(rows)))[1]) == ["WT", "TC", "NETC", "SNFH", "ET", "RC"]
    assert "NETC" not in parsed(core_csv(rows_of("a", ONE, ONE, "goat2025-men")))[1]


def test_a_users_own_spec_has_nsd_and_keeps_its_order() -> None:
    own = SPECS["brats2023-gli"].model_copy(update={"name": "own"})
    columns, table = parsed(core_csv(rows_of("a", ONE, ONE, own)))
    assert "Legacy NSD @ 0.5" in columns
    assert list(table) == ["WT", "TC", "ET"]


@pytest.mark.parametrize("spec", ["brats2023-gli", "goat2025-gli", "goat2025-met"])
@pytest.mark.parametrize(
    ("reference", "prediction", "perfect"), [(EMPTY, EMPTY, True), (EMPTY, ONE, False), (ONE, EMPTY, False)]
)
def test_undefined_scores_follow_the_organisers(
    spec: str, reference: np.ndarray, prediction: np.ndarray, perfect: bool
) -> None:
    _, table = parsed(core_csv(rows_of("a", reference, prediction, spec)))
    et, penalty = table["ET"], SPECS[spec].penalty_mm(SHAPE)
    assert et["Legacy_HD95"] == et["LesionWise_Score_HD95"] == (0 if perfect else penalty)
    scores = [value for name, value in et.items() if "Dice" in name or "NSD" in name or name == "Sensitivity"]
    assert scores == [float(perfect)] * len(scores)
    assert et["Specificity"] is not None


def test_wrong_whole_volume_values_of_2025_are_reproduced() -> None:
    rows = rows_of("a", BOTH, scene((ET, 3, 2), (ET, 16, 14)), "goat2025-gli")
    et = parsed(core_csv([{**row, "official_hd95_mm": 1.5} for row in rows]))[1]["ET"]
    (row,) = [row for row in rows if row["region"] == "ET"]
    assert et["Sensitivity"] == row["official_sensitivity"] != row["sensitivity"]
    assert et["Specificity"] == row["official_specificity"] != row["specificity"]
    assert et["Legacy_HD95"] == 1.5 != row["hd95_mm"]


def test_an_infinite_distance_of_2025_becomes_the_penalty() -> None:
    rows = [{**row, "official_hd95_mm": None} for row in rows_of("a", ONE, ONE, "goat2025-gli")]
    assert parsed(core_csv(rows))[1]["ET"]["Legacy_HD95"] == 337


def test_a_case_without_prediction_is_zero_everywhere_but_for_the_distance() -> None:
    _, table = parsed(core_csv(penalised("a", "goat2025-gli")))
    assert {name: value for name, value in table["ET"].items() if value} == dict.fromkeys(
        ["Legacy_HD95", "LesionWise_Score_HD95"], 374
    )
    assert None not in table["ET"].values()
    _, full = parsed(all_full_scores_csv(penalised("a", "goat2025-met")))
    assert (full["a"]["Hausdorff95_RC"], full["a"]["Specificity_RC"]) == (374, 0)


def test_scores_of_many_cases_are_grouped_by_score() -> None:
    rows = rows_of("b", ONE, ONE, "goat2025-men") + rows_of("a", BOTH, SHIFTED, "goat2025-men")
    columns, table = parsed(all_scores_csv(rows))
    names = ["LesionWise_Dice", "LesionWise_NSD_0.5", "LesionWise_NSD_1.0", "LesionWise_Hausdorff95"]
    names += ["Num_TP", "Num_FP", "Num_FN"]
    assert columns == ["scan_id", *(f"{name}_{region}" for name in names for region in ("ET", "TC", "WT"))]
    assert list(table) == ["a", "b", "mean", "std", "25quantile", "median", "75quantile"]
    assert (table["a"]["Num_FN_ET"], table["b"]["LesionWise_Dice_ET"]) == (1, 1)
    full, whole = parsed(all_full_scores_csv(rows))
    names = ["Dice", "NSD_0.5", "NSD_1.0", "Hausdorff95", "Sensitivity", "Specificity"]
    assert full == ["scan_id", *(f"{name}_{region}" for name in names for region in ("ET", "TC", "WT"))]
    assert whole["a"]["Sensitivity_ET"] == pytest.approx(5 / 12)


def test_scores_of_2023_have_no_nsd() -> None:
    rows = rows_of("a", ONE, ONE)
    assert not any("NSD" in name for make in (all_scores_csv, all_full_scores_csv) for name in parsed(make(rows))[0])


def test_statistics_are_those_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    predictions = {"a": ONE, "b": SHIFTED, "c": OTHER, "d": BOTH, "e": EMPTY}
    rows = [row for case_id, found in predictions.items() for row in rows_of(case_id, BOTH, found, "goat2025-men")]
    for content in (all_scores_csv(rows), all_full_scores_csv(rows)):
        frame = pandas.read_csv(io.BytesIO(content), index_col="scan_id")
        described = frame.loc[list(predictions)].describe().loc[["mean", "std", "25%", "50%", "75%"]]
        np.testing.assert_allclose(frame.iloc[5:], described, atol=1e-12)


def test_one_case_has_no_standard_deviation() -> None:
    _, table = parsed(all_scores_csv(rows_of("a", ONE, SHIFTED)))
    assert set(table["std"].values()) == {None}
    assert table["mean"] == table["25quantile"] == table["median"] == table["75quantile"] == table["a"]


def test_a_region_that_a_cohort_lacks_is_empty_and_leaves_the_mean() -> None:
    cavity = scene((RC, 2, 2))
    rows = (
        rows_of("a", ONE, SHIFTED, "goat2025-men", "MEN")
        + rows_of("b", cavity, scene((RC, 3, 2)), "goat2025-met", "MET")
        + rows_of("c", cavity, cavity, "goat2025-gli", "GLI")
    )
    columns, table = parsed(all_scores_csv(rows))
    assert table["a"]["LesionWise_Dice_RC"] is None
    dice = [table[case_id]["LesionWise_Dice_RC"] for case_id in "bc"]
    assert dice == pytest.approx([5 / 6, 1])
    assert table["mean"]["LesionWise_Dice_RC"] == pytest.approx(11 / 12)
    assert table["std"]["LesionWise_Dice_RC"] == pytest.approx(statistics.stdev([5 / 6, 1]))
    assert table["b"]["LesionWise_Dice_NETC"] is None
    assert table["std"]["LesionWise_Dice_NETC"] is None
    assert table["mean"]["LesionWise_Dice_NETC"] == 1
    regions = list(dict.fromkeys(column.rpartition("_")[2] for column in columns[1:]))
    assert regions == ["ET", "NETC", "RC", "SNFH", "TC", "WT"]


def test_penalised_cases_are_in_the_mean() -> None:
    _, table = parsed(all_scores_csv(rows_of("a", ONE, ONE) + penalised("b", "brats2023-gli")))
    assert (table["mean"]["LesionWise_Dice_ET"], table["mean"]["LesionWise_Hausdorff95_ET"]) == (0.5, 187)


def test_the_json_of_2026_is_strict_and_names_the_missing() -> None:
    rows = rows_of("b", ONE, ONE, "brats2026-goat") + rows_of("a", EMPTY, ONE, "brats2026-goat")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(brats2026_json(rows + penalised("d", "brats2026-goat"), ["c"]), parse_constant=refuse)
    assert document["missings"] == ["c", "d"]
    assert [list(case) for case in document["metrics"]] == [["et", "tc", "wt", "subject_name"]] * 2
    assert [case["subject_name"] for case in document["metrics"]] == ["a", "b"]
    found, perfect = (case["et"] for case in document["metrics"])
    assert (found["sq_hd95"], found["global_bin_hd95"], found["sq_dsc_std"]) == ("inf", "inf", "nan")
    assert (found["n_pred_instances"], found["prec"], found["global_bin_volume_pred"]) == (1, 0, 216)
    assert (perfect["pq_dsc"], perfect["sq_hd95"], perfect["rec"]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("reference", "prediction", "absent"),
    [(EMPTY, EMPTY, {"prec", "rec"}), (EMPTY, ONE, {"rec"}), (ONE, EMPTY, {"prec"}), (ONE, OTHER, set())],
)
def test_undefined_precision_and_recall_are_left_out_of_the_json(
    reference: np.ndarray, prediction: np.ndarray, absent: set[str]
) -> None:
    document = json.loads(brats2026_json(rows_of("a", reference, prediction, "brats2026-goat"), []))
    assert {"prec", "rec"} - document["metrics"][0]["et"].keys() == absent


def test_the_summary_of_2026_keeps_undefined_values_empty() -> None:
    columns, table = parsed(
        brats2026_csv(
            rows_of("b", EMPTY, ONE, "brats2026-goat")
            + rows_of("a", EMPTY, EMPTY, "brats2026-goat")
            + penalised("c", "brats2026-goat")
        )
    )
    names = [f"all_instance_{name}" for name in ("tp", "fp", "fn", "prec", "rec", "f1")]
    names += [f"global_{name}" for name in ("dsc", "nsd", "hd95")]
    names += [f"lesionwise_{name}_{moment}" for name in ("dsc", "nsd", "hd95") for moment in ("mean", "std")]
    assert columns == ["subject_id", *(f"{name}_{region}" for region in ("et", "tc", "wt") for name in names)]
    assert list(table) == ["a", "b", "c"]
    assert {name: value for name, value in table["a"].items() if value is not None} == {
        f"all_instance_{name}_{region}": 0 for region in ("et", "tc", "wt") for name in ("tp", "fp", "fn")
    }
    assert (table["b"]["global_hd95_et"], table["b"]["lesionwise_hd95_mean_et"]) == (373, math.inf)
    assert (table["b"]["all_instance_rec_et"], table["b"]["lesionwise_hd95_std_et"]) == (None, None)
    assert all(value == (373 if "hd95" in name else 0) for name, value in table["c"].items())


def test_each_kind_of_rows_has_its_files() -> None:
    lesion_wise = rows_of("b", ONE, ONE) + rows_of("a", ONE, SHIFTED)
    one_to_one = rows_of("a", ONE, ONE, "brats2026-goat")
    cores = ["exports/cases/a.csv", "exports/cases/b.csv"]
    synapse = ["exports/all_full_scores.csv", "exports/all_scores.csv"]
    of_2026 = ["exports/brats2026.csv", "exports/brats2026.json"]
    assert sorted(export_files(lesion_wise, ["c"])) == synapse + cores
    assert sorted(export_files(one_to_one, ["c"])) == of_2026
    assert export_files([], ["c"]) == {}
    files = export_files(lesion_wise, [])
    assert files["exports/cases/a.csv"] == core_csv(rows_of("a", ONE, SHIFTED))
    assert files["exports/all_scores.csv"] == all_scores_csv(lesion_wise)
    assert files["exports/all_full_scores.csv"] == all_full_scores_csv(lesion_wise)


@pytest.mark.parametrize(("base", "n_files"), [("brats2023-gli", 3), ("brats2026-goat", 2)])
def test_the_kind_of_a_users_own_spec_shows_in_its_scores(base: str, n_files: int) -> None:
    own = SPECS[base].model_copy(update={"name": "own"})
    assert len(export_files(rows_of("a", ONE, ONE, own), [])) == n_files


def test_equal_rows_in_any_order_give_equal_bytes() -> None:
    rows = [row for case_id in "abc" for row in rows_of(case_id, BOTH, SHIFTED, "goat2025-gli")]
    rows += [row for case_id in "abc" for row in rows_of(case_id, BOTH, SHIFTED, "brats2026-goat")]
    files = export_files(rows, ["e", "d"])
    shuffled = random.Random(1).sample(rows, len(rows))
    assert export_files(shuffled, ["d", "e"]) == files
    assert list(export_files(shuffled, ["d", "e"])) == list(files)
    assert not any(b"\r" in content for content in files.values())


def test_numbers_survive_the_round_trip() -> None:
    rows = rows_of("a", BOTH, SHIFTED)
    _, table = parsed(all_scores_csv(rows))
    assert [table["a"][f"LesionWise_Dice_{row['region']}"] for row in rows if row["official"]] == [
        row["lw_dice"] for row in rows if row["official"]
    ]


@cache
def published(year: int) -> dict[str, Any]:
    return json.loads(gzip.decompress((GOLDEN / f"golden_{year}.json.gz").read_bytes()))


@pytest.fixture(params=GOLDEN_SCENES)
def case(request: pytest.FixtureRequest) -> tuple[str, np.ndarray, np.ndarray, Grid]:
    made = golden_scene(request.param)
    grid = Grid(made.reference.shape, np.diag([*made.spacing_mm, 1.0]))
    return request.param, made.reference, made.prediction, grid


def golden_rows(case: tuple[str, np.ndarray, np.ndarray, Grid], spec: Spec) -> Rows:
    name, reference, prediction, grid = case
    return [{"case_id": name, **row} for row in score_case(reference, prediction, grid, spec, official=True).regions]


@pytest.mark.parametrize("year", [2023, 2025])
def test_core_tables_are_those_of_the_organisers(case: tuple[str, np.ndarray, np.ndarray, Grid], year: int) -> None:
    for challenge, result in published(year)["results"][case[0]].items():
        family = "brats2023" if year == 2023 else "goat2025"
        spec = SPECS[f"{family}-{challenge.removeprefix('BraTS-').lower()}"]
        columns, table = parsed(core_csv(golden_rows(case, spec)))
        assert columns == published(year)["region_columns"]
        assert list(table) == [row[0] for row in result["regions"]]
        for (region, cells), (_, *expected) in zip(table.items(), result["regions"], strict=True):
            assert list(cells.values()) == pytest.approx([float(value) for value in expected], abs=1e-9), region


def test_results_of_2026_are_those_of_the_organisers(case: tuple[str, np.ndarray, np.ndarray, Grid]) -> None:
    result = published(2026)["results"][case[0]]["GoAT"]
    if case[0] == REFUSED:
        assert "error" in result["raw"]
        return
    rows = golden_rows(case, SPECS["brats2026-goat"])
    columns, table = parsed(brats2026_csv(rows))
    assert columns[1:] == list(result["csv_row"])
    expected = {name: float(value) for name, value in result["csv_row"].items()}
    assert {name: math.nan if value is None else value for name, value in table[case[0]].items()} == pytest.approx(
        expected, abs=1e-9, nan_ok=True
    )
    (ours,) = json.loads(brats2026_json(rows, []))["metrics"]
    for region, raw in result["raw"].items():
        kept = {name: value for name, value in raw.items() if not name.startswith(("instance_", "reference_"))}
        assert list(ours[region]) == list(kept)
        for name, value in kept.items():
            assert type(ours[region][name]) is type(value)
            assert float(ours[region][name]) == pytest.approx(float(value), abs=1e-9, nan_ok=True), (region, name)
