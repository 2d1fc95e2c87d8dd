"""Scoring label maps that are there: every expected case gets a row, whatever is wrong with it."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest

from goat_ray import storage
from goat_ray.config import EvaluateConfig, RunConfig
from goat_ray.errors import ConfigError
from goat_ray.ledger import Ledger
from goat_ray.metrics.specs import SPECS, find_policy
from goat_ray.pipeline.evaluate import evaluate_cohort, prepare
from goat_ray.pipeline.job import RunSummary
from goat_ray.pipeline.predict import prepare as prepare_prediction
from goat_ray.pipeline.predict import stages_of
from tests.cohorts import phantom, write_case
from tests.inline import evaluate_inline, predict_inline

SHAPE = (24, 22, 20)
STABLE_TABLES = ("cases", "regions", "lesions", "failures")
CASES = ("BraTS-GLI-00001-000", "BraTS-MEN-00002-000", "BraTS-MET-00003-000")


def boxes(shift: int = 0) -> np.ndarray:
    """A tumour with a core and a separate small lesion."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4 + shift : 12 + shift, 4:12, 4:12] = 2
    labels[6 + shift : 10 + shift, 6:10, 6:10] = 3
    labels[7 + shift : 9 + shift, 7:9, 7:9] = 1
    labels[20:23, 18:21, 15:18] = 3
    return labels


def write_labels(path: Path, labels: np.ndarray, affine: np.ndarray | None = None, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels.astype(dtype), np.eye(4) if affine is None else affine), path)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for shift, case_id in enumerate(CASES):
        write_labels(folder / "labels" / f"{case_id}.nii.gz", boxes(shift))
        write_labels(folder / "references" / f"{case_id}.nii.gz", boxes())
    return folder


def config_of(pairs: Path, out: Path, **changes: object) -> EvaluateConfig:
    sources = {name: str(pairs / name) for name in ("labels", "references")}
    return EvaluateConfig(**{**sources, "out": str(out), "spec": "brats2023-gli", "workers": 2, **changes})


@pytest.fixture
def config(pairs: Path, tmp_path: Path) -> EvaluateConfig:
    return config_of(pairs, tmp_path / "run")


