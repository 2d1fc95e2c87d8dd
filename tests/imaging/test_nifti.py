import gzip
import itertools
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from goat_ray.errors import CaseError, Category
from goat_ray.imaging.nifti import (
    Grid,
    decode_image,
    decode_labels,
    encode_labels,
    encode_probabilities,
    peek_header,
)

AFFINE = np.array([[-1.0, 0, 0, 90], [0, 0, -2.0, 120], [0, 1.5, 0, -60], [0, 0, 0, 1]])
OBLIQUE = np.array([[0.9, -0.2, 0.1, -70], [0.3, 1.1, 0.2, -90.5], [-0.1, -0.15, 1.3, 40.25], [0, 0, 0, 1]])


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_z, about_x = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * (0.9, 1.0, 1.2)
    affine[:3, 3] = (-71.5, 33.25, 120)
    return affine


def volume(dtype: str = "int16", shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    return values if np.dtype(dtype).kind == "u" else values - np.asarray(20, dtype)


def nifti(data: np.ndarray, affine: np.ndarray | None = None, kind: type = nib.Nifti1Image, **header: object) -> bytes:
    """The bytes of an image as nibabel writes them; `header` fields are set, unchecked, in the finished file."""
    image = kind(data, AFFINE if affine is None else affine, dtype=data.dtype)
    raw = image.to_bytes()
    if header:
        size = image.header.sizeof_hdr
        changed = type(image.header)(raw[:size], check=False)
        for name, value in header.items():
            changed[name] = value
        raw = changed.binaryblock + raw[size:]
    return raw


def grid_of(data):
    """The grid of a whole file, from its header."""
    return peek_header(data, len(data), "a")


def refusal(data: bytes, read=decode_image, **options: int) -> CaseError:
    with pytest.raises(CaseError) as caught:
        read(data, "case-t1c.nii.gz", **options)
    assert caught.value.message.startswith("case-t1c.nii.gz")
    assert caught.value.hint
    return caught.value


NUMBER_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


@pytest.mark.parametrize("dtype", NUMBER_TYPES)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", "<>")
def test_values_and_affine_are_those_nibabel_reads(dtype, kind, order):
    header = kind.header_class(endianness=order)
    raw = kind(volume(dtype), OBLIQUE, header, dtype=dtype).to_bytes()
    expected = kind.from_bytes(raw)
    for data in (raw, gzip.compress(raw)):
        image = decode_image(data, "a")
        np.testing.assert_array_equal(image.data, np.asanyarray(expected.dataobj))
        np.testing.assert_array_equal(image.grid.affine, expected.affine)
        assert image.data.dtype == np.dtype(dtype)
        assert image.grid.shape == (4, 5, 6)
        assert image.data.T.flags.c_contiguous


@pytest.mark.parametrize(("sform", "qform"), list(itertools.product((0, 1, 4), (0, 1))))
def test_the_affine_is_the_sform_else_the_qform_else_the_voxel_sizes(sform, qform):
    image = nib.Nifti1Image(volume(), AFFINE)
    image.set_sform(AFFINE, sform)
    image.set_qform(rotation(20), qform)
    expected = nib.Nifti1Image.from_bytes(image.to_bytes()).affine
    np.testing.assert_array_equal(grid_of(image.to_bytes()).affine, expected)


def test_extensions_before_the_voxels_are_skipped():
    image = nib.Nifti1Image(volume(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 3000))
    np.testing.assert_array_equal(decode_image(gzip.compress(image.to_bytes()), "a").data, volume())


def test_scaling_is_applied_in_float32():
    image = decode_image(nifti(volume("int32"), scl_slope=0.5, scl_inter=-3), "a")
    assert image.data.dtype == np.float32
    np.testing.assert_array_equal(image.data, volume("int32") * np.float32(0.5) - 3)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0, 7), (np.nan, np.nan)])
def test_no_scaling_leaves_the_number_type_alone(slope, intercept):
    assert decode_image(nifti(volume(), scl_slope=slope, scl_inter=intercept), "a").data.dtype == np.int16


def test_trailing_dimensions_of_one_are_dropped():
    assert decode_image(nifti(volume(shape=(4, 5, 6, 1, 1))), "a").grid.shape == (4, 5, 6)


@pytest.mark.parametrize(("code", "scale"), [(1, 1000), (2, 1), (3, 0.001), (0, 1)])
def test_positions_are_in_millimetres_whatever_the_header_counts_in(code, scale):
    grid = grid_of(nifti(volume(), xyzt_units=code | 8))
    np.testing.assert_allclose(grid.affine[:3], AFFINE[:3] * scale)


