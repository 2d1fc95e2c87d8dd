"""Pseudo-labels from end to end: what gets into the dataset, why, and that nnU-Net takes it."""

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest

from goat_ray.errors import ConfigError, GoatRayError
from goat_ray.labels import MODALITIES
from goat_ray.pipeline.job import Again
from goat_ray.pipeline.pseudolabel import pseudo_label_cohort
from goat_ray.pseudolabel.config import GatesConfig, PseudoLabelConfig
from goat_ray.pseudolabel.stored import sweep_run
from goat_ray.storage import RunStore, list_files
from goat_ray.tables import read_table
from tests.cohorts import phantom, write_case, write_tiny_ensemble
from tests.inline import pseudo_label_inline

NAME = "Dataset603_BraTS"
EXPERTS = [f"BraTS-GLI-{number:05d}-{time:03d}" for number in range(4) for time in range(2)]
UNLABELLED = ["hosp-1", "hosp-2", "hosp-3"]


def write_labelled(folder: Path, case_id: str, seed: int) -> None:
    case = write_case(folder, case_id, seed)
    labels = nibabel.Nifti1Image(phantom(seed).labels, phantom(seed).affine)
    nibabel.save(labels, case / f"{case_id}-seg.nii.gz")


@dataclass(frozen=True)
class Sources:
    """Where the cohorts and the teachers of the tests lie."""

    root: Path

    def config(self, **changes: Any) -> PseudoLabelConfig:
        values = {
            "cohort": str(self.root / "cohort"),
            "labelled": str(self.root / "labelled"),
            "sites": str(self.root / "sites.csv"),
            "ensemble": str(self.root / "ensemble" / "ensemble.yaml"),
            "out": str(self.root / "out"),
            "folds": 2,
            "device": "cpu",
        }
        return PseudoLabelConfig.model_validate({**values, **changes})


def make_sources(root: Path) -> Sources:
    """Eight labelled cases of four patients, one of them broken; and a cohort with every way not to be let in."""
    for seed, case_id in enumerate(EXPERTS):
        write_labelled(root / "labelled", case_id, seed)
    broken = root / "labelled" / EXPERTS[-1] / f"{EXPERTS[-1]}-t2w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    for seed, case_id in enumerate(UNLABELLED, start=20):
        write_case(root / "cohort", case_id, seed)
    write_case(root / "cohort", "BraTS-GLI-00001-007", 30)  # another time point of a labelled patient
    write_case(root / "cohort", EXPERTS[0], 31)
    copy = write_case(root / "cohort", "copy-of-expert", 0)
    for file in copy.iterdir():  # the same scan in other bytes
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), compresslevel=1))
    write_case(root / "cohort", "twin-of-hosp-1", 20)
    (write_case(root / "cohort", "torn", 32) / "torn-t1n.nii.gz").write_bytes(b"torn")
    places = [f"{case_id},{'north' if i % 2 else 'south'}" for i, case_id in enumerate([*EXPERTS, *UNLABELLED])]
    (root / "sites.csv").write_text("\n".join(["case_id,site", *places]))
    write_tiny_ensemble(root / "ensemble")
    return Sources(root)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return make_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def made(sources: Sources) -> Path:
    """The folder after one whole call."""
    summary = pseudo_label_inline(sources.config())
    assert summary.kept == {"human": 7, "pseudo": 4}
    assert (summary.inspection.failed, summary.failed) == (1, 2)
    return sources.root / "out"


