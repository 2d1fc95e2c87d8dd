"""The demo's input on disk: phantom cases of three sites as BraTS case folders, one of them broken on purpose."""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from goat_ray.demo.phantoms import DEMO_SEEDS, make_phantom
from goat_ray.imaging.nifti import Grid, encode_labels

EMBEDDED_ENSEMBLE = Path(__file__).resolve().parent / "ensemble" / "ensemble.yaml"
BROKEN_CASE = "BraTS-GoAT-90007"
DEMO_SHAPE = (100, 124, 102)

_BROKEN_MODALITY = "t2f"
_COHORT = "phantoms"


@dataclass(frozen=True, slots=True)
class DemoCase:
    """A phantom of the demo: where it is scanned and what it has."""

    case_id: str
    seed: int
    tumour: str
    site: str


_HEADS = (
    ("large_glioma", "north"),
    ("small_metastases", "south"),
    ("meningioma_like", "island"),
    ("no_enhancing", "north"),
    ("none", "south"),
    ("large_glioma", "island"),
    ("large_glioma", "south"),
)
DEMO_CASES = tuple(
    DemoCase(f"BraTS-GoAT-{90001 + place}", DEMO_SEEDS[place], tumour, site)
    for place, (tumour, site) in enumerate(_HEADS)
)


def write_demo_cohort(
    folder: Path, cases: Sequence[DemoCase] = DEMO_CASES, shape: tuple[int, int, int] = DEMO_SHAPE
) -> None:
    """Write `<case>/<case>-{t1c,t1n,t2f,t2w,seg}.nii.gz` of each case and `sites.csv`.

    The FLAIR image of `BROKEN_CASE` breaks off in the middle. Equal arguments give equal bytes.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        cases: which phantoms.
        shape: (x, y, z) voxels of 1 mm.
    """
    for case in cases:
        _write_case(folder / case.case_id, case, shape)
    with (folder / "sites.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("case_id", "site", "cohort"))
        table.writerows((case.case_id, case.site, _COHORT) for case in cases)


def _write_case(folder: Path, case: DemoCase, shape: tuple[int, int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    phantom = make_phantom(case.seed, shape, case.tumour, case.site)
    for modality, image in phantom.images.items():
        data = _encode_image(image, phantom.affine)
        if (case.case_id, modality) == (BROKEN_CASE, _BROKEN_MODALITY):
            data = data[: len(data) // 2]
        (folder / f"{case.case_id}-{modality}.nii.gz").write_bytes(data)
    reference = encode_labels(phantom.labels, Grid(shape, phantom.affine))
    (folder / f"{case.case_id}-seg.nii.gz").write_bytes(reference)


def _encode_image(image: NDArray[np.float32], affine: NDArray[np.float64]) -> bytes:
    """A BraTS-like int16 `.nii.gz`."""
    file = nib.Nifti1Image(np.rint(image).astype(np.int16), affine)  # type: ignore[no-untyped-call]  # nibabel leaves this untyped
    file.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]  # as above
    return gzip.compress(file.to_bytes(), compresslevel=1, mtime=0)
