from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from goat_ray.cases import discover
from goat_ray.demo.cohort import BROKEN_CASE, DEMO_CASES, write_demo_cohort
from goat_ray.demo.phantoms import SITES, TUMOURS, make_phantom
from goat_ray.errors import CaseError, Category
from goat_ray.imaging.nifti import decode_labels
from goat_ray.imaging.reading import load_case

SHAPE = (32, 40, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cohort")
    write_demo_cohort(path, shape=SHAPE)
    return path


def test_discovery_finds_every_case_with_reference_site_and_cohort(folder: Path) -> None:
    found = discover(str(folder), sites=str(folder / "sites.csv"))
    assert not found.failures
    assert [(case.case_id, case.site, case.cohort) for case in found.cases] == [
        (case.case_id, case.site, "phantoms") for case in DEMO_CASES
    ]
    assert all(case.reference for case in found.cases)


def test_all_tumour_types_and_sites_are_among_the_good_cases() -> None:
    good = [case for case in DEMO_CASES if case.case_id != BROKEN_CASE]
    assert {case.tumour for case in good} == set(TUMOURS)
    assert {case.site for case in good} == set(SITES)


def test_exactly_the_broken_case_cannot_be_read(folder: Path) -> None:
    broken = {}
    for case in discover(str(folder)).cases:
        try:
            load_case(case)
        except CaseError as error:
            broken[case.case_id] = error.category
    assert broken == {BROKEN_CASE: Category.UNREADABLE_FILE}


def test_files_hold_the_phantom(folder: Path) -> None:
    case = DEMO_CASES[0]
    phantom = make_phantom(case.seed, SHAPE, case.tumour, case.site)
    stem = folder / case.case_id / case.case_id
    image = nib.load(f"{stem}-t1c.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(image.affine, phantom.affine)
    assert np.array_equal(np.asanyarray(image.dataobj), np.rint(phantom.images["t1c"]))
    labels, grid = decode_labels(Path(f"{stem}-seg.nii.gz").read_bytes(), "seg")
    assert np.array_equal(labels, phantom.labels)
    assert np.array_equal(grid.affine, phantom.affine)


def test_writing_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_demo_cohort(tmp_path, DEMO_CASES[:1], SHAPE)
    for path in (tmp_path / DEMO_CASES[0].case_id).iterdir():
        assert path.read_bytes() == (folder / path.parent.name / path.name).read_bytes()
