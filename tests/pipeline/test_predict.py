"""The whole path: cohorts in, labels and tables out, whatever happens on the way."""

import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from ray.data import Dataset

from goat_ray.cases import Case, discover
from goat_ray.config import PoolConfig, PostprocessConfig, RunConfig
from goat_ray.errors import Category, ConfigError, EnsembleError, GoatRayError
from goat_ray.pipeline import predict
from goat_ray.pipeline.dataset import build_prediction
from goat_ray.pipeline.job import Again, RunSummary
from goat_ray.pipeline.rows import Row
from tests.chaos import ThresholdPredict
from tests.cohorts import SHAPE, phantom, write_case, write_tiny_ensemble
from tests.inline import predict_inline

STABLE_TABLES = ("cases", "regions", "lesions", "components", "failures")


def outputs(out: str) -> dict[str, bytes]:
    """Every file that must not depend on how a run was carried out."""
    root = Path(out)
    files = [
        *root.glob("labels/*"),
        *root.glob("thumbnails/*"),
        *(root / f"tables/{name}.parquet" for name in STABLE_TABLES),
    ]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def plain(
    ray_cluster: None, cohort: Path, ensemble: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunSummary, Dataset]:
    """An undisturbed run over the healthy cases with three workers, and the pipeline that it was."""
    out = tmp_path_factory.mktemp("plain") / "run"
    config = RunConfig(cohort=str(cohort), ensemble=str(ensemble), out=str(out), threads=1, workers=3)
    pipelines = []

    def build(*arguments: Any) -> Dataset:
        pipelines.append(build_prediction(*arguments))
        return pipelines[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "build_prediction", build)
        summary = predict.predict_cohort(config)
    (pipeline,) = pipelines
    return summary, pipeline


@pytest.fixture(scope="module")
def plain_run(plain: tuple[RunSummary, Dataset]) -> RunSummary:
    return plain[0]


def test_every_case_gets_a_label_in_the_geometry_of_its_t1c(plain_run: RunSummary, cohort: Path) -> None:
    assert (plain_run.discovered, plain_run.ok, plain_run.failed, plain_run.skipped) == (5, 5, 0, 0)
    for case in sorted(cohort.iterdir()):
        label = nibabel.load(Path(plain_run.out) / "labels" / f"{case.name}.nii.gz")
        t1c = nibabel.load(case / f"{case.name}-t1c.nii.gz")
        assert label.shape == SHAPE
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(label.affine, t1c.affine)
        assert label.header["qform_code"] > 0
        assert label.header["sform_code"] > 0
        assert set(np.unique(label.dataobj)) <= {0, 1, 2, 3}


def test_tables_agree_with_the_label_files(plain_run: RunSummary) -> None:
    regions = pq.read_table(f"{plain_run.out}/tables/regions.parquet").to_pylist()
    assert len(regions) == 5 * 5
    for row in regions:
        labels = np.asarray(nibabel.load(f"{plain_run.out}/labels/{row['case_id']}.nii.gz").dataobj)
        members = {"ET": [3], "NETC": [1], "SNFH": [2], "TC": [1, 3], "WT": [1, 2, 3]}[row["region"]]
        assert row["pred_volume_vox"] == np.isin(labels, members).sum()
        assert row["pred_volume_mm3"] == pytest.approx(row["pred_volume_vox"])
    lesions = pq.read_table(f"{plain_run.out}/tables/lesions.parquet").to_pylist()
    for row in regions:
        mine = [one for one in lesions if (one["case_id"], one["region"]) == (row["case_id"], row["region"])]
        assert len(mine) == row["n_pred_components"]
        assert sum(one["volume_vox"] for one in mine) == row["pred_volume_vox"]


def test_a_run_says_what_it_was_made_from(plain_run: RunSummary, ensemble: Path) -> None:
    record = json.loads((Path(plain_run.out) / "run.json").read_text())
    assert list(record["ensemble"]["members"]) == ["Labels", "Regions"]
    assert record["counts"] == {"discovered": 5, "ok": 5, "failed": 0, "skipped": 0, "already_done": 0}
    assert record["config"]["ensemble"] == str(ensemble)
    cases = pq.read_table(f"{plain_run.out}/tables/cases.parquet").to_pylist()
    assert all(row["members"] == ["Labels", "Regions"] for row in cases)
    assert all(0 < row["mean_entropy"] <= np.log(4) for row in cases)
    assert {row["run_id"] for row in cases} == {plain_run.run_id}


def test_three_workers_give_the_same_bytes_as_one_process(plain_run: RunSummary, config: RunConfig) -> None:
    assert outputs(plain_run.out) == outputs(predict_inline(config).out)


class PageCounter(ThresholdPredict):
    """A worker that tells, as its members, how often the system had to give it a page for a large block."""

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        done = super()._work(case, row, context)
        faults = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
            bytes(b"x" * 2**26)
            faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
        context["members"] = [str(number) for number in faults]
        return done


