"""NIfTI files as bytes: images and label maps are decoded with care, results encoded reproducibly."""

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from goat_ray.errors import CaseError, Category
from goat_ray.imaging.header import LONGEST_HEADER, MAX_VOXELS, Header, parse_header, unreadable
from goat_ray.labels import LabelMap

_DATA_OFFSET = 352
_MAX_INFLATION = 1032  # what deflate can do at best: a header that promises more than this lies
_BLOCK = 2**20
_SCANNER_ANATOMICAL = 1
_QFORM_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3
# The float32 below 1/255: the nearest one makes 255 a probability above 1.
_PROBABILITY_STEP = float(np.nextafter(np.float32(1 / 255), np.float32(0)))


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the voxels of an image lie: shape (x, y, z) and the 4×4 affine from voxel indices to RAS mm.

    `pixdim_mm` is the spacing that the file's header has beside the affine; see `stored_spacing_mm`.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    pixdim_mm: tuple[float, float, float] | None = None

    @property
    def stored_spacing_mm(self) -> tuple[float, float, float]:
        """The spacing as other programs read it: the header's own numbers, which are float32.

        They count only where they agree with the affine; a grid without a file has those that a file would get.
        """
        x, y, z = (float(np.float32(side)) for side in self.spacing_mm)
        if self.pixdim_mm is None or not np.allclose(self.pixdim_mm, (x, y, z), rtol=_SPACING_TOLERANCE, atol=0):
            return x, y, z
        return self.pixdim_mm

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along (x, y, z)."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of a voxel, also of a sheared one; exact where the axes are (a determinant is not)."""
        i, j, k = self.affine[:3, :3].T
        return float(abs(np.dot(np.cross(i, j), k)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Grid":
        """Inverse of `to_dict`."""
        x, y, z = values["shape"]
        return cls((x, y, z), np.array(values["affine"], dtype=np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A volume (x, y, z) in the file's own orientation and number type (float32 where the file scales)."""

    data: NDArray[Any]
    grid: Grid


def decode_image(data: bytes, name: str, *, max_voxels: int = MAX_VOXELS) -> Image:
    """Read a 3-D image from the bytes of a `.nii` or `.nii.gz` file; which of the two shows in the bytes.

    Args:
        data: the whole file.
        name: what messages call it.
        max_voxels: largest volume that is read.

    Returns:
        Data (x, y, z) as nibabel orders it, and its grid.

    Raises:
        CaseError: `unreadable_file`, `unsupported_geometry`, `too_large`, or `invalid_values` for a number
            type that is not real.
    """
    with _open(data, name) as stream:
        header = parse_header(stream.read(LONGEST_HEADER), name, max_voxels)
        if _promises_more(header, data, len(data)):
            raise EOFError
        _skip(stream, header.offset)
        voxels = np.empty(math.prod(header.shape), dtype=header.dtype)
        _fill(stream, voxels.view(np.uint8).data)
        stream.read(1)  # makes gzip compare its checksum
    if not header.dtype.isnative:
        voxels = voxels.astype(header.dtype.newbyteorder("="))
    if (header.slope, header.intercept) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):  # what this leaves is found by `check_values`
            voxels = voxels.astype(np.float32) * np.float32(header.slope) + np.float32(header.intercept)
    return Image(voxels.reshape(header.shape, order="F"), Grid(header.shape, header.affine, header.pixdim_mm))


def peek_header(start: bytes, size: int, name: str, *, max_voxels: int = MAX_VOXELS) -> Grid:
    """The grid of an image of `size` bytes, from its first bytes alone.

    Raises:
        CaseError: as `decode_image`, except for what only the voxels can tell.
        EOFError: the header goes on beyond `start`, and the file does too.
    """
    with _open(start, name, size) as stream:
        header = parse_header(stream.read(LONGEST_HEADER), name, max_voxels)
    if _promises_more(header, start, size):
        raise _too_short(name, size)
    return Grid(header.shape, header.affine, header.pixdim_mm)


def decode_labels(data: bytes, name: str, *, max_voxels: int = MAX_VOXELS) -> tuple[LabelMap, Grid]:
    """Read a label map (x, y, z), stored as any number type that holds whole numbers from 0 to 255.

    Raises:
        CaseError: `invalid_labels` for other values, otherwise as `decode_image`.
    """
    image = decode_image(data, name, max_voxels=max_voxels)
    if image.data.dtype == np.uint8:
        return image.data, image.grid
    # Written so that NaN counts as wrong.
    wrong = ~((image.data >= 0) & (image.data <= 255))
    if image.data.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # signalling NaN
            wrong |= np.rint(image.data) != image.data
    if wrong.any():
        raise CaseError(
            Category.INVALID_LABELS,
            f"{name} holds {image.data[wrong][0]:g}, but labels are whole numbers from 0 to 255; "
            f"wrong voxels: {np.count_nonzero(wrong)}.",
            "Resample label maps with nearest neighbour and store them as uint8.",
        )
    return image.data.astype(np.uint8), image.grid


def encode_labels(labels: LabelMap, grid: Grid) -> bytes:
    """The `.nii.gz` file of a label map (x, y, z): equal input gives equal bytes, on every machine.

    The sform holds the affine. The qform holds it too unless it is sheared, which a rotation cannot express;
    then only the sform is set. Codes are 1 (scanner anatomical), as in the label maps that BraTS publishes.

    Raises:
        ValueError: the labels do not have the grid's shape.
    """
    if labels.shape != grid.shape:
        raise ValueError(f"labels of shape {labels.shape} do not fit a grid of shape {grid.shape}")
    # Label maps are runs of equal bytes: looking for these alone takes half the time for a few percent of size.
    return _encode(labels.astype(np.uint8, casting="safe", copy=False), grid, 1.0, zlib.Z_RLE)


def encode_probabilities(regions: NDArray[np.uint8], grid: Grid) -> bytes:
    """The `.nii.gz` file of region probabilities (x, y, z, region) in steps of 1/255; otherwise as `encode_labels`.

    Raises:
        ValueError: the probabilities do not have the grid's shape.
    """
    if regions.shape[:-1] != grid.shape:
        raise ValueError(f"probabilities of shape {regions.shape} do not fit a grid of shape {grid.shape}")
    return _encode(regions, grid, _PROBABILITY_STEP, zlib.Z_DEFAULT_STRATEGY)


def _encode(voxels: NDArray[np.uint8], grid: Grid, slope: float, strategy: int) -> bytes:
    header: Any = nib.Nifti1Header(endianness="<")  # type: ignore[no-untyped-call]  # nibabel leaves this untyped
    header.set_data_dtype(np.uint8)
    header.set_data_shape(voxels.shape)
    header.set_xyzt_units("mm")
    header.set_slope_inter(slope, 0)
    header["vox_offset"] = _DATA_OFFSET
    header["magic"] = b"n+1"
    header.set_qform(grid.affine, _SCANNER_ANATOMICAL)
    if not np.allclose(header.get_qform(), grid.affine, rtol=0, atol=_QFORM_TOLERANCE):
        header["qform_code"] = 0
    header.set_sform(grid.affine, _SCANNER_ANATOMICAL)
    # zlib, not ISA-L: its output does not depend on the processor. wbits 31 is gzip without name or time.
    gzip_file = zlib.compressobj(level=6, wbits=31, strategy=strategy)
    start = gzip_file.compress(header.binaryblock.ljust(_DATA_OFFSET, b"\0"))
    return start + gzip_file.compress(voxels.tobytes(order="F")) + gzip_file.flush()


def _is_gzip(data: bytes) -> bool:
    return data[:2] == b"\x1f\x8b"


def _promises_more(header: Header, start: bytes, size: int) -> bool:
    """Whether a header promises more voxels than a file of `size` bytes can hold."""
    return header.end > size * (_MAX_INFLATION if _is_gzip(start) else 1)


def _too_short(name: str, size: int) -> CaseError:
    return unreadable(name, f"ends too early (it has {size} bytes).")


@contextmanager
def _open(data: bytes, name: str, size: int = 0) -> Iterator[io.BufferedIOBase]:
    """The file's uncompressed content; whatever breaks while it is read is `name`'s fault.

    Where `data` is only the start of a file of `size` bytes, its end is nobody's.
    """
    raw = io.BytesIO(data)
    try:
        if _is_gzip(data):
            yield igzip.IGzipFile(fileobj=raw)  # type: ignore[no-untyped-call]  # isal leaves this untyped
        else:
            yield raw
    except EOFError:
        if len(data) < size:
            raise
        raise _too_short(name, len(data)) from None
    # OverflowError: the gzip header goes on for more than a buffer.
    except (gzip.BadGzipFile, isal_zlib.error, OverflowError):  # type: ignore[misc]  # isal's stub declares an instance
        raise unreadable(name, "is damaged: its gzip data or checksum is wrong.") from None


def _fill(stream: io.BufferedIOBase, buffer: memoryview) -> None:
    while buffer:
        block = stream.read(min(len(buffer), _BLOCK))
        if not block:
            raise EOFError
        buffer[: len(block)] = block
        buffer = buffer[len(block) :]


def _skip(stream: io.BufferedIOBase, offset: int) -> None:
    if stream.seek(offset) != offset:
        raise EOFError
