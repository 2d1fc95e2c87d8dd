"""Headers alone tell what reading whole files would, in the same words."""

import gzip
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from goat_ray import storage
from goat_ray.cases import Case
from goat_ray.errors import CaseError, Category
from goat_ray.imaging.nifti import Grid, encode_labels
from goat_ray.imaging.preview import _START_BYTES, preview_case, preview_labels
from goat_ray.imaging.reading import load_case, load_labels
from goat_ray.labels import MODALITIES
from tests.imaging.test_reading import brain, case_of

pytest_plugins = ("tests.s3_server",)

VOXELS_ONLY = ("finite everywhere", "zero everywhere")


def plain_file() -> bytes:
    """A small `.nii` without compression, whose voxels hold 1 whatever they are taken for."""
    return zlib.decompress(encode_labels(np.ones((8, 9, 7), np.uint8), Grid((8, 9, 7), np.eye(4))), wbits=31)


def write_case(folder: Path, **replaced: bytes) -> Case:
    images = {modality: str(folder / f"case-{modality}.nii") for modality in MODALITIES}
    for modality, path in images.items():
        Path(path).write_bytes(replaced.get(modality, plain_file()))
    return Case("case", images)


def error_of(look: object, case: Case) -> tuple[Category, str, str] | None:
    try:
        look(case)  # type: ignore[operator]
    except CaseError as error:
        return error.category, error.message, error.hint
    return None


def headers_of(case: Case) -> None:
    preview_case(case, {})


def agrees(case: Case) -> tuple[Category, str, str] | None:
    """What both ways of looking at a case find."""
    seen, read = error_of(headers_of, case), error_of(load_case, case)
    if not (seen is None and read is not None and any(words in read[1] for words in VOXELS_ONLY)):
        assert seen == read
    return seen


CHANGES = st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(changes=CHANGES, modality=st.sampled_from(MODALITIES), cut=st.none() | st.integers(0, 856))
@example(changes=[(43, 0x7F)], modality="t1c", cut=None)  # a side of 32,000 voxels
@example(changes=[(70, 32)], modality="t2f", cut=None)  # complex numbers
@example(changes=[(40, 4), (48, 2)], modality="t2w", cut=None)  # 4-D
def test_whatever_is_done_to_a_header_is_found_as_reading_finds_it(
    changes: list[tuple[int, int]], modality: str, cut: int | None
) -> None:
    data = bytearray(plain_file())
    for place, value in changes:
        data[place] = value
    with tempfile.TemporaryDirectory() as folder:
        agrees(write_case(Path(folder), **{modality: bytes(data[:cut])}))


@pytest.mark.parametrize(
    ("data", "category"),
    [
        (b"", Category.UNREADABLE_FILE),
        (b"not an image\n", Category.UNREADABLE_FILE),
        (b"\x1f\x8b\x08\x00broken", Category.UNREADABLE_FILE),
        (plain_file()[:-1], Category.UNREADABLE_FILE),
        (gzip.compress(plain_file()[:300]), Category.UNREADABLE_FILE),
    ],
    ids=["empty", "text", "broken gzip", "a byte short", "a header cut short"],
)
def test_a_file_that_is_no_image_is_unreadable(data: bytes, category: Category, tmp_path: Path) -> None:
    found = agrees(write_case(tmp_path, t1n=data))
    assert found is not None
    assert found[0] == category
    assert "case-t1n.nii" in found[1]


def with_notes(notes: bytes) -> bytes:
    """A compressed image with an extra field before its data."""
    packed = gzip.compress(plain_file(), mtime=0)
    return packed[:3] + b"\x04" + packed[4:10] + struct.pack("<H", len(notes)) + notes + packed[10:]


def test_notes_of_gzip_longer_than_what_is_read_first_do_not_hide_the_header(tmp_path: Path) -> None:
    data = with_notes(bytes(65535))
    assert data.find(gzip.compress(plain_file(), mtime=0)[10:]) > _START_BYTES
    case = write_case(tmp_path, t2w=data)
    assert agrees(case) is None
    assert preview_case(case, {}).grid.shape == (8, 9, 7)


