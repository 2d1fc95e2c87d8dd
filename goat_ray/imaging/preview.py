"""What the headers of a case tell before its voxels are read: the checks of `reading`, on the first bytes of files."""

from collections.abc import Mapping
from dataclasses import dataclass

from goat_ray import storage
from goat_ray.cases import Case
from goat_ray.errors import Category
from goat_ray.filesystems import FileStat
from goat_ray.imaging.geometry import check_same_grid
from goat_ray.imaging.header import MAX_VOXELS
from goat_ray.imaging.nifti import Grid, peek_header
from goat_ray.imaging.reading import blamed_on_case, check_size
from goat_ray.labels import MODALITIES

_START_BYTES = 2**16

Stats = Mapping[str, FileStat]
"""What is known of files already, by URI; of the others the store is asked."""


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """Where the voxels of a case or label map lie, and how many bytes its files have."""

    grid: Grid
    size: int


def preview_case(case: Case, stats: Stats, *, max_voxels: int = MAX_VOXELS) -> Preview:
    """Look at the headers of a case's four images.

    Raises:
        CaseError: as `load_case`, except for what only the voxels can tell.
    """
    found = {
        modality: _preview(case.images[modality], modality, Category.MISSING_MODALITY, "", stats, max_voxels)
        for modality in MODALITIES
    }
    check_same_grid({modality: image.grid for modality, image in found.items()})
    return Preview(found[MODALITIES[0]].grid, sum(image.size for image in found.values()))


def preview_labels(uri: str, role: str, missing: Category, stats: Stats, *, max_voxels: int = MAX_VOXELS) -> Preview:
    """Look at the header of a label map.

    Raises:
        CaseError: as `load_labels`, except for what only the voxels can tell.
    """
    return _preview(uri, role, missing, f"{role} ", stats, max_voxels)


def _preview(uri: str, role: str, missing: Category, prefix: str, stats: Stats, max_voxels: int) -> Preview:
    name = uri.rpartition("/")[2]
    with blamed_on_case(role, missing):
        size = (stats.get(uri) or storage.stat(uri)).size
        check_size(size, name, role, max_voxels)
        start = storage.read_start(uri, _START_BYTES)
    try:
        grid = peek_header(start, size, prefix + name, max_voxels=max_voxels)
    except EOFError:  # gzip allows for whole kilobytes of notes before the data
        with blamed_on_case(role, missing):
            start = storage.read_bytes(uri)
        grid = peek_header(start, len(start), prefix + name, max_voxels=max_voxels)
    return Preview(grid, size)