def provenance(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = pq.read_table(out / NAME / "provenance.parquet").to_pylist()
    found = {(row["source"], row["case_id"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_case_has_its_reason(made: Path) -> None:
    refused = {key: row["reason"] for key, row in provenance(made).items() if not row["accepted"]}
    assert refused == {
        ("human", EXPERTS[-1]): "failed",
        ("pseudo", "torn"): "failed",
        ("pseudo", EXPERTS[0]): "labelled_id",
        ("pseudo", "copy-of-expert"): "labelled_scan",
        ("pseudo", "twin-of-hosp-1"): "duplicate_scan",
    }
    kept = {key for key, row in provenance(made).items() if row["accepted"]}
    assert kept == {("human", case_id) for case_id in EXPERTS[:-1]} | {
        ("pseudo", case_id) for case_id in (*UNLABELLED, "BraTS-GLI-00001-007")
    }


def test_provenance_tells_who_taught_and_what_was_seen(made: Path) -> None:
    row = provenance(made)["pseudo", "hosp-2"]
    run = json.loads((made / "run.json").read_text())
    assert dict(zip(row["teachers"], row["teachers_sha256"], strict=True)) == run["ensemble"]["members"]
    regions = {
        r["region"]: r for r in read_table(RunStore(str(made)), "regions").to_pylist() if r["case_id"] == "hosp-2"
    }
    assert row["dice_wt"] == regions["WT"]["member_dice_mean"]
    assert row["confidence"] == regions["WT"]["mean_probability"]
    for label in ("NETC", "SNFH", "ET"):
        assert row[f"{label.lower()}_ml"] == pytest.approx(regions[label]["pred_volume_mm3"] / 1000)
    assert (row["site"], row["patient"]) == ("north", "hosp-2")


def test_an_experts_volumes_are_those_of_the_label_map(made: Path) -> None:
    row = provenance(made)["human", EXPERTS[2]]
    labels = phantom(2).labels
    assert [row["netc_ml"], row["snfh_ml"], row["et_ml"]] == [
        pytest.approx((labels == label).sum() / 1000) for label in (1, 2, 3)
    ]
    assert row["teachers"] is None


def test_files_are_copied_byte_by_byte_in_nnunets_layout(made: Path, sources: Sources) -> None:
    dataset = made / NAME
    for case_id, cohort in ((EXPERTS[0], "labelled"), ("hosp-1", "cohort")):
        for channel, modality in enumerate(MODALITIES):
            image = sources.root / cohort / case_id / f"{case_id}-{modality}.nii.gz"
            assert (dataset / "imagesTr" / f"{case_id}_{channel:04d}.nii.gz").read_bytes() == image.read_bytes()
    labels = dataset / "labelsTr"
    assert (labels / "hosp-1.nii.gz").read_bytes() == (made / "labels" / "hosp-1.nii.gz").read_bytes()
    expert = sources.root / "labelled" / EXPERTS[0] / f"{EXPERTS[0]}-seg.nii.gz"
    assert (labels / f"{EXPERTS[0]}.nii.gz").read_bytes() == expert.read_bytes()
    assert len(list(labels.iterdir())) == json.loads((dataset / "dataset.json").read_text())["numTraining"] == 11


def test_only_the_smallest_tumours_are_cleaned_away(made: Path) -> None:
    components = read_table(RunStore(str(made)), "components").to_pylist()
    assert components
    assert {row["step"] for row in components} == {"WT"}
    assert max(row["volume_vox"] for row in components) < 10
    assert {row["threshold"] for row in components} == {10}


def test_a_labelled_patient_never_trains_while_it_validates(made: Path) -> None:
    folds = json.loads((made / NAME / "splits_final.json").read_text())
    assert sorted(case_id for fold in folds for case_id in fold["val"]) == EXPERTS[:-1]
    for fold in folds:
        patients = {case_id[:15] for case_id in fold["val"]}
        assert not any(case_id[:15] in patients for case_id in fold["train"])
        assert set(UNLABELLED) <= set(fold["train"])
    held_out = {case_id: number for number, fold in enumerate(folds) for case_id in fold["val"]}
    found = {row["case_id"]: row["val_fold"] for row in provenance(made).values() if row["val_fold"] is not None}
    assert found == held_out


def test_the_same_call_changes_nothing(made: Path, sources: Sources) -> None:
    before = content(made / NAME)
    summary = pseudo_label_inline(sources.config())
    assert summary.changed == 0
    assert summary.prediction is not None
    assert summary.prediction.already_done == 6
    assert content(made / NAME) == before


def test_on_ray_it_is_the_same(made: Path, sources: Sources, tmp_path: Path, ray_cluster: None) -> None:
    summary = pseudo_label_cohort(sources.config(out=str(tmp_path / "out"), workers=1, threads=1))
    assert (summary.kept, summary.failed) == ({"human": 7, "pseudo": 4}, 2)
    assert content(tmp_path / "out" / NAME) == content(made / NAME)


def test_other_gates_change_the_dataset_and_predict_nothing_again(made: Path, sources: Sources, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    commits = content(out / "commits")
    kept = max(UNLABELLED, key=lambda case_id: provenance(out)["pseudo", case_id]["dice_wt"])
    gates = {"dice_wt_min": provenance(out)["pseudo", kept]["dice_wt"]}
    summary = pseudo_label_inline(sources.config(out=str(out), gates=gates))
    assert summary.refused["gate"] == 4 - summary.kept["pseudo"] > 0
    assert content(out / "commits") == commits
    files = {path.name.split(".")[0] for path in (out / NAME / "labelsTr").iterdir()}
    assert files == {case_id for (_, case_id), row in provenance(out).items() if row["accepted"]}
    back = pseudo_label_inline(sources.config(out=str(out)))
    assert back.changed > 0
    assert content(out / NAME) == content(made / NAME)


def test_a_lost_label_and_a_changed_scan_are_done_again(sources: Sources, tmp_path: Path) -> None:
    root = shutil.copytree(sources.root, tmp_path / "sources")
    mine = Sources(root)
    (root / "out" / "labels" / "hosp-1.nii.gz").unlink()
    write_labelled(root / "labelled2", EXPERTS[2], 55)
    shutil.copytree(root / "labelled2" / EXPERTS[2], root / "labelled" / EXPERTS[2], dirs_exist_ok=True)
    summary = pseudo_label_inline(mine.config())
    assert summary.prediction is not None
    assert summary.prediction.already_done == 5
    assert summary.inspection.already_done == 6
    image = root / "labelled" / EXPERTS[2] / f"{EXPERTS[2]}-t1c.nii.gz"
    assert (root / "out" / NAME / "imagesTr" / f"{EXPERTS[2]}_0000.nii.gz").read_bytes() == image.read_bytes()


def test_a_repaired_case_is_tried_again_on_request(made: Path, sources: Sources, tmp_path: Path) -> None:
    root = shutil.copytree(sources.root, tmp_path / "sources")
    shutil.rmtree(root / "cohort" / "torn")
    write_case(root / "cohort", "torn", 32)
    summary = pseudo_label_inline(Sources(root).config(), Again(retry=["unreadable_file"]))  # type: ignore[list-item]
    assert summary.kept["pseudo"] == 5


def test_in_place_nothing_is_copied(made: Path, sources: Sources, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    pseudo_label_inline(sources.config(out=str(out), form="in-place"))
    dataset = out / NAME
    assert {path.name for path in dataset.iterdir()} >= {"dataset.json", "splits_final.json", "provenance.parquet"}
    assert not list(dataset.rglob("*.nii.gz"))
    cases = json.loads((dataset / "dataset.json").read_text())["dataset"]
    assert len(cases) == 11
    for case in cases.values():
        assert len(case["images"]) == 4
        assert all(Path(file).is_file() for file in (*case["images"], case["label"]))
    assert cases["hosp-1"]["label"] == str(out / "labels" / "hosp-1.nii.gz")


def test_a_dry_run_counts_from_what_is_stored(made: Path) -> None:
    table = sweep_run(str(made), GatesConfig(dice_wt_min=0.999999))
    total = table[(table["gate"] == "no gate") & (table["site"] == "all")].iloc[0]
    assert (total["kept"], total["cases"]) == (4, 4)
    dice = [provenance(made)["pseudo", case_id]["dice_wt"] for case_id in (*UNLABELLED, "BraTS-GLI-00001-007")]
    for least in (0.3, 0.5, 0.85):
        row = table[(table["gate"] == f"dice_wt >= {least:g}") & (table["site"] == "all")].iloc[0]
        assert row["kept"] == sum(value >= least for value in dice)
    assert (made / "tables" / "sweep.csv").read_text().startswith("gate,is_main,site,kept,cases")


def test_a_dry_run_needs_tables(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without --dry-run first"):
        sweep_run(str(tmp_path), GatesConfig())


def test_a_folder_with_both_kinds_is_taken_apart(sources: Sources, tmp_path: Path) -> None:
    mixed = shutil.copytree(sources.root / "labelled", tmp_path / "mixed")
    write_case(mixed, "hosp-1", 20)
    config = sources.config(cohort=str(mixed), labelled=str(mixed), out=str(tmp_path / "out"))
    summary = pseudo_label_inline(config)
    assert summary.kept == {"human": 7, "pseudo": 1}
    assert summary.refused == {}
    assert len(provenance(tmp_path / "out")) == 9


def test_on_s3_it_is_the_same(made: Path, sources: Sources, s3_bucket: str) -> None:
    bucket = RunStore(f"{s3_bucket}/pseudo")
    for folder in ("cohort", "labelled"):
        for path in (sources.root / folder).rglob("*.nii.gz"):
            bucket.write(f"{folder}/{path.relative_to(sources.root / folder)}", path.read_bytes())
    places = {name: f"{s3_bucket}/pseudo/{name}" for name in ("cohort", "labelled", "out")}
    pseudo_label_inline(sources.config(**places))
    theirs = f"{places['out']}/{NAME}"
    assert list_files(theirs).keys() == content(made / NAME).keys()
    for key in ("splits_final.json", "dataset.json", "labelsTr/hosp-1.nii.gz", "imagesTr/hosp-1_0003.nii.gz"):
        assert RunStore(theirs).read(key) == (made / NAME / key).read_bytes()
    with pytest.raises(ConfigError, match="nnU-Net reads no s3://"):
        pseudo_label_inline(sources.config(**places, form="in-place"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gates": {"preset": "strict"}, "members": ["Labels"]}, "only one predicts"),
        ({"folds": 5}, r"4 labelled patient\(s\) cannot make 5 folds"),
        ({"labelled": "COHORT"}, "holds no case with a reference"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    sources: Sources, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if changes.get("labelled") == "COHORT":
        changes = {"labelled": str(sources.root / "cohort")}
    with pytest.raises(ConfigError, match=message):
        pseudo_label_inline(sources.config(out=str(tmp_path / "out"), **changes))
    assert not (tmp_path / "out" / "commits").exists()


def test_an_nnunet_dataset_tells_its_own_channels_and_must_have_our_labels(
    made: Path, sources: Sources, tmp_path: Path
) -> None:
    labelled = shutil.copytree(made / NAME, tmp_path / "labelled")
    (tmp_path / "cohort").mkdir()
    shutil.copytree(sources.root / "cohort" / "torn", tmp_path / "cohort" / "torn")
    write_case(tmp_path / "cohort", "new", 70)
    config = sources.config(cohort=str(tmp_path / "cohort"), labelled=str(labelled), out=str(tmp_path / "out"))
    assert pseudo_label_inline(config).kept == {"human": 11, "pseudo": 1}
    document = json.loads((labelled / "dataset.json").read_text())
    document["labels"] = {"background": 0, "SNFH": 1, "NETC": 2, "ET": 3}
    (labelled / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="its labels are background, SNFH, NETC, ET"):
        pseudo_label_inline(config)


@pytest.mark.parametrize(
    ("key", "value"), [("dataset", "BraTS"), ("dataset", "Dataset603_../x"), ("patient_pattern", "abc"), ("folds", 1)]
)
def test_settings_that_mean_nothing_are_refused(sources: Sources, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        sources.config(**{key: value})


def test_a_limit_skips_what_was_not_done_before(made: Path, sources: Sources, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    assert pseudo_label_inline(sources.config(out=str(out), limit=1)).kept["pseudo"] == 4
    first = pseudo_label_inline(sources.config(out=str(tmp_path / "new"), limit=2))
    assert first.kept["pseudo"] + first.refused["skipped"] + first.refused["labelled_scan"] == 7
    assert len(provenance(tmp_path / "new")) == len(provenance(out))


def test_too_few_usable_labelled_patients_break_the_run_and_keep_what_was_done(
    sources: Sources, tmp_path: Path
) -> None:
    labelled = shutil.copytree(sources.root / "labelled", tmp_path / "labelled")
    for case_id in EXPERTS[2:]:
        (labelled / case_id / f"{case_id}-seg.nii.gz").write_bytes(b"torn")
    with pytest.raises(GoatRayError, match=r"could be used, 1 labelled patient\(s\) cannot make 2 folds") as caught:
        pseudo_label_inline(sources.config(labelled=str(labelled), out=str(tmp_path / "out"), limit=1))
    assert not isinstance(caught.value, ConfigError)
    assert list((tmp_path / "out" / "commits").rglob("*.json"))


def test_a_reference_with_other_labels_fails_its_case(sources: Sources, tmp_path: Path) -> None:
    labelled = shutil.copytree(sources.root / "labelled", tmp_path / "labelled")
    wrong = np.full((30, 34, 28), 4, np.uint8)
    nibabel.save(nibabel.Nifti1Image(wrong, phantom(0).affine), labelled / EXPERTS[0] / f"{EXPERTS[0]}-seg.nii.gz")
    summary = pseudo_label_inline(sources.config(labelled=str(labelled), out=str(tmp_path / "out"), limit=1))
    failed = {failed.case_id: str(failed.failure.category) for failed in summary.inspection.failures}
    assert failed == {EXPERTS[0]: "invalid_labels", EXPERTS[-1]: "unreadable_file"}
    assert summary.refused["skipped"] > 0
