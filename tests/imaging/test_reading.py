import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from goat_ray.cases import Case, discover
from goat_ray.errors import CaseError, Category
from goat_ray.imaging.reading import LoadedCase, load_case
from goat_ray.labels import MODALITIES

pytest_plugins = ("tests.s3_server",)

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])  # RAS


def brain(dtype: str = "int16", seed: int = 0) -> np.ndarray:
    data = np.zeros((8, 9, 7), dtype)
    data[1:6, 2:8, 1:5] = np.random.default_rng(seed).integers(1, 100, (5, 6, 4))
    data[3, 4, 2] = 0  # a hole
    return data


def case_of(folder: Path, **replaced: np.ndarray | bytes | None) -> Case:
    """A case of four files; a modality's data can be given, as an array or bytes, or None for no file."""
    images = {}
    for seed, modality in enumerate(MODALITIES):
        content = replaced.get(modality, brain(seed=seed))
        path = folder / f"case-{modality}.nii.gz"
        images[modality] = str(path)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            nib.save(nib.Nifti1Image(content, AFFINE, dtype=content.dtype), path)
    return Case("case", images)


def failure(case: Case) -> CaseError:
    with pytest.raises(CaseError) as caught:
        load_case(case)
    return caught.value


def test_a_case_is_cropped_in_network_axes_and_modality_order(tmp_path):
    loaded = load_case(case_of(tmp_path, t2f=brain("float64", seed=2)))
    assert loaded.full_shape == (7, 9, 8)
    assert (loaded.box.start, loaded.box.stop) == ((1, 1, 2), (5, 7, 7))  # RAS to LPS turns y and x round
    assert loaded.crop.dtype == np.float32
    assert loaded.crop.flags.c_contiguous
    for channel, seed in zip(loaded.crop, range(4), strict=True):
        whole = brain(seed=seed).transpose(2, 1, 0)[:, ::-1, ::-1]
        np.testing.assert_array_equal(channel, whole[loaded.box.slices])
    assert loaded.mask.all()
    assert loaded.grid.shape == (8, 9, 7)


def test_a_scan_is_known_again_in_other_bytes_and_orientation_and_with_another_margin(tmp_path):
    scan = load_case(case_of(tmp_path)).scan_sha256
    flipped = tmp_path / "flipped"
    flipped.mkdir()
    images = {}
    for seed, modality in enumerate(MODALITIES):
        images[modality] = str(flipped / f"{modality}.nii")
        padded = np.pad(brain("float32", seed=seed)[::-1], 2)
        nib.save(nib.Nifti1Image(padded, np.diag([-1.0, 1.0, 2.0, 1.0])), images[modality])
    assert load_case(Case("other", images)).scan_sha256 == scan
    assert load_case(case_of(tmp_path, t1c=brain(seed=9))).scan_sha256 != scan
    assert load_case(case_of(tmp_path, t2w=brain(seed=9))).scan_sha256 == scan


def test_the_inputs_are_recorded(tmp_path):
    case = case_of(tmp_path)
    path = tmp_path / "case-t2w.nii.gz"
    data = path.read_bytes()
    assert load_case(case).inputs["t2w"].to_dict() == {
        "name": "case-t2w.nii.gz",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "version": str(path.stat().st_mtime_ns),
    }


def test_an_absent_file_is_a_missing_modality(tmp_path):
    error = failure(case_of(tmp_path, t1n=None))
    assert error.category is Category.MISSING_MODALITY
    assert error.message.startswith("t1n: ")
    assert error.message.endswith("case-t1n.nii.gz does not exist.")


def test_a_file_that_cannot_be_read_is_unreadable(tmp_path):
    case = case_of(tmp_path, t1n=None)
    (tmp_path / "case-t1n.nii.gz").mkdir()
    assert failure(case).category is Category.UNREADABLE_FILE


