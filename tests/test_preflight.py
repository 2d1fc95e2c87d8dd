"""A cohort as its headers show it is the cohort that a run finds."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from goat_ray.cases import Case, FailedCase
from goat_ray.config import RunConfig
from goat_ray.errors import Category, ConfigError, Failure
from goat_ray.imaging.nifti import Grid, encode_labels
from goat_ray.preflight import CheckConfig, GridKind, Preflight, Runnable, check_cohort
from goat_ray.storage import RunStore
from goat_ray.tables import read_table
from tests.cohorts import SHAPE, write_case, write_tiny_ensemble
from tests.inline import predict_inline

pytest_plugins = ("tests.s3_server",)

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_ensemble(tmp_path_factory.mktemp("ensemble"))


def in_header(*changes: tuple[str, object]) -> Change:
    """Set fields of the header of t2f."""

    def change(folder: Path) -> None:
        path = folder / f"{folder.name}-t2f.nii.gz"
        raw = bytearray(gzip.decompress(path.read_bytes()))
        header = nib.Nifti1Header(bytes(raw[:348]), check=False)
        for field, value in changes:
            header[field] = value
        raw[:348] = header.binaryblock
        path.write_bytes(gzip.compress(bytes(raw)))

    return change


def content(data: bytes) -> Change:
    return lambda folder: (folder / f"{folder.name}-t1n.nii.gz").write_bytes(data) and None


def without(modality: str) -> Change:
    return lambda folder: (folder / f"{folder.name}-{modality}.nii.gz").unlink()


def twice(folder: Path) -> None:
    shutil.copy(folder / f"{folder.name}-t2w.nii.gz", folder / f"{folder.name}-t2w.nii")


def shifted(folder: Path) -> None:
    path = folder / f"{folder.name}-t2w.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[2, 3] += 0.5
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), path)


def uncompressed_and_torn(folder: Path) -> None:
    path = folder / f"{folder.name}-t1c.nii.gz"
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes())[:-100])
    path.unlink()


FAULTS: dict[str, tuple[Change, Category]] = {
    "absent": (without("t1c"), Category.MISSING_MODALITY),
    "two-files": (twice, Category.MISSING_MODALITY),
    "empty-file": (content(b""), Category.UNREADABLE_FILE),
    "no-image": (content(b"no image at all"), Category.UNREADABLE_FILE),
    "bad-gzip": (content(b"\x1f\x8b\x08\x00" + bytes(60)), Category.UNREADABLE_FILE),
    "torn": (uncompressed_and_torn, Category.UNREADABLE_FILE),
    "promises": (in_header(("dim", [3, 500, 500, 500, 1, 1, 1, 1])), Category.UNREADABLE_FILE),
    "no-dimensions": (in_header(("dim", [3, 0, 34, 28, 1, 1, 1, 1])), Category.UNREADABLE_FILE),
    "pair": (in_header(("magic", b"ni1")), Category.UNREADABLE_FILE),
    "odd-type": (in_header(("datatype", 3)), Category.UNREADABLE_FILE),
    "odd-offset": (in_header(("vox_offset", 17)), Category.UNREADABLE_FILE),
    "odd-scale": (in_header(("scl_slope", np.inf)), Category.UNREADABLE_FILE),
    "movie": (in_header(("dim", [4, 30, 34, 14, 2, 1, 1, 1])), Category.UNSUPPORTED_GEOMETRY),
    "nowhere": (in_header(("srow_x", [np.nan] * 4)), Category.UNSUPPORTED_GEOMETRY),
    "complex": (in_header(("datatype", 32)), Category.INVALID_VALUES),
    "huge": (in_header(("dim", [3, 3000, 34, 28, 1, 1, 1, 1])), Category.TOO_LARGE),
    "another-shape": (in_header(("dim", [3, 34, 30, 28, 1, 1, 1, 1])), Category.GEOMETRY_MISMATCH),
    "another-place": (shifted, Category.GEOMETRY_MISMATCH),
    "not an id": (lambda folder: None, Category.INVALID_ID),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One healthy case, and one for each fault."""
    folder = tmp_path_factory.mktemp("faulty")
    write_case(folder, "healthy")
    for name, (change, _) in FAULTS.items():
        change(write_case(folder, name))
    return folder


