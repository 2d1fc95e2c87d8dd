"""Label maps of boxes, and short ways to score a pair of them."""

from types import SimpleNamespace

import numpy as np

from goat_ray.imaging.nifti import Grid
from goat_ray.metrics.evaluation import score_case
from goat_ray.metrics.specs import RegionPolicy, Spec

NETC, SNFH, ET, RC = 1, 2, 3, 4
SHAPE = (24, 24, 24)


def volume(*boxes, shape=SHAPE):
    """A label map with the boxes (first voxel, size, label) painted in order; a size of one number is a cube's side."""
    labels = np.zeros(shape, np.uint8)
    for start, size, label in boxes:
        sides = (size,) * 3 if isinstance(size, int) else size
        labels[tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))] = label
    return labels


def grid_of(labels, spacing_mm=(1.0, 1.0, 1.0)):
    return Grid(labels.shape, np.diag([*spacing_mm, 1.0]))


def spec_of_et(*, hd95_penalty=100, matching="lesionwise", **policy):
    """A spec with the one region ET: lesions merge over a gap of two voxels, and none is too small."""
    et = RegionPolicy(**{"labels": (ET,), "dilation_vox": 1, "min_volume_mm3": 0, **policy})
    return Spec(name="et-only", matching=matching, hd95_penalty=hd95_penalty, regions={"ET": et})


def score(reference, prediction, spec, spacing_mm=(1.0, 1.0, 1.0), **options):
    """Rows of `regions` by region and those of `lesions`, their columns as attributes."""
    found = score_case(reference, prediction, grid_of(reference, spacing_mm), spec, **options)
    regions = {row["region"]: SimpleNamespace(**row) for row in found.regions}
    return regions, [SimpleNamespace(**row) for row in found.lesions]


def score_et(reference, prediction, spacing_mm=(1.0, 1.0, 1.0), **spec):
    """The region row and the lesion rows of ET, scored by `spec_of_et`."""
    regions, lesions = score(reference, prediction, spec_of_et(**spec), spacing_mm)
    return regions["ET"], lesions