def test_images_on_other_grids_and_files_that_are_gone_are_found(tmp_path: Path) -> None:
    mismatch = agrees(case_of(tmp_path, t2w=brain()[:-1]))
    assert mismatch is not None
    assert mismatch[0] is Category.GEOMETRY_MISMATCH
    absent = case_of(tmp_path)
    Path(absent.images["t2f"]).unlink()
    missing = agrees(absent)
    assert missing is not None
    assert missing[0] is Category.MISSING_MODALITY
    Path(absent.images["t2f"]).mkdir()
    folder = agrees(absent)
    assert folder is not None
    assert folder[0] is Category.UNREADABLE_FILE


def test_the_limit_on_size_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(CaseError) as caught:
        preview_case(case_of(tmp_path), {}, max_voxels=100)
    assert caught.value.category is Category.TOO_LARGE


def test_a_file_larger_than_any_volume_is_not_opened(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    with Path(case.images["t1c"]).open("r+b") as file:
        file.truncate(2**31)
    found = agrees(case)
    assert found is not None
    assert found[0] is Category.TOO_LARGE
    assert "more than any volume needs" in found[1]


def test_sizes_are_of_the_files_and_come_from_a_listing_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = write_case(tmp_path)
    stats = {uri: storage.stat(uri) for uri in case.images.values()}
    monkeypatch.delattr(storage, "stat")
    assert preview_case(case, stats).size == 4 * len(plain_file())


def test_only_the_start_of_a_large_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 80)).astype(np.uint8)
    path = tmp_path / "labels.nii.gz"
    path.write_bytes(encode_labels(noise, Grid(noise.shape, np.diag([1.0, 1.0, 2.0, 1.0]))))
    assert path.stat().st_size > 4 * _START_BYTES
    monkeypatch.delattr(storage, "read_bytes")
    found = preview_labels(str(path), "reference", Category.MISSING_REFERENCE, {})
    assert (found.grid.shape, found.grid.spacing_mm, found.size) == ((80, 80, 80), (1, 1, 2), path.stat().st_size)


@pytest.mark.parametrize("data", [None, b"", b"no image"])
def test_a_label_map_is_called_by_its_role(data: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "seg.nii.gz"
    if data is not None:
        path.write_bytes(data)
    errors = []
    for look in (
        lambda: preview_labels(str(path), "reference", Category.MISSING_REFERENCE, {}),
        lambda: load_labels(str(path), "reference", Category.MISSING_REFERENCE),
    ):
        with pytest.raises(CaseError) as caught:
            look()
        errors.append((caught.value.category, caught.value.message, caught.value.hint))
    assert errors[0] == errors[1]
    assert "reference" in errors[0][1]


def test_objects_are_looked_at_as_files_are(tmp_path: Path, s3_bucket: str, s3_endpoint: str) -> None:
    import boto3

    s3, name = boto3.client("s3", endpoint_url=s3_endpoint), s3_bucket.removeprefix("s3://")
    case = Case("case", {modality: f"{s3_bucket}/{modality}.nii" for modality in MODALITIES})
    for modality in MODALITIES:
        s3.put_object(Bucket=name, Key=f"{modality}.nii", Body=plain_file())
    assert agrees(case) is None
    assert preview_case(case, {}).grid.shape == (8, 9, 7)
    s3.put_object(Bucket=name, Key="t2f.nii", Body=b"")
    empty = agrees(case)
    assert empty is not None
    assert empty[:2] == (Category.UNREADABLE_FILE, "t2f.nii is not a NIfTI file, compressed or plain.")
    s3.delete_object(Bucket=name, Key="t2f.nii")
    missing = agrees(case)
    assert missing is not None
    assert missing[0] is Category.MISSING_MODALITY
