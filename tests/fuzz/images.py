"""Targets that read images: bytes, headers, gzip files, and a case with one damaged file."""

import gzip
import hashlib
import json
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np

from goat_ray.cases import Case
from goat_ray.errors import CaseError
from goat_ray.imaging.geometry import network_spacing_mm, to_network_axes
from goat_ray.imaging.nifti import Grid, Image, decode_image, decode_labels, encode_labels, peek_header
from goat_ray.imaging.reading import load_case
from goat_ray.labels import MODALITIES
from tests.fuzz import mutations
from tests.fuzz.engine import Target

MAX_VOXELS = 64**3
_NAME = "case-t1c.nii.gz"
_AFFINE = np.array([[-1.0, 0, 0, 90], [0, 0, -2.0, 120], [0, 1.5, 0, -60], [0, 0, 0, 1]])
_VALUES = np.random.default_rng(0).integers(0, 4, (6, 5, 4))


def image_targets(folder: Path) -> Iterator[Target]:
    """Every target that reads images."""
    files = intact_files()
    spoilt = (*files, *_signalling_files())
    damages = {
        "nifti bytes": partial(_damaged_bytes, spoilt),
        "nifti header": partial(_damaged_header, spoilt),
        "nifti gzip": partial(_tricky_gzip, spoilt),
    }
    for name, damage in damages.items():
        yield Target(name, files, damage, _read_image, CaseError)
    yield _case_target(folder, files[1], tuple(damages.values()))


def intact_files() -> tuple[bytes, ...]:
    """Uncompressed files of both versions and byte orders, one scaled, one with an extension."""
    kinds = (
        (nib.Nifti1Image, "uint8", "<"),
        (nib.Nifti1Image, "int16", ">"),
        (nib.Nifti1Image, "float32", "<"),
        (nib.Nifti2Image, "float64", "<"),
        (nib.Nifti2Image, "int32", ">"),
    )
    files = [_file(*kind) for kind in kinds]
    scaled = bytearray(_file(nib.Nifti1Image, "int16", "<"))
    scaled[112:120] = struct.pack("<ff", 2, 0)
    return (*files, bytes(scaled))


def _file(kind: Any, dtype: str, order: str) -> bytes:
    image = kind(_VALUES.astype(dtype), _AFFINE, kind.header_class(endianness=order), dtype=dtype)
    if dtype == "float32":
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PATIENT^NAME"))
    data: bytes = image.to_bytes()
    return data


def _signalling_files() -> Iterator[bytes]:
    """Files full of signalling NaN, on which the plainest arithmetic warns."""
    for dtype, word in (("float32", b"\x01\x00\x80\x7f"), ("float64", b"\x01\x00\x00\x00\x00\x00\xf0\x7f")):
        plain = _file(nib.Nifti1Image, dtype, "<")
        voxels = word * _VALUES.size
        yield plain[: -len(voxels)] + voxels


def _damaged_bytes(files: tuple[bytes, ...], rng: Random) -> bytes:
    pack = rng.choice([bytes, partial(gzip.compress, compresslevel=1, mtime=0)])
    if rng.random() < 0.5:
        return pack(mutations.damaged_bytes(rng, rng.choice(files), rng.choice(files)))
    return mutations.damaged_bytes(rng, pack(rng.choice(files)), pack(rng.choice(files)))


def _damaged_header(files: tuple[bytes, ...], rng: Random) -> bytes:
    raw = mutations.damaged_header(rng, rng.choice(files))
    return raw if rng.random() < 0.5 else gzip.compress(raw, compresslevel=1, mtime=0)


def _tricky_gzip(files: tuple[bytes, ...], rng: Random) -> bytes:
    return mutations.tricky_gzip(rng, rng.choice(files), rng.choice(files))


def _read_image(data: bytes) -> None:
    try:
        grid = peek_header(data, len(data), _NAME, max_voxels=MAX_VOXELS)
    except CaseError:
        _must_refuse(lambda: decode_image(data, _NAME, max_voxels=MAX_VOXELS))
        raise
    _check_grid(grid)
    image = decode_image(data, _NAME, max_voxels=MAX_VOXELS)
    assert grid.shape == image.grid.shape
    np.testing.assert_array_equal(grid.pixdim_mm, image.grid.pixdim_mm)
    np.testing.assert_array_equal(grid.affine, image.grid.affine)
    assert image.data.shape == grid.shape
    assert image.data.dtype.isnative
    compare_with_nibabel(data, image)
    _check_labels(data, image)