def test_a_gzip_file_of_several_members_is_read_whole():
    raw = nifti(volume())
    data = gzip.compress(raw[:100]) + gzip.compress(raw[100:500]) + gzip.compress(raw[500:])
    np.testing.assert_array_equal(decode_image(data, "a").data, volume())


def test_a_header_is_read_whatever_became_of_the_voxels():
    damaged = nifti(volume())[:-20]
    for data in (damaged, gzip.compress(damaged)):
        assert peek_header(data, len(data) + 20, "a").shape == (4, 5, 6)
        assert refusal(data).category is Category.UNREADABLE_FILE


def test_spacing_and_voxel_volume_come_from_the_affine():
    grid = Grid((4, 5, 6), AFFINE)
    assert grid.spacing_mm == (1.0, 1.5, 2.0)
    assert grid.voxel_volume_mm3 == pytest.approx(3.0)


def test_a_grid_survives_json():
    grid = Grid.from_dict(Grid((4, 5, 6), OBLIQUE).to_dict())
    assert grid.shape == (4, 5, 6)
    np.testing.assert_array_equal(grid.affine, OBLIQUE)


# --- files that are refused


@pytest.mark.parametrize("kept", [3, 12, 400, 2000, -9, -4, -1])
def test_a_truncated_gzip_is_reported_as_unreadable(kept):
    data = gzip.compress(nifti(np.random.default_rng(0).integers(0, 9999, (16, 16, 16)).astype(np.int16)))
    assert refusal(data[:kept]).category is Category.UNREADABLE_FILE


@pytest.mark.parametrize("kept", [0, 4, 100, 347, 350, 500])
def test_a_truncated_plain_file_is_reported_as_unreadable(kept):
    assert refusal(nifti(volume())[:kept]).category is Category.UNREADABLE_FILE


def test_a_text_file_named_nii_gz_is_reported_as_unreadable():
    error = refusal(b"<html><body>404 Not Found</body></html>" * 20)
    assert error.category is Category.UNREADABLE_FILE
    assert "not a NIfTI file" in error.message


def test_compressed_text_is_reported_as_unreadable():
    assert refusal(gzip.compress(b"hello " * 400)).category is Category.UNREADABLE_FILE


def test_a_wrong_checksum_is_reported_as_unreadable():
    data = bytearray(gzip.compress(nifti(volume())))
    data[-8] ^= 0xFF
    error = refusal(bytes(data))
    assert error.category is Category.UNREADABLE_FILE
    assert "damaged" in error.message


def test_damaged_compressed_data_is_reported_as_unreadable():
    data = bytearray(gzip.compress(nifti(np.random.default_rng(0).integers(0, 9, (16, 16, 16)).astype(np.int16))))
    data[300:340] = b"\xff" * 40
    assert refusal(bytes(data)).category is Category.UNREADABLE_FILE


def test_an_image_pair_is_reported_as_unreadable():
    assert "pair" in refusal(nifti(volume(), magic=b"ni1")).message


@pytest.mark.parametrize("shape", [(4, 5, 6, 2), (4, 5, 6, 1, 3), (4, 5)])
def test_an_image_that_is_not_3d_is_reported(shape):
    error = refusal(nifti(volume(shape=shape)))
    assert error.category is Category.UNSUPPORTED_GEOMETRY
    assert f"{len(shape)}-D" in error.message


@pytest.mark.parametrize("dim", [(3, -4, 5, 6), (3, 0, 5, 6), (0, 4, 5, 6), (9, 4, 5, 6), (-1, 4, 5, 6)])
def test_impossible_dimensions_are_reported(dim):
    error = refusal(nifti(volume(), dim=[*dim, 1, 1, 1, 1]))
    assert error.category is Category.UNREADABLE_FILE
    assert "impossible dimensions" in error.message


def test_more_voxels_than_allowed_are_reported():
    assert refusal(nifti(volume()), max_voxels=119).category is Category.TOO_LARGE
    assert decode_image(nifti(volume()), "a", max_voxels=120).data.size == 120