def test_an_object_that_cannot_be_read_is_unreadable_and_an_absent_one_missing(tmp_path, s3_bucket, s3_endpoint):
    import boto3

    s3, name = boto3.client("s3", endpoint_url=s3_endpoint), s3_bucket.removeprefix("s3://")
    local = case_of(tmp_path)
    for modality in MODALITIES:
        tier = "GLACIER" if modality == "t2f" else "STANDARD"
        s3.put_object(Bucket=name, Key=modality, Body=Path(local.images[modality]).read_bytes(), StorageClass=tier)
    case = Case("case", {modality: f"{s3_bucket}/{modality}" for modality in MODALITIES})
    assert failure(case).category is Category.UNREADABLE_FILE
    s3.delete_object(Bucket=name, Key="t2f")
    assert failure(case).category is Category.MISSING_MODALITY
    s3.put_object(Bucket=name, Key="t2f", Body=Path(local.images["t2f"]).read_bytes())
    np.testing.assert_array_equal(load_case(case).crop, load_case(local).crop)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found_even_outside_the_brain(tmp_path, value):
    data = brain("float32")
    data[7, 8, 6] = value
    error = failure(case_of(tmp_path, t2w=data))
    assert error.category is Category.INVALID_VALUES
    assert error.message == "t2w is not finite everywhere; NaN or infinite voxels: 1."


def test_values_beyond_float32_are_refused(tmp_path):
    data = brain("float64")
    data[3, 3, 3] = 1e300
    assert failure(case_of(tmp_path, t1c=data)).category is Category.INVALID_VALUES


def test_an_empty_modality_is_named(tmp_path):
    error = failure(case_of(tmp_path, t2f=np.zeros((8, 9, 7), np.int16)))
    assert error.category is Category.EMPTY_IMAGE
    assert error.message == "t2f is zero everywhere."


def test_a_case_without_any_signal_is_empty(tmp_path):
    error = failure(case_of(tmp_path, **dict.fromkeys(MODALITIES, np.zeros((8, 9, 7), np.int16))))
    assert error.category is Category.EMPTY_IMAGE
    assert "t1c and t1n and t2f and t2w" in error.message


def test_another_shape_is_a_geometry_mismatch(tmp_path):
    error = failure(case_of(tmp_path, t2w=brain()[:-1]))
    assert error.category is Category.GEOMETRY_MISMATCH
    assert "t2w is not on t1c's grid: shape 7×9×7" in error.message


def test_another_affine_is_a_geometry_mismatch(tmp_path):
    case = case_of(tmp_path)
    nib.save(nib.Nifti1Image(brain(), np.diag([1.0, 1, 2.01, 1])), case.images["t1n"])
    assert "t1n is not on t1c's grid: spacing" in failure(case).message


@pytest.mark.parametrize("content", [b"", b"not an image\n", b"\x1f\x8b\x08\x00broken"])
def test_a_file_that_is_no_image_is_unreadable(tmp_path, content):
    error = failure(case_of(tmp_path, t1c=content))
    assert error.category is Category.UNREADABLE_FILE
    assert "case-t1c.nii.gz" in error.message


def test_the_limit_on_size_is_the_callers(tmp_path):
    case = case_of(tmp_path)
    with pytest.raises(CaseError) as caught:
        load_case(case, max_voxels=100)
    assert caught.value.category is Category.TOO_LARGE


@pytest.mark.real_data
def test_real_cases_are_what_nnunet_makes_of_them(data_root):
    cropping = pytest.importorskip("nnunetv2.preprocessing.cropping.cropping")
    case = next(c for c in discover(str(data_root / "cohort")).cases if c.case_id == "TCGA-FG-6692")
    loaded: LoadedCase = load_case(case)
    volumes = [np.asanyarray(nib.load(case.images[modality]).dataobj).T for modality in MODALITIES]
    data, outside, _ = cropping.crop_to_nonzero(np.stack(volumes).astype(np.float32))
    np.testing.assert_array_equal(loaded.crop, data)
    np.testing.assert_array_equal(loaded.mask, outside[0] == 0)