def test_every_fault_that_a_header_shows_is_found_as_a_run_finds_it(
    faulty: Path, ensemble: Path, tmp_path: Path
) -> None:
    found = check_cohort(CheckConfig(cohort=str(faulty)))
    assert {one.case_id: one.failure.category for one in found.failures} == {
        name: category for name, (_, category) in FAULTS.items()
    }
    config = RunConfig(cohort=str(faulty), ensemble=str(ensemble), out=str(tmp_path / "run"), device="cpu")
    summary = predict_inline(config)
    assert found.failures == summary.failures
    assert [one.case.case_id for one in found.runnable] == [*summary.ledger.commits]
    assert found.discovered == summary.discovered


@pytest.fixture(scope="module")
def referenced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases whose references can be used, and cannot, for every reason that a header shows."""
    folder = tmp_path_factory.mktemp("referenced")
    affine = nib.load(write_case(folder, "BraTS-GLI-00001-000") / "BraTS-GLI-00001-000-t1c.nii.gz").affine
    whole = encode_labels(np.ones(SHAPE, np.uint8), Grid(SHAPE, affine))
    elsewhere = encode_labels(np.ones(SHAPE, np.uint8), Grid(SHAPE, affine + 0.1 * np.eye(4)))
    references = {"BraTS-GLI-00001-000": whole, "no-image": b"?", "elsewhere": elsewhere, "unknown": whole}
    for case_id, data in references.items():
        if not case_id.startswith("BraTS"):
            write_case(folder, case_id)
        (folder / case_id / f"{case_id}-seg.nii.gz").write_bytes(data)
    write_case(folder, "without")
    sites = "case_id,site,cohort\nno-image,north,GLI\nelsewhere,south,GLI\n"
    (folder / "sites.csv").write_text(sites)
    return folder


def test_references_that_could_not_be_scored_against_are_told_and_their_cases_would_run(
    referenced: Path, ensemble: Path, tmp_path: Path
) -> None:
    given = {"cohort": str(referenced), "sites": str(referenced / "sites.csv"), "spec": "goat2025"}
    found = check_cohort(CheckConfig(**given))
    assert not found.failures
    assert len(found.runnable) == 5
    config = RunConfig(**given, ensemble=str(ensemble), out=str(tmp_path / "run"), device="cpu")
    predict_inline(config)
    rows = read_table(RunStore(str(tmp_path / "run")), "cases").to_pylist()
    told = {row["case_id"]: (row["evaluation"], row["evaluation_message"]) for row in rows}
    assert {one.case_id: (one.failure.category, one.failure.message) for one in found.unscored} == {
        case_id: outcome for case_id, outcome in told.items() if outcome[0] not in (None, "ok")
    }
    assert {one.failure.category for one in found.unscored} == {
        Category.UNREADABLE_FILE,
        Category.GEOMETRY_MISMATCH,
        Category.UNKNOWN_COHORT,
    }


def test_without_a_spec_no_reference_is_looked_at(referenced: Path) -> None:
    found = check_cohort(CheckConfig(cohort=str(referenced), spec="none"))
    assert (found.unscored, len(found.runnable)) == ((), 5)


def test_sites_grids_and_sizes_are_counted_over_what_would_run(tmp_path: Path) -> None:
    for number in range(3):
        write_case(tmp_path, f"case-{number}")
    (write_case(tmp_path, "broken") / "broken-t1c.nii.gz").write_bytes(b"")
    coarse = write_case(tmp_path, "coarse")
    for path in coarse.iterdir():
        nib.save(nib.Nifti1Image(np.ones((5, 6, 7), np.int16), np.diag([2, 2, 2.5, 1])), path)
    (tmp_path / "sites.csv").write_text("case_id,site\ncase-0,north\ncase-1,north\nbroken,north\ncoarse,south\n")
    found = check_cohort(CheckConfig(cohort=str(tmp_path), sites=str(tmp_path / "sites.csv")))
    assert found.sites == [("north", 2, 1), ("south", 1, 0), (None, 1, 0)]
    assert found.grids == [(GridKind(SHAPE, (1, 1, 1)), 3), (GridKind((5, 6, 7), (2, 2, 2.5)), 1)]
    healthy = [path for path in tmp_path.glob("*/*.nii.gz") if path.parent.name != "broken"]
    assert found.input_bytes == sum(path.stat().st_size for path in healthy)
    assert (found.discovered, found.skipped) == (5, 0)


def test_cases_beyond_the_limit_are_not_looked_at(tmp_path: Path) -> None:
    for number in range(4):
        write_case(tmp_path, f"case-{number}")
    (tmp_path / "case-3" / "case-3-t1c.nii.gz").write_bytes(b"")
    ticks: list[tuple[int, int]] = []
    found = check_cohort(CheckConfig(cohort=str(tmp_path), limit=2), lambda done, total: ticks.append((done, total)))
    assert (found.discovered, len(found.runnable), found.skipped) == (4, 2, 2)
    assert not found.failures
    assert ticks == [(1, 2), (2, 2)]


def test_a_manifest_may_name_what_is_not_there(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    names = ",".join(f"a/a-{modality}.nii.gz" for modality in ("t1c", "t1n", "t2f", "t2w"))
    (tmp_path / "list.csv").write_text(f"case_id,t1c,t1n,t2f,t2w\na,{names}\nb,{names.replace('a-t2f', 'b-t2f')}\n")
    found = check_cohort(CheckConfig(cohort=str(tmp_path / "list.csv")))
    assert [one.case.case_id for one in found.runnable] == ["a"]
    ((failed),) = found.failures
    assert (failed.case_id, failed.failure.category) == ("b", Category.MISSING_MODALITY)


@pytest.mark.parametrize("cohort", ["nowhere", "empty", "ftp://host/cohort"])
def test_a_cohort_that_is_none_is_refused(cohort: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=cohort):
        check_cohort(CheckConfig(cohort=cohort))


def test_a_cohort_on_s3_is_looked_at_as_one_on_a_disk(faulty: Path, s3_bucket: str, s3_endpoint: str) -> None:
    import boto3

    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    for path in sorted(faulty.glob("*/*")):
        key = f"cohort/{path.relative_to(faulty).as_posix()}"
        s3.put_object(Bucket=s3_bucket.removeprefix("s3://"), Key=key, Body=path.read_bytes())
    here, there = (check_cohort(CheckConfig(cohort=place)) for place in (str(faulty), f"{s3_bucket}/cohort"))
    categories = [{one.case_id: one.failure.category for one in found.failures} for found in (here, there)]
    assert categories[0] == categories[1]
    assert (there.input_bytes, there.grids) == (here.input_bytes, here.grids)


def test_plain_values_tell_everything() -> None:
    case = Case("a", {}, reference="a-seg.nii.gz", site="north")
    failure = Failure(Category.UNKNOWN_COHORT, "not known", "name it", "finish")
    runnable = Runnable(case, GridKind((4, 5, 6), (1, 1, 2.5)), 100, 10, failure)
    found = Preflight("c", (runnable,), (FailedCase("b", failure, None, "GLI"),), 3, ("careful",))
    plain = {"category": "unknown_cohort", "message": "not known", "hint": "name it", "stage": "finish", "attempts": 1}
    assert found.to_dict() == {
        "cohort": "c",
        "discovered": 5,
        "would_run": 1,
        "would_fail": 1,
        "skipped": 3,
        "input_bytes": 110,
        "sites": [
            {"site": "north", "would_run": 1, "would_fail": 0},
            {"site": None, "would_run": 0, "would_fail": 1},
        ],
        "grids": [{"size_vox": [4, 5, 6], "spacing_mm": [1, 1, 2.5], "cases": 1}],
        "failures": [{"case_id": "b", "site": None, "cohort": "GLI", **plain}],
        "references": 1,
        "unscored": [{"case_id": "a", "site": "north", "cohort": None, **plain}],
        "warnings": ["careful"],
    }
