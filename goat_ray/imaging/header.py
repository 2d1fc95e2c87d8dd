"""What a NIfTI header says about the voxels after it, checked before anything of their size is allocated."""

import math
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from goat_ray.errors import CaseError, Category

LONGEST_HEADER = 540
"""Bytes of a file that `parse_header` wants to see (fewer if the file is shorter)."""

MAX_VOXELS = 512**3
"""Largest volume that is read or resampled to, unless a caller says otherwise."""

RawHeader: TypeAlias = Any  # nibabel leaves most of its header classes untyped

_HEADERS: dict[int, tuple[Any, bytes]] = {348: (nib.Nifti1Header, b"n+1"), 540: (nib.Nifti2Header, b"n+2")}
_MAX_EXTENSIONS = 2**24
MAX_SIDE = 2048
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_LEAST_SCALE, _LARGEST_SCALE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_SMALLEST_MM, _FARTHEST_MM = 1e-6, 1e9  # sizes and places beyond which float32 and its products fail
_LEAST_INDEPENDENCE = 1e-3  # volume of the box that the three axes' unit vectors span

_RESEND = "Copy or export the file again; it cannot be read as it is."
_AS_3D = "Store one 3-D volume of real numbers per modality."


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """Shape and spacing (x, y, z), affine to RAS mm, and where and how the voxels are stored."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    pixdim_mm: tuple[float, float, float]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float

    @property
    def end(self) -> int:
        """Length of the uncompressed file up to its last voxel, in bytes."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def parse_header(start: bytes, name: str, max_voxels: int) -> Header:
    """Parse the first `LONGEST_HEADER` bytes of an uncompressed NIfTI-1 or NIfTI-2 file.

    Raises:
        CaseError: `unreadable_file`, `unsupported_geometry`, `too_large`, or `invalid_values` for a number
            type that is not real.
        EOFError: the header is incomplete.
    """
    kinds = [(size, order) for size in _HEADERS for order in "<>" if start[:4] == struct.pack(order + "i", size)]
    if not kinds:
        raise unreadable(name, "is not a NIfTI file, compressed or plain.")
    size, order = kinds[0]
    header_class, magic = _HEADERS[size]
    if len(start) < size:
        raise EOFError
    header = header_class(start[:size], endianness=order, check=False)
    if not header["magic"].item().startswith(magic):
        raise unreadable(name, "is half of an Analyze or NIfTI pair; a single .nii or .nii.gz was expected.")
    shape = _shape(header, name, max_voxels)
    storage = _dtype(header, name), _offset(header, name), *_scaling(header, name)
    return Header(shape, _affine(header, name), _pixdim_mm(header), *storage)


def unreadable(name: str, what: str) -> CaseError:
    """The `unreadable_file` error of the file that messages call `name`."""
    return CaseError(Category.UNREADABLE_FILE, f"{name} {what}", _RESEND)


def _shape(header: RawHeader, name: str, max_voxels: int) -> tuple[int, int, int]:
    count, *sides = header["dim"].tolist()
    if not 1 <= count <= 7 or min(sides[:count]) < 1:
        raise unreadable(name, f"has impossible dimensions in its header: {count} of {sides}.")
    sides = sides[:count]
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) != 3:
        found = "×".join(map(str, sides))
        raise CaseError(Category.UNSUPPORTED_GEOMETRY, f"{name} is {len(sides)}-D ({found}), not 3-D.", _AS_3D)
    x, y, z = sides
    if x * y * z > max_voxels or max(sides) > MAX_SIDE:
        raise CaseError(
            Category.TOO_LARGE,
            f"{name} has {x}×{y}×{z} voxels by its header; the limit is {max_voxels}, {MAX_SIDE} a side.",
            "Check the header, or resample the case to about 1 mm.",
        )
    return x, y, z


def _dtype(header: RawHeader, name: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise unreadable(name, f"has an unknown data type code: {header['datatype']}.") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise CaseError(Category.INVALID_VALUES, f"{name} holds {dtype} values, not real numbers.", _AS_3D)
    return dtype


def _offset(header: RawHeader, name: str) -> int:
    offset = float(header["vox_offset"])
    least = header.single_vox_offset
    if not (offset == 0 or (least <= offset <= _MAX_EXTENSIONS and offset.is_integer())):
        raise unreadable(name, f"says that its voxels start at byte {offset:g}.")
    return int(offset) or least


def _scaling(header: RawHeader, name: str) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):  # the standard's and nibabel's ways to say "not scaled"
        return 1.0, 0.0
    # Values are scaled in float32, which NIfTI-2's float64 may leave at either end.
    if not (_LEAST_SCALE <= abs(slope) <= _LARGEST_SCALE and abs(intercept) <= _LARGEST_SCALE):
        raise unreadable(name, f"scales its values by {slope:g} and {intercept:g}.")
    return slope, intercept


def _affine(header: RawHeader, name: str) -> NDArray[np.float64]:
    """Voxel indices to RAS mm, as nibabel chooses: sform, else qform, else the voxel sizes alone."""
    for code in ("sform_code", "qform_code"):
        if header[code].item() not in nib.nifti1.xform_codes:
            header[code] = 0
    with np.errstate(all="ignore"):
        try:
            has_place = header["sform_code"] or (header["pixdim"][1:4] > 0).all()
            affine = np.array(header.get_best_affine() if has_place else np.zeros((4, 4)), dtype=np.float64)
        except (HeaderDataError, ValueError):
            affine = np.zeros((4, 4))
        affine[:3] *= _mm_per_unit(header)
        edges = np.linalg.norm(affine[:3, :3], axis=0)
        independent = np.linalg.det(affine[:3, :3] / edges)
    is_near = np.abs(affine).max() <= _FARTHEST_MM and edges.min() >= _SMALLEST_MM  # never so with NaN
    if not (is_near and abs(independent) > _LEAST_INDEPENDENCE):
        raise CaseError(
            Category.UNSUPPORTED_GEOMETRY,
            f"{name}: its sform, qform and voxel sizes give no usable position of the voxels in space.",
            "Export it again with a valid sform or qform.",
        )
    return affine


def _pixdim_mm(header: RawHeader) -> tuple[float, float, float]:
    x, y, z = (np.abs(header["pixdim"][1:4].astype(np.float64)) * _mm_per_unit(header)).tolist()
    return x, y, z


def _mm_per_unit(header: RawHeader) -> float:
    return _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