@pytest.mark.parametrize("dtype", ["complex64", "complex128", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_values_that_are_not_real_numbers_are_reported(dtype):
    assert refusal(nifti(np.zeros((4, 5, 6), dtype))).category is Category.INVALID_VALUES


def test_an_unknown_number_type_is_reported():
    assert "unknown data type" in refusal(nifti(volume(), datatype=12345)).message


@pytest.mark.parametrize("offset", [-16.0, 100.0, 352.5, 1e9, np.inf, np.nan])
def test_a_senseless_place_of_the_voxels_is_reported(offset):
    assert refusal(nifti(volume(), vox_offset=offset)).category is Category.UNREADABLE_FILE


@pytest.mark.parametrize("scaling", [(np.inf, 0), (2, np.nan), (2, np.inf)])
def test_a_senseless_scaling_is_reported(scaling):
    error = refusal(nifti(volume(), scl_slope=scaling[0], scl_inter=scaling[1]))
    assert error.category is Category.UNREADABLE_FILE


@pytest.mark.parametrize("row", [(0, 0, 0, 0), (np.nan, 0, 0, 1), (np.inf, 0, 0, 1), (0, 0, -2, 7)])
def test_an_affine_that_maps_to_no_volume_is_reported(row):
    assert refusal(nifti(volume(), srow_x=row)).category is Category.UNSUPPORTED_GEOMETRY


@pytest.mark.parametrize("sizes", [(1, 0, 1, 1), (1, -1, 1, 1), (1, np.nan, 1, 1)])
def test_voxels_without_a_size_are_reported(sizes):
    data = nifti(volume(), sform_code=0, qform_code=1, pixdim=[*sizes, 0, 0, 0, 0])
    assert refusal(data).category is Category.UNSUPPORTED_GEOMETRY


def test_header_text_never_reaches_a_message():
    data = nifti(volume(shape=(4, 5, 6, 2)), descrip=b"Jane Doe", db_name=b"Jane Doe", intent_name=b"Jane Doe")
    error = refusal(data)
    assert "Jane" not in error.message + error.hint


def peak_bytes(data: bytes) -> int:
    tracemalloc.start()
    try:
        refusal(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_header_that_promises_more_than_the_file_can_hold_costs_no_memory():
    header = nifti(volume(), dim=[3, 512, 512, 512, 1, 1, 1, 1], datatype=64)
    for data in (header, gzip.compress(header), gzip.compress(header + bytes(500_000))):
        assert len(data) < 2000
        assert peak_bytes(data) < 5e6


def test_absurd_dimensions_cost_no_memory():
    data = gzip.compress(nifti(volume(), dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]))
    assert refusal(data).category is Category.TOO_LARGE
    assert peak_bytes(data) < 5e6


def test_a_gzip_bomb_is_not_inflated_beyond_the_image():
    data = gzip.compress(nifti(volume()) + bytes(50_000_000))
    tracemalloc.start()
    try:
        assert decode_image(data, "a").data.shape == (4, 5, 6)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_nifti2_header_with_sides_beyond_64_bits_of_voxels_is_refused():
    data = nifti(volume(), kind=nib.Nifti2Image, dim=[3, 2**40, 2**40, 2**40, 1, 1, 1, 1])
    assert refusal(data).category is Category.TOO_LARGE


# --- label maps


@pytest.mark.parametrize("affine", [AFFINE, rotation(13), rotation(77), np.diag([1.0, -1, 1, 1])])
def test_labels_come_back_with_qform_and_sform(affine):
    labels = volume("uint8") % 4
    data = encode_labels(labels, Grid((4, 5, 6), affine))
    again, grid = decode_labels(data, "a")
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_allclose(grid.affine, affine, atol=1e-5)
    header = nib.Nifti1Image.from_bytes(gzip.decompress(data)).header
    assert header.get_xyzt_units()[0] == "mm"
    for form in (header.get_qform(coded=True), header.get_sform(coded=True)):
        np.testing.assert_allclose(form[0], affine, atol=1e-4)
        assert form[1] == 1


def test_a_sheared_grid_has_no_qform():
    header = nib.Nifti1Image.from_bytes(
        gzip.decompress(encode_labels(np.zeros((4, 5, 6), np.uint8), Grid((4, 5, 6), OBLIQUE)))
    ).header
    assert header.get_qform(coded=True)[1] == 0
    np.testing.assert_allclose(header.get_sform(), OBLIQUE, atol=1e-6)
    np.testing.assert_allclose(header.get_zooms(), np.linalg.norm(OBLIQUE[:3, :3], axis=0), rtol=1e-6)


@pytest.mark.parametrize("affine", [AFFINE, rotation(13), np.diag([-1.0, -1, 1, 1])])
def test_itk_reads_the_same_affine(affine, tmp_path: Path):
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / "labels.nii.gz"
    path.write_bytes(encode_labels(np.zeros((4, 5, 6), np.uint8), Grid((4, 5, 6), affine)))
    image = sitk.ReadImage(str(path))
    directions = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    to_ras = np.diag([-1, -1, 1])  # ITK counts towards left and posterior
    np.testing.assert_allclose(to_ras @ directions, affine[:3, :3], atol=1e-5)
    np.testing.assert_allclose(to_ras @ image.GetOrigin(), affine[:3, 3], atol=1e-4)


def test_label_files_do_not_depend_on_memory_order_and_hold_no_time_or_name():
    labels, grid = volume("uint8"), Grid((4, 5, 6), AFFINE)
    data = encode_labels(labels, grid)
    assert data == encode_labels(np.asfortranarray(labels), grid)
    assert data == encode_labels(labels[::-1][::-1], grid)
    assert struct.unpack("<I", data[4:8]) == (0,)
    assert data[3] == 0
    header = nib.Nifti1Header(gzip.decompress(data)[:348])
    for field in ("descrip", "db_name", "intent_name", "aux_file"):
        assert header[field].item() == b""


@pytest.mark.parametrize("affine", [AFFINE, rotation(13), OBLIQUE])
def test_probabilities_lie_where_labels_lie_and_are_read_as_0_to_1(affine):
    grid = Grid((4, 5, 6), affine)
    steps = np.random.default_rng(3).integers(0, 256, (*grid.shape, 3), np.uint8)
    steps[0, 0, 0] = (0, 255, 254)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(encode_probabilities(steps, grid)))
    found = image.get_fdata()
    assert (image.get_data_dtype(), found.min()) == (np.uint8, 0)
    assert 1 - 1e-6 < found.max() <= 1
    np.testing.assert_allclose(found, steps / 255, rtol=0, atol=1e-6)
    np.testing.assert_allclose(image.dataobj.slope, 1 / 255, rtol=1e-6)
    labels = nib.Nifti1Image.from_bytes(gzip.decompress(encode_labels(np.zeros(grid.shape, np.uint8), grid)))
    for form in ("get_qform", "get_sform"):
        ours, theirs = (getattr(one, form)(coded=True) for one in (image, labels))
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1] == theirs[1]