def _must_refuse(read: Callable[[], object]) -> None:
    try:
        read()
    except CaseError:
        return
    raise AssertionError("the voxels of a file are read whose header is refused")


def _check_grid(grid: Grid) -> None:
    assert np.prod(grid.shape) <= MAX_VOXELS
    assert np.isfinite(np.linalg.inv(grid.affine)).all()
    for spacing in (grid.spacing_mm, grid.stored_spacing_mm, network_spacing_mm(grid)):
        assert np.isfinite(spacing).all()
        assert min(spacing) > 0
    assert 0 < grid.voxel_volume_mm3 < np.inf
    assert json.dumps(grid.to_dict(), allow_nan=False)
    assert sorted(to_network_axes(np.empty(grid.shape), grid.affine).shape) == sorted(grid.shape)


def _check_labels(data: bytes, image: Image) -> None:
    """As a label map the file has the same values, and what is written on its grid is read back there."""
    labels, grid = decode_labels(data, _NAME, max_voxels=MAX_VOXELS)
    np.testing.assert_array_equal(labels, image.data)
    again, where = decode_labels(encode_labels(labels, grid), _NAME)
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_allclose(where.affine, grid.affine, rtol=1e-6, atol=1e-6 * max(grid.spacing_mm))


def compare_with_nibabel(data: bytes, image: Image) -> None:
    """Values and affine must be those of nibabel, where it reads the file at all."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        theirs = _read_with_nibabel(data)
        if theirs is None:
            return
        stored = theirs.dataobj.get_unscaled().astype(np.float64).reshape(image.data.shape)
        slope, intercept = theirs.dataobj.slope, theirs.dataobj.inter
        size, expected = np.abs(stored * slope) + abs(intercept), stored * slope + intercept
        differ = ~(np.abs(image.data.astype(np.float64) - expected) <= 1e-6 * size + 1e-44)
    comparable = size < np.finfo(np.float32).max  # beyond it, and for NaN, there is no difference to be told
    assert not (differ & comparable).any()
    np.testing.assert_array_equal(np.isnan(image.data), np.isnan(expected) | np.isnan(image.data) & ~comparable)
    scale = {1: 1000.0, 3: 0.001}.get(int(theirs.header["xyzt_units"]) & 7, 1.0)
    np.testing.assert_allclose(image.grid.affine[:3], theirs.affine[:3] * scale, rtol=1e-12)


def _read_with_nibabel(data: bytes) -> Any:
    """nibabel's image of a file it reads; None for others, and where it takes voxels for the header's place."""
    try:
        raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error):  # behind the last voxel, where nobody needs to look
        return None
    kind, log = mutations.image_class(raw), nib.imageglobals.logger
    log.disabled, was_disabled = True, log.disabled
    try:
        image = kind.from_bytes(raw)
        image.dataobj.get_unscaled()
    except Exception:  # noqa: BLE001 - what nibabel makes of files it refuses is its own affair
        return None
    finally:
        log.disabled = was_disabled
    return image if image.dataobj.offset else None


def _case_target(folder: Path, intact: bytes, damages: tuple[Callable[[Random], bytes], ...]) -> Target:
    folder.mkdir(parents=True)
    case = Case("case-1", {modality: str(folder / f"case-1-{modality}.nii.gz") for modality in MODALITIES})
    for uri in case.images.values():
        Path(uri).write_bytes(gzip.compress(intact))

    def read(data: bytes) -> None:
        Path(case.images["t1n"]).write_bytes(data)
        loaded = load_case(case, max_voxels=MAX_VOXELS)
        assert loaded.crop.shape == (4, *loaded.box.shape) == (4, *loaded.mask.shape)
        assert np.isfinite(loaded.crop).all()
        assert loaded.inputs["t1n"].sha256 == hashlib.sha256(data).hexdigest()
        _check_grid(loaded.grid)

    return Target("case", (intact,), lambda rng: rng.choice(damages)(rng), read, CaseError)
