"""A case's four files as one cropped volume in network axes, and label maps as they are."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goat_ray import storage
from goat_ray.cases import Case
from goat_ray.errors import CaseError, Category, MissingFile, StorageError
from goat_ray.imaging.components import foreground_box
from goat_ray.imaging.geometry import (
    Box,
    brain_mask_box,
    check_same_grid,
    check_values,
    to_network_axes,
)
from goat_ray.imaging.header import MAX_VOXELS
from goat_ray.imaging.nifti import Grid, Image, decode_image, decode_labels
from goat_ray.labels import MODALITIES, LabelMap, Mask

_LARGEST_VOXEL, _LARGEST_START = 8, 2**25  # bytes of a float64 and of a header with its extensions


@dataclass(frozen=True, slots=True)
class InputFile:
    """Which bytes a result was made from; `version` is that of `storage.stat`, asked before they were read."""

    name: str
    size: int
    sha256: str
    version: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedLabels:
    """A label map (x, y, z), where it lies, and the file it was read from."""

    labels: LabelMap
    grid: Grid
    file: InputFile


@dataclass(frozen=True, slots=True, eq=False)
class LoadedCase:
    """A case, read and checked.

    Attributes:
        crop: float32 intensities (c, z, y, x), channels in `MODALITIES` order, axes in LPS, cropped to `box`.
        mask: hole-filled non-zero mask of the crop (z, y, x).
        box: where the crop lies in the full volume (z, y, x).
        full_shape: the full volume (z, y, x).
        grid: grid of t1c's file.
        inputs: the file of each modality.
        scan_sha256: hash of what t1c shows, the same for a copy of the scan under another id, in another file or
            orientation, or with another margin of zeros.
    """

    crop: NDArray[np.float32]
    mask: Mask
    box: Box
    full_shape: tuple[int, int, int]
    grid: Grid
    inputs: dict[str, InputFile]
    scan_sha256: str


def load_case(case: Case, *, max_voxels: int = MAX_VOXELS) -> LoadedCase:
    """Read the four images of a case, check them, turn them to LPS and crop them to the brain.

    Raises:
        CaseError: `missing_modality`, `unreadable_file`, `geometry_mismatch`, `invalid_values`, `empty_image`
            and what else `decode_image` finds.
    """
    images: dict[str, Image] = {}
    inputs: dict[str, InputFile] = {}
    for modality in MODALITIES:
        images[modality], inputs[modality] = _read(modality, case.images[modality], max_voxels)
    check_same_grid({modality: image.grid for modality, image in images.items()})
    grid = images[MODALITIES[0]].grid
    volumes = {m: to_network_axes(image.data, grid.affine) for m, image in images.items()}
    _check_not_empty(volumes)
    mask, box = brain_mask_box(volumes.values())
    crop = np.empty((len(MODALITIES), *box.shape), dtype=np.float32)
    # float64 beyond float32 becomes infinite, and NaN may be signalling: both are refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        for channel, volume in zip(crop, volumes.values(), strict=True):
            channel[...] = volume[box.slices]
    # NaN and infinity are not zero, so none can hide outside the crop.
    check_values({m: crop[i] for i, m in enumerate(MODALITIES) if volumes[m].dtype.kind == "f"})
    z, y, x = volumes[MODALITIES[0]].shape
    return LoadedCase(crop, mask, box, (z, y, x), grid, inputs, _scan_sha256(crop[MODALITIES.index("t1c")]))


def load_labels(uri: str, role: str, missing: Category, *, max_voxels: int = MAX_VOXELS) -> LoadedLabels:
    """Read a label map.

    Args:
        uri: the file.
        role: what messages call it.
        missing: category of the error when it is not there.
        max_voxels: largest volume that is read.

    Raises:
        CaseError: `missing`, `unreadable_file`, `invalid_labels` and what else `decode_labels` finds.
    """
    file, data = _read_file(uri, role, missing, max_voxels)
    labels, grid = decode_labels(data, f"{role} {file.name}", max_voxels=max_voxels)
    return LoadedLabels(labels, grid, file)


def _read(modality: str, uri: str, max_voxels: int) -> tuple[Image, InputFile]:
    file, data = _read_file(uri, modality, Category.MISSING_MODALITY, max_voxels)
    return decode_image(data, file.name, max_voxels=max_voxels), file


def _read_file(uri: str, role: str, missing: Category, max_voxels: int) -> tuple[InputFile, bytes]:
    """Record and content of a file that plays `role` in its case."""
    name = uri.rpartition("/")[2]
    with blamed_on_case(role, missing):
        stat = storage.stat(uri)
        check_size(stat.size, name, role, max_voxels)
        data = storage.read_bytes(uri)
        return InputFile(name, len(data), hashlib.sha256(data).hexdigest(), stat.version), data


@contextmanager
def blamed_on_case(role: str, missing: Category) -> Iterator[None]:
    """A file with a role in its case that is not there is a `missing`, one out of reach an `unreadable_file`."""
    try:
        yield
    except MissingFile as error:
        raise CaseError(missing, f"{role}: {error}", f"Add the {role}, or leave the case out.") from None
    except StorageError as error:
        hint = "Check that the file can be read from the machines of this run, then retry the failed cases."
        raise CaseError(Category.UNREADABLE_FILE, f"{role}: {error}", hint) from None


def check_size(size: int, name: str, role: str, max_voxels: int) -> None:
    """Refuse a file larger than any volume; raises `CaseError`."""
    if size > _LARGEST_VOXEL * max_voxels + _LARGEST_START:
        what = f"{role}: {name} has {size} bytes, more than any volume needs."
        raise CaseError(Category.TOO_LARGE, what, "Check the file; one 3-D volume is expected.")


def _scan_sha256(t1c: NDArray[np.float32]) -> str:
    shown = np.ascontiguousarray(t1c[foreground_box(t1c != 0)])
    scan = hashlib.sha256(str(shown.shape).encode())
    scan.update(shown.data)
    return scan.hexdigest()


def _check_not_empty(volumes: dict[str, NDArray[Any]]) -> None:
    with np.errstate(invalid="ignore"):  # signalling NaN
        empty = [modality for modality, volume in volumes.items() if not (volume != 0).any()]
    if empty:
        raise CaseError(
            Category.EMPTY_IMAGE,
            f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} zero everywhere.",
            "Check how the case was exported; every modality needs an image.",
        )