def test_a_worker_on_cpus_keeps_the_memory_of_large_arrays(
    ray_cluster: None, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = predict.stages_of
    monkeypatch.setattr(predict, "stages_of", lambda *about: replace(genuine(*about), worker=PageCounter))
    run = predict.predict_cohort(config.model_copy(update={"limit": 1}))
    (case,) = pq.read_table(f"{run.out}/tables/cases.parquet").slice(0, 1).to_pylist()
    first, *later = map(int, case["members"])
    assert first > 1000
    assert max(later) < 100


def test_the_postprocessing_rule_shows_in_labels_and_tables(plain_run: RunSummary, config: RunConfig) -> None:
    none = predict_inline(config.model_copy(update={"postprocess": PostprocessConfig(method="none")}))
    assert pq.read_table(f"{none.out}/tables/components.parquet").num_rows == 0
    removed = pq.read_table(f"{plain_run.out}/tables/components.parquet").to_pylist()
    volume = {
        run: sum(
            row["pred_volume_vox"]
            for row in pq.read_table(f"{out}/tables/regions.parquet").to_pylist()
            if row["region"] == "WT"
        )
        for run, out in (("none", none.out), ("adaptive", plain_run.out))
    }
    assert removed
    assert volume["none"] - volume["adaptive"] == sum(row["volume_vox"] for row in removed)


def test_a_second_run_does_nothing_and_changes_nothing(config: RunConfig) -> None:
    first = predict_inline(config)
    before = outputs(first.out)
    times = {path: path.stat().st_mtime_ns for path in Path(first.out).glob("labels/*")}
    second = predict_inline(config)
    assert (second.ok, second.already_done) == (5, 5)
    assert outputs(second.out) == before
    assert {path: path.stat().st_mtime_ns for path in Path(first.out).glob("labels/*")} == times


def test_a_lost_label_is_made_again_and_the_others_are_kept(plain_run: RunSummary, config: RunConfig) -> None:
    first = predict_inline(config)
    (Path(first.out) / "labels" / "BraTS-GoAT-00003.nii.gz").unlink()
    second = predict_inline(config)
    assert second.already_done == 4
    assert outputs(second.out) == outputs(plain_run.out)


def test_a_limited_run_counts_the_rest_as_skipped_and_can_be_finished(plain_run: RunSummary, config: RunConfig) -> None:
    part = predict_inline(config.model_copy(update={"limit": 2}))
    assert (part.discovered, part.ok, part.failed, part.skipped) == (5, 2, 0, 3)
    whole = predict_inline(config)
    assert (whole.ok, whole.already_done) == (5, 2)
    assert outputs(whole.out) == outputs(plain_run.out)


def test_other_settings_are_refused_on_the_same_folder_with_the_keys_named(config: RunConfig) -> None:
    predict_inline(config.model_copy(update={"limit": 1}))
    with pytest.raises(ConfigError, match="decode differ"):
        predict_inline(config.model_copy(update={"decode": "argmax"}))


def bad_cohort(folder: Path) -> dict[str, Category]:
    """Break one case in each way a hospital does; returns the expected category of each."""
    import gzip

    def edit(case: str, modality: str, change: object) -> None:
        path = folder / case / f"{case}-{modality}.nii.gz"
        image = nibabel.load(path)
        nibabel.save(change(np.asarray(image.dataobj), image.affine), path)  # type: ignore[operator]

    def with_value(value: float):
        def change(data: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
            data = data.astype(np.float32)
            data[data.shape[0] // 2, data.shape[1] // 2, data.shape[2] // 2] = value
            return nibabel.Nifti1Image(data, affine)

        return change

    expected = {}
    for number, (name, category) in enumerate(
        {
            "missing": Category.MISSING_MODALITY,
            "truncated": Category.UNREADABLE_FILE,
            "text": Category.UNREADABLE_FILE,
            "four-d": Category.UNSUPPORTED_GEOMETRY,
            "absurd": Category.TOO_LARGE,
            "shapes": Category.GEOMETRY_MISMATCH,
            "affines": Category.GEOMETRY_MISMATCH,
            "nan": Category.INVALID_VALUES,
            "inf": Category.INVALID_VALUES,
            "zero": Category.EMPTY_IMAGE,
        }.items()
    ):
        write_case(folder, name, seed=number)
        expected[name] = category
    (folder / "missing" / "missing-t2f.nii.gz").unlink()
    path = folder / "truncated" / "truncated-t1n.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    (folder / "text" / "text-t2w.nii.gz").write_text("this is no image\n" * 50)
    edit("four-d", "t1c", lambda data, affine: nibabel.Nifti1Image(np.stack([data, data], -1), affine))
    edit("shapes", "t2w", lambda data, affine: nibabel.Nifti1Image(data[:-1], affine))
    edit("affines", "t2w", lambda data, affine: nibabel.Nifti1Image(data, affine + np.diag([0, 0, 0.01, 0])))
    edit("nan", "t1n", with_value(np.nan))
    edit("inf", "t2f", with_value(np.inf))
    edit("zero", "t1c", lambda data, affine: nibabel.Nifti1Image(np.zeros_like(data), affine))
    header = bytearray(gzip.decompress((folder / "absurd" / "absurd-t1c.nii.gz").read_bytes()))
    header[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    (folder / "absurd" / "absurd-t1c.nii.gz").write_bytes(gzip.compress(bytes(header)))
    return expected


def test_each_bad_case_is_a_row_with_a_hint_and_the_others_are_unharmed(
    plain_run: RunSummary, config: RunConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "cohort"
    expected = bad_cohort(folder)
    for number in (1, 2):
        write_case(folder, f"BraTS-GoAT-0000{number}", seed=number)
    summary = predict_inline(config.model_copy(update={"cohort": str(folder)}))
    assert (summary.discovered, summary.ok, summary.failed) == (12, 2, 10)
    failures = pq.read_table(f"{summary.out}/tables/failures.parquet").to_pylist()
    assert {row["case_id"]: row["category"] for row in failures} == expected
    assert all(row["message"] and row["hint"] for row in failures)
    plain, mixed = outputs(plain_run.out), outputs(summary.out)
    for number in (1, 2):
        key = f"labels/BraTS-GoAT-0000{number}.nii.gz"
        assert mixed[key] == plain[key]
    cases = pq.read_table(f"{summary.out}/tables/cases.parquet").to_pylist()
    assert [row["status"] for row in cases].count("failed") == 10


def test_a_manifest_with_bad_ids_fails_exactly_those_rows(config: RunConfig, tmp_path: Path) -> None:
    case = write_case(tmp_path / "images", "good")
    uris = [f"images/good/good-{modality}.nii.gz" for modality in ("t1c", "t1n", "t2f", "t2w")]
    rows = [[case_id, *uris] for case_id in ("good", "twice", "twice", "../escape", "a/b")]
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("\n".join(",".join(row) for row in [["case_id", "t1c", "t1n", "t2f", "t2w"], *rows]))
    summary = predict_inline(config.model_copy(update={"cohort": str(manifest)}))
    assert summary.ok == 1
    assert {failed.case_id: failed.failure.category for failed in summary.failures} == {
        "twice": Category.DUPLICATE_CASE,
        "../escape": Category.INVALID_ID,
        "a/b": Category.INVALID_ID,
    }
    assert case.is_dir()
    assert not (tmp_path / "escape.nii.gz").exists()


def test_a_repaired_case_is_done_on_retry_and_its_failure_withdrawn(config: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    broken = write_case(folder, "case-1") / "case-1-t1c.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:1000])
    here = config.model_copy(update={"cohort": str(folder)})
    assert predict_inline(here).failed == 1
    broken.write_bytes(whole)
    assert predict_inline(here).failed == 1
    assert predict_inline(here, Again(retry=(Category.UNREADABLE_FILE,))).ok == 1
    assert pq.read_table(f"{config.out}/tables/failures.parquet").num_rows == 0


def test_a_completed_case_folder_is_picked_up_without_asking(config: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    missing = write_case(folder, "case-1") / "case-1-t1c.nii.gz"
    whole = missing.read_bytes()
    missing.unlink()
    here = config.model_copy(update={"cohort": str(folder)})
    assert predict_inline(here).failures[0].failure.category == Category.MISSING_MODALITY
    missing.write_bytes(whole)
    assert predict_inline(here).ok == 1


def test_a_case_whose_files_were_exchanged_is_done_again(config: RunConfig, tmp_path: Path) -> None:
    write_case(tmp_path / "a", "case-1", seed=1)
    write_case(tmp_path / "b", "other-1", seed=2)
    columns = ("t1c", "t1n", "t2f", "t2w")
    manifest = tmp_path / "cohort.csv"
    here = config.model_copy(update={"cohort": str(manifest)})
    seen = []
    for folder, name in (("a", "case-1"), ("b", "other-1")):
        uris = [f"{folder}/{name}/{name}-{modality}.nii.gz" for modality in columns]
        manifest.write_text(",".join(["case_id", *columns]) + "\n" + ",".join(["patient", *uris]) + "\n")
        summary = predict_inline(here)
        assert (summary.ok, summary.already_done) == (1, 0)
        seen.append(outputs(summary.out)["labels/patient.nii.gz"])
    assert seen[0] != seen[1]


def test_sites_given_later_reach_every_table(config: RunConfig, tmp_path: Path) -> None:
    first = predict_inline(config.model_copy(update={"limit": 1}))
    sites = tmp_path / "sites.csv"
    sites.write_text("case_id,site\nBraTS-GoAT-00001,harbour\n")
    predict_inline(config.model_copy(update={"limit": 1, "sites": str(sites)}))
    for name in STABLE_TABLES:
        rows = pq.read_table(f"{first.out}/tables/{name}.parquet").to_pylist()
        assert {row["site"] for row in rows} <= {"harbour"}, name


def test_a_member_that_yields_nan_fails_the_case_instead_of_leaving_the_member_out(
    config: RunConfig, tmp_path: Path
) -> None:
    poisoned = write_tiny_ensemble(tmp_path / "poisoned", poisoned="Regions")
    summary = predict_inline(config.model_copy(update={"ensemble": str(poisoned), "limit": 1}))
    (failed,) = summary.failures
    assert failed.failure.category == Category.NON_FINITE_OUTPUT
    assert "Regions" in failed.failure.message
    assert not list(Path(config.out).glob("labels/*"))


def test_a_subset_of_members_is_another_run(config: RunConfig) -> None:
    one = predict_inline(config.model_copy(update={"members": ("Labels",), "limit": 1}))
    (row,) = pq.read_table(f"{one.out}/tables/cases.parquet").to_pylist()
    assert row["members"] == ["Labels"]
    with pytest.raises(ConfigError, match="ensemble_sha256 differ"):
        predict_inline(config.model_copy(update={"limit": 1}))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cohort": "no/such/folder"}, ConfigError),
        ({"ensemble": "no/such/ensemble.yaml"}, EnsembleError),
        ({"members": ("Lables",)}, EnsembleError),
    ],
)
def test_nothing_is_written_when_the_request_cannot_be_met(
    config: RunConfig, change: dict[str, object], error: type[GoatRayError]
) -> None:
    with pytest.raises(error):
        predict_inline(config.model_copy(update=change))
    assert not Path(config.out).exists()


def test_members_in_pools_of_their_own_give_the_same_bits(
    config: RunConfig, plain_run: RunSummary, caplog: pytest.LogCaptureFixture, ray_cluster: None
) -> None:
    with caplog.at_level("INFO", "goat_ray"):
        divided = predict.predict_cohort(config.model_copy(update={"placement": "shard", "workers": 2}))
    assert "placement shard: 1 worker with Labels → 1 worker with Regions" in caplog.text
    assert outputs(divided.out) == outputs(plain_run.out)
    steps = pq.read_table(f"{divided.out}/tables/timings.parquet").to_pylist()
    assert {"member Labels", "member Regions", "predict"} <= {row["step"] for row in steps}


@pytest.mark.parametrize("member", ["Labels", "Regions"])
def test_a_member_that_fails_in_any_pool_fails_the_case(config: RunConfig, tmp_path: Path, member: str) -> None:
    poisoned = write_tiny_ensemble(tmp_path / "poisoned", poisoned=member)
    pools = PoolConfig(members=("Labels",)), PoolConfig(members=("Regions",))
    changes = {"ensemble": str(poisoned), "limit": 1, "pools": pools}
    (failed,) = predict_inline(config.model_copy(update=changes)).failures
    assert failed.failure.category == Category.NON_FINITE_OUTPUT
    assert member in failed.failure.message


def test_no_stage_is_fused_into_its_neighbour(plain: tuple[RunSummary, Dataset]) -> None:
    stats = plain[1].stats()
    for name in ("Map(read_case)", "Map(Predict)", "Map(finish_case)"):
        assert f" {name}:" in stats, stats


def test_reorienting_a_scan_does_not_change_its_anatomy(
    config: RunConfig, plain_run: RunSummary, tmp_path: Path
) -> None:
    folder = tmp_path / "cohort" / "turned"
    folder.mkdir(parents=True)
    head = phantom(1)
    for modality, image in head.images.items():
        turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(image.astype(np.int16), head.affine))
        nibabel.save(turned, folder / f"turned-{modality}.nii.gz")
    summary = predict_inline(config.model_copy(update={"cohort": str(folder.parent)}))
    ours = nibabel.load(f"{summary.out}/labels/turned.nii.gz")
    plain = nibabel.as_closest_canonical(nibabel.load(f"{plain_run.out}/labels/BraTS-GoAT-00001.nii.gz"))
    assert nibabel.aff2axcodes(ours.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(plain.dataobj))


def test_discovery_and_summary_count_the_same_cases(plain_run: RunSummary, cohort: Path) -> None:
    assert plain_run.discovered == discover(str(cohort)).discovered


def test_a_summary_that_loses_a_case_cannot_be_made() -> None:
    with pytest.raises(GoatRayError, match="cases were lost"):
        RunSummary("id", "run", 3, 1, 1, 0, 0, (), (), 1.0)
