"""One case scored by one spec: label maps in, rows of the `regions` and `lesions` tables out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from goat_ray.imaging.components import foreground_box
from goat_ray.labels import LabelMap
from goat_ray.metrics.comparison import Comparison, compare
from goat_ray.metrics.lesions import (
    Frame,
    Lesions,
    frame_of,
    joined,
    predicted_lesions,
    reference_lesions,
    region_in,
)
from goat_ray.metrics.official import OfficialScore, scores_on_ids
from goat_ray.metrics.scores import (
    LesionScore,
    MeanScore,
    VolumeScore,
    distances,
    lesion_scores,
    mean_score,
    volume_score,
)
from goat_ray.metrics.specs import Spec
from goat_ray.metrics.surfaces import Spacing


@dataclass(frozen=True, slots=True, eq=False)
class RegionResult:
    volume: VolumeScore
    mean: MeanScore
    lesions: list[LesionScore]
    official: OfficialScore | None
    comparison: Comparison


def score_case(reference: LabelMap, prediction: LabelMap, spacing_mm: Spacing, spec: Spec, official: bool = False):
    shape = reference.shape
    box = foreground_box(reference | prediction)
    reference, prediction = (np.ascontiguousarray(labels[box]) for labels in (reference, prediction))
    out = {}
    origin = tuple(b.start for b in box)
    found: dict[str, tuple[Frame, Lesions, Lesions]] = {}
    for name, policy in spec.regions.items():
        frame = frame_of(reference, prediction, policy, origin, shape)
        ref = reference_lesions(region_in(frame, reference, policy), frame, policy)
        pred = predicted_lesions(region_in(frame, prediction, policy), frame, policy)
        found[name] = (frame, ref, pred)
    voxel = float(np.prod(np.array(spacing_mm)))
    for name, policy in spec.regions.items():
        frame, ref, pred = found[name]
        if policy.join:
            ref = joined(ref, frame, [(found[o][1], found[o][0]) for o in policy.join])
            pred = joined(pred, frame, [(found[o][2], found[o][0]) for o in policy.join])
        c = compare(ref, pred, frame, spacing_mm)
        d = distances(c)
        n = int(np.prod(shape))
        les = lesion_scores(c, d, voxel, policy.min_volume_mm3, spec.penalty_mm(shape))
        out[name] = RegionResult(
            volume_score(c, d, n),
            mean_score(les, np.count_nonzero(pred.sizes_vox)),
            les,
            scores_on_ids(c, n) if official else None,
            c,
        )
    return out