@pytest.fixture(scope="module")
def plain(ray_cluster: None, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """An undisturbed run over the three pairs with two workers."""
    return evaluate_cohort(config_of(pairs, tmp_path_factory.mktemp("plain") / "run"))


def rows(summary: RunSummary, table: str) -> list[dict]:
    return pq.read_table(f"{summary.out}/tables/{table}.parquet").to_pylist()


def tables_of(summary: RunSummary) -> dict[str, bytes]:
    return {name: Path(f"{summary.out}/tables/{name}.parquet").read_bytes() for name in STABLE_TABLES}


def test_every_case_is_scored_and_the_means_are_over_the_cases(plain: RunSummary) -> None:
    summary = plain
    assert (summary.discovered, summary.ok, summary.failed, summary.skipped) == (3, 3, 0, 0)
    found = {(row["case_id"], row["region"]): row for row in rows(summary, "regions")}
    assert len(found) == 3 * 5
    assert found[CASES[0], "WT"]["lw_dice"] == 1.0
    assert found[CASES[1], "WT"]["dice"] == pytest.approx(2 * (7 * 64 + 27) / (2 * (512 + 27)))
    (wt,) = (score for score in summary.scores if score.region == "WT")
    assert wt.n == 3
    assert wt.means["lw_dice"] == pytest.approx(np.mean([found[case_id, "WT"]["lw_dice"] for case_id in CASES]))
    lesions = [row for row in rows(summary, "lesions") if (row["case_id"], row["region"]) == (CASES[0], "ET")]
    assert [(row["kind"], row["volume_vox"], row["scored"]) for row in lesions] == [("gt", 56, True), ("gt", 27, False)]


def test_the_run_says_by_what_it_was_scored(plain: RunSummary) -> None:
    (row,) = rows(plain, "run")
    assert (row["kind"], row["spec"], row["n_expected"], row["n_ok"]) == ("evaluate", "brats2023-gli", 3, 3)
    assert json.loads(row["specs"])[0]["regions"]["WT"]["dilation_vox"] == 3
    assert row["cpu_s"] > 0
    cases = rows(plain, "cases")
    assert {case["evaluation"] for case in cases} == {"ok"}
    assert cases[0]["gt_label_voxels"] == [SHAPE[0] * SHAPE[1] * SHAPE[2] - 539, 8, 448, 83]
    assert all(len(case[name]) == 64 for case in cases for name in ("label_sha256", "reference_sha256"))


def test_one_worker_or_many_in_one_go_or_resumed_the_tables_are_the_same(
    plain: RunSummary, config: EvaluateConfig
) -> None:
    part = evaluate_inline(config.model_copy(update={"limit": 1}))
    assert (part.ok, part.skipped) == (1, 2)
    whole = evaluate_cohort(config.model_copy(update={"workers": 1}))
    assert (whole.ok, whole.already_done) == (3, 1)
    assert tables_of(whole) == tables_of(plain)
    again = evaluate_cohort(config)
    assert (again.already_done, tables_of(again)) == (3, tables_of(plain))


def test_other_settings_are_refused_on_the_same_folder(plain: RunSummary, config: EvaluateConfig) -> None:
    config = config.model_copy(update={"out": plain.out})
    with pytest.raises(ConfigError, match=r"spec\.brats2023-gli, spec\.brats2023-met differ"):
        evaluate_inline(config.model_copy(update={"spec": "brats2023-met"}))
    with pytest.raises(ConfigError, match="missing differ"):
        evaluate_inline(config.model_copy(update={"missing": "exclude"}))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One case for each way a pair can be unusable."""
    folder = tmp_path_factory.mktemp("faulty")
    labels, references = folder / "labels", folder / "references"
    good = boxes()
    shifted = np.diag([1.0, 1, 1, 1])
    shifted[0, 3] = 5
    affines = {"affine": shifted}
    maps = {
        "good": good,
        "shape": good[:-1],
        "affine": good,
        "half": np.where(good == 3, 2.5, good),
        "negative": np.where(good == 1, -1, good),
        "five": np.where(good == 3, 5, good),
    }
    for case_id, labels_of_case in maps.items():
        write_labels(labels / f"{case_id}.nii.gz", labels_of_case, affines.get(case_id), np.float32)
        write_labels(references / f"{case_id}.nii.gz", good)
    write_labels(labels / "unexpected.nii.gz", good)
    write_labels(references / "absent.nii.gz", good)
    (labels / "torn.nii.gz").write_bytes((labels / "good.nii.gz").read_bytes()[:60])
    write_labels(references / "torn.nii.gz", good)
    write_labels(labels / "twice.nii.gz", good)
    write_labels(labels / "twice" / "twice-seg.nii.gz", good)
    write_labels(references / "twice.nii.gz", good)
    return folder


@pytest.fixture(scope="module", params=["penalise", "exclude"])
def survived(request: pytest.FixtureRequest, faulty: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """A run over the unusable pairs, by either policy."""
    return evaluate_inline(config_of(faulty, tmp_path_factory.mktemp("survived") / "run", missing=request.param))


OUTCOMES = {
    "absent": "missing_prediction",
    "affine": "geometry_mismatch",
    "five": "invalid_labels",
    "good": None,
    "half": "invalid_labels",
    "negative": "invalid_labels",
    "shape": "geometry_mismatch",
    "torn": "unreadable_file",
    "twice": "duplicate_case",
    "unexpected": "missing_reference",
}


def test_every_unusable_pair_is_a_row_with_its_reason(survived: RunSummary) -> None:
    summary = survived
    cases = {row["case_id"]: row for row in rows(summary, "cases")}
    assert {case_id: row["failure_category"] for case_id, row in cases.items()} == OUTCOMES
    assert (summary.discovered, summary.ok, summary.failed) == (10, 1, 9)
    failures = rows(summary, "failures")
    assert all(row["message"] and row["hint"] for row in failures)


def test_a_missing_prediction_is_penalised_or_left_out_as_asked(survived: RunSummary) -> None:
    (run,) = rows(survived, "run")
    (wt,) = (score for score in survived.scores if score.region == "WT")
    penalised = [row for row in rows(survived, "regions") if row["penalised"]]
    if run["policy"] == "exclude":
        assert (wt.n, wt.n_penalised, wt.means["lw_dice"], penalised) == (1, 0, 1.0, [])
        return
    assert (wt.n, wt.n_penalised, wt.means["lw_dice"]) == (2, 1, 0.5)
    assert {row["case_id"] for row in penalised} == {"absent"}
    assert all((row["lw_hd95_mm"], row["hd95_mm"], row["tp"]) == (374.0, None, None) for row in penalised)
    assert all(row["null_reason"] == "missing_prediction" for row in penalised)


def test_each_case_is_scored_by_its_own_cohort(config: EvaluateConfig, tmp_path: Path) -> None:
    sites = tmp_path / "sites.csv"
    sites.write_text(f"case_id,site,cohort\n{CASES[0]},north,gli\n{CASES[2]},south,OTHER\nnobody,east,GLI\n")
    summary = evaluate_inline(config.model_copy(update={"spec": "goat2025", "sites": str(sites)}))
    cases = {row["case_id"]: row for row in rows(summary, "cases")}
    assert [cases[case_id]["spec"] for case_id in CASES] == ["goat2025-gli", "goat2025-men", None]
    assert cases[CASES[2]]["failure_category"] == "unknown_cohort"
    assert cases[CASES[0]]["site"] == "north"
    assert any("nobody" in warning for warning in summary.warnings)


def test_the_official_columns_are_there_on_request_only(config: EvaluateConfig) -> None:
    met = {"spec": "goat2025-met", "limit": 1}
    plain = evaluate_inline(config.model_copy(update=met))
    assert {row["official_sensitivity"] for row in rows(plain, "regions")} == {None}
    official = evaluate_inline(config.model_copy(update={**met, "official": True}), overwrite=True)
    assert all(row["official_sensitivity"] is not None for row in rows(official, "regions"))


def test_the_ped_spec_warns_of_its_label_convention_where_it_is_used(pairs: Path, tmp_path: Path) -> None:
    sites = tmp_path / "sites.csv"
    sites.write_text(f"case_id,site,cohort\n{CASES[0]},north,PED\n")
    for given, is_told in (({"spec": "goat2025"}, False), ({"spec": "goat2025", "sites": str(sites)}, True)):
        job = prepare(config_of(pairs, tmp_path / f"run-{is_told}", **given), find_policy("goat2025"))
        told = job.warnings(Ledger("id", {}, {}))
        assert any("its ET is NETC" in warning for warning in told) == is_told


def test_the_2026_spec_writes_its_own_columns_and_exports(config: EvaluateConfig) -> None:
    config = config.model_copy(update={"spec": "brats2026-goat", "exports": True})
    evaluate_inline(config)
    summary = evaluate_cohort(config)  # nothing is left to do but the exports
    assert summary.already_done == 3
    (row,) = (row for row in rows(summary, "regions") if (row["case_id"], row["region"]) == (CASES[0], "ET"))
    assert (row["sq_dice"], row["match_f1"], row["lw_dice"]) == (1.0, 1.0, None)
    document = json.loads((Path(summary.out) / "exports" / "brats2026.json").read_text())
    assert [case["subject_name"] for case in document["metrics"]] == list(CASES)


def test_label_maps_on_s3_give_the_same_tables(plain: RunSummary, pairs: Path, s3_bucket: str) -> None:
    store = storage.RunStore(s3_bucket)
    for path in pairs.rglob("*.nii.gz"):
        store.write(path.relative_to(pairs).as_posix(), path.read_bytes())
    there = {name: f"{s3_bucket}/{name}" for name in ("labels", "references", "out")}
    remote = evaluate_inline(EvaluateConfig(spec="brats2023-gli", **there))
    results = storage.RunStore(remote.out)
    assert {name: results.read(f"tables/{name}.parquet") for name in STABLE_TABLES} == tables_of(plain)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": "nowhere"}, "nowhere does not exist"),
        ({"spec": "brats2023-gil"}, "brats2023-gli meant"),
        ({"references": "strangers"}, "no case in common"),
    ],
)
def test_nothing_starts_when_nothing_could_be_scored(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "strangers" / "other.nii.gz", boxes())
    with pytest.raises(ConfigError, match=words):
        evaluate_inline(config.model_copy(update=change))
    assert not Path(config.out).exists()


def test_a_replaced_label_file_is_scored_again(config: EvaluateConfig, tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    here = config.model_copy(update={"labels": str(manifest), "references": str(tmp_path / "references")})
    write_labels(tmp_path / "references" / "case.nii.gz", boxes())
    for shift, name in enumerate(("first", "second")):
        write_labels(tmp_path / f"{name}.nii.gz", boxes(shift))
        manifest.write_text(f"case_id,prediction\ncase,{name}.nii.gz\n")
        summary = evaluate_inline(here)
        assert (summary.ok, summary.already_done) == (1, 0)
    assert next(row["dice"] for row in rows(summary, "regions") if row["region"] == "WT") < 1


# --- inside predict


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases: one with a reference, one with a reference on another grid, one without."""
    folder = tmp_path_factory.mktemp("annotated")
    for number in (1, 2, 3):
        write_case(folder, f"BraTS-GoAT-0000{number}", seed=number)
    for number, crop in ((1, None), (2, -1)):
        head = phantom(number)
        name = f"BraTS-GoAT-0000{number}"
        write_labels(folder / name / f"{name}-seg.nii.gz", head.labels[:crop], head.affine)
    return folder


def test_predict_scores_what_has_a_reference_and_keeps_every_label(
    annotated: Path, ensemble: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    settings = RunConfig(cohort=str(annotated), ensemble=str(ensemble), out=out, threads=1, workers=1)
    summary = predict_inline(settings)
    assert (summary.ok, summary.failed, summary.unscored) == (3, 0, 1)
    cases = rows(summary, "cases")
    assert [row["evaluation"] for row in cases] == ["ok", "geometry_mismatch", None]
    assert "shape" in cases[1]["evaluation_message"]
    scored = [row for row in rows(summary, "regions") if row["spec"]]
    assert {row["case_id"] for row in scored} == {"BraTS-GoAT-00001"}
    assert all(row["mean_probability"] is not None for row in scored if row["pred_volume_vox"])
    # The same map, scored later from its file.
    references = {"labels": out, "references": str(annotated), "out": str(tmp_path / "later"), "spec": "brats2023-gli"}
    later = evaluate_inline(EvaluateConfig(**references))
    mine = {row["region"]: row for row in scored}
    theirs = {row["region"]: row for row in rows(later, "regions") if row["case_id"] == "BraTS-GoAT-00001"}
    for region in SPECS["brats2023-gli"].regions:
        for name in ("lw_dice", "lw_nsd_0_5", "lw_nsd_1_0", "lw_hd95_mm", "dice", "hd95_mm", "tp", "fp", "fn"):
            assert mine[region][name] == theirs[region][name], (region, name)


def test_references_that_come_late_are_told_and_not_predicted_for_again(
    annotated: Path, cohort: Path, ensemble: Path, tmp_path: Path
) -> None:
    settings = RunConfig(
        cohort=str(cohort), ensemble=str(ensemble), out=str(tmp_path / "run"), threads=1, workers=1, limit=1
    )
    assert predict_inline(settings).warnings == ()
    late = predict_inline(settings.model_copy(update={"references": str(annotated)}))
    assert late.already_done == 1
    assert any("goat-ray evaluate" in warning for warning in late.warnings)


def test_scoring_can_be_switched_off(annotated: Path, ensemble: Path, tmp_path: Path) -> None:
    settings = RunConfig(cohort=str(annotated), ensemble=str(ensemble), out=str(tmp_path / "run"), spec="none")
    prediction = prepare_prediction(settings)
    assert stages_of(prediction, "cpu", 1).finish.policy is None