def test_probabilities_of_another_shape_are_not_written():
    with pytest.raises(ValueError, match="do not fit"):
        encode_probabilities(np.zeros((6, 5, 4, 3), np.uint8), Grid((4, 5, 6), AFFINE))


def test_labels_of_another_shape_are_not_written():
    with pytest.raises(ValueError, match="do not fit"):
        encode_labels(np.zeros((6, 5, 4), np.uint8), Grid((4, 5, 6), AFFINE))


@pytest.mark.parametrize("dtype", NUMBER_TYPES)
def test_labels_may_be_stored_as_any_number_type(dtype):
    labels, _ = decode_labels(nifti((volume("uint8") % 4).astype(dtype)), "a")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, volume("uint8") % 4)


@pytest.mark.parametrize("value", [2.5, -1.0, 256.0, np.nan, np.inf, 1e30])
def test_label_values_that_are_not_0_to_255_are_reported(value):
    data = np.zeros((4, 5, 6), np.float32)
    data[1, 2, 3] = value
    error = refusal(nifti(data), decode_labels)
    assert error.category is Category.INVALID_LABELS
    assert "wrong voxels: 1." in error.message


def test_negative_whole_labels_are_reported():
    assert refusal(nifti(np.full((4, 5, 6), -1, np.int16)), decode_labels).category is Category.INVALID_LABELS


@pytest.mark.real_data
def test_real_files_read_as_nibabel_reads_them(data_root):
    for path in sorted((data_root / "cohort").glob("*/*.nii.gz"))[::11]:
        expected = nib.load(path)
        image = decode_image(path.read_bytes(), path.name)
        np.testing.assert_array_equal(image.data, np.asanyarray(expected.dataobj))
        np.testing.assert_array_equal(image.grid.affine, expected.affine)


def test_the_stored_spacing_is_the_headers_float32_where_it_agrees_with_the_affine():
    affine = np.diag([0.9375, 0.9375, 1.2, 1.0])
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), affine)
    grid = grid_of(image.to_bytes())
    assert grid.stored_spacing_mm == (0.9375, 0.9375, float(np.float32(1.2)))
    assert Grid((3, 4, 5), affine).stored_spacing_mm == grid.stored_spacing_mm
    image.header["pixdim"][1:4] = (1, 1, 1)  # an editor's slip: the affine is what places the voxels
    assert grid_of(image.to_bytes()).stored_spacing_mm == grid.stored_spacing_mm
