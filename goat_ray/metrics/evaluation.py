"""One case scored by one spec: two label maps in, rows of the `regions` and `lesions` tables out."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from goat_ray.errors import CaseError, Category
from goat_ray.imaging.components import foreground_box
from goat_ray.imaging.nifti import Grid
from goat_ray.labels import LabelMap
from goat_ray.metrics.comparison import Comparison, compare
from goat_ray.metrics.lesions import Frame, Lesions, frame_of, joined, predicted_lesions, reference_lesions, region_in
from goat_ray.metrics.official import scores_on_ids
from goat_ray.metrics.one_to_one import assigned, matched_pairs, one_to_one_score
from goat_ray.metrics.scores import (
    Distances,
    LesionScore,
    distances,
    lesion_scores,
    mean_score,
    volume_score,
)
from goat_ray.metrics.shapes import LesionShape, lesion_shapes
from goat_ray.metrics.specs import RegionPolicy, Spec

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CaseScore:
    """Rows of the tables `regions` and `lesions` without the id columns, in the spec's order of regions."""

    regions: list[Row]
    lesions: list[Row]


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """A case in the shape that scoring needs: crops (x, y, z), C order, of maps on `grid`."""

    reference: LabelMap
    prediction: LabelMap
    origin: tuple[int, ...]
    grid: Grid
    spec: Spec
    is_official: bool

    @property
    def n_voxels(self) -> int:
        return math.prod(self.grid.shape)

    @property
    def voxel_volume_mm3(self) -> float:
        return math.prod(self.grid.stored_spacing_mm)


def score_case(
    reference: LabelMap, prediction: LabelMap, grid: Grid, spec: Spec, *, official: bool = False
) -> CaseScore:
    """Score a prediction against its reference.

    Args:
        reference: uint8 (x, y, z), any memory order.
        prediction: as the reference.
        grid: of the prediction's file; its stored spacing counts, as for the organisers.
        spec: the policy.
        official: also reproduce whole-volume numbers that the organisers published wrongly (2025 specs).

    Raises:
        CaseError: `invalid_labels`, for a label that the spec does not know.
    """
    for name, labels in (("reference", reference), ("prediction", prediction)):
        _check_labels(name, labels, spec)
    box = foreground_box(reference | prediction)
    scene = _Scene(
        reference=np.ascontiguousarray(reference[box]),
        prediction=np.ascontiguousarray(prediction[box]),
        origin=tuple(side.start for side in box),
        grid=grid,
        spec=spec,
        is_official=official and spec.legacy_on_ids,
    )
    rows = [_score_region(scene, name, comparison) for name, comparison in _comparisons(scene).items()]
    return CaseScore([region for region, _ in rows], [lesion for _, lesions in rows for lesion in lesions])


def _check_labels(name: str, labels: LabelMap, spec: Spec) -> None:
    largest = int(labels.max(initial=0))
    if largest > spec.max_label:
        raise CaseError(
            Category.INVALID_LABELS,
            f"the {name} holds label {largest}, but {spec.name} takes 0 to {spec.max_label}.",
            "Convert the labels to the spec's convention, or choose a spec that knows this label.",
        )


def _comparisons(scene: _Scene) -> dict[str, Comparison]:
    found = {region: _find_lesions(scene, policy) for region, policy in scene.spec.regions.items()}
    comparisons = {}
    for region, policy in scene.spec.regions.items():
        frame, reference, prediction = found[region]
        if policy.join:
            partners = [found[other] for other in policy.join]
            reference = joined(reference, frame, [(theirs, its_frame) for its_frame, theirs, _ in partners])
            prediction = joined(prediction, frame, [(theirs, its_frame) for its_frame, _, theirs in partners])
        comparisons[region] = compare(reference, prediction, frame, scene.grid.stored_spacing_mm)
    return comparisons


def _find_lesions(scene: _Scene, policy: RegionPolicy) -> tuple[Frame, Lesions, Lesions]:
    frame = frame_of(scene.reference, scene.prediction, policy, scene.origin, scene.grid.shape)
    reference = reference_lesions(region_in(frame, scene.reference, policy), frame, policy)
    return frame, reference, predicted_lesions(region_in(frame, scene.prediction, policy), frame, policy)


def _score_region(scene: _Scene, region: str, comparison: Comparison) -> tuple[Row, list[Row]]:
    policy = scene.spec.regions[region]
    about = {
        "region": region,
        "spec": scene.spec.name,
        "official": policy.official,
        "penalised": False,
        "region_labels": list(policy.labels),
    }
    score = _one_to_one if scene.spec.matching == "one-to-one" else _lesionwise
    row, lesions = score(scene, policy, comparison)
    shapes = _shapes(scene, comparison, lesions)
    identity = {"region": region, "spec": scene.spec.name}
    lesion_rows = [
        {**identity, **_columns(lesion), **_columns(shapes[lesion.kind, lesion.lesion_id])} for lesion in lesions
    ]
    return {**about, **row}, lesion_rows


def _lesionwise(scene: _Scene, policy: RegionPolicy, comparison: Comparison) -> tuple[Row, list[LesionScore]]:
    found = distances(comparison)
    penalty_mm = scene.spec.penalty_mm(scene.grid.shape)
    lesions = lesion_scores(comparison, found, scene.voxel_volume_mm3, policy.min_volume_mm3, penalty_mm)
    row = _volume_row(scene, comparison, found) | _columns(mean_score(lesions, comparison.prediction.count))
    if scene.is_official:
        row |= _columns(scores_on_ids(comparison, scene.n_voxels))
    return row, lesions


def _one_to_one(scene: _Scene, policy: RegionPolicy, comparison: Comparison) -> tuple[Row, list[LesionScore]]:
    matched = assigned(comparison)
    found, pairs = distances(matched), matched_pairs(matched)
    lesions = lesion_scores(matched, found, scene.voxel_volume_mm3, policy.min_volume_mm3, None)
    for pair in pairs:  # the lesions start with the reference's, by number
        place = pair.lesion_id - 1
        lesions[place] = replace(lesions[place], sq_nsd=pair.sq_nsd, sq_hd95_mm=pair.sq_hd95_mm)
    return _volume_row(scene, comparison, found) | _columns(one_to_one_score(matched, pairs)), lesions


def _volume_row(scene: _Scene, comparison: Comparison, found: Distances) -> Row:
    row = _columns(volume_score(comparison, found, scene.n_voxels))
    for side in ("gt", "pred"):
        row[f"{side}_volume_mm3"] = row[f"{side}_volume_vox"] * scene.voxel_volume_mm3
        row[f"{side}_empty"] = not row[f"{side}_volume_vox"]
    return {**row, "hd95_penalty_mm": scene.spec.penalty_mm(scene.grid.shape)}


def _shapes(scene: _Scene, comparison: Comparison, lesions: list[LesionScore]) -> dict[tuple[str, int], LesionShape]:
    """Shape of each lesion by kind and id."""
    reference, prediction = comparison.reference, comparison.prediction
    is_false = np.zeros(prediction.highest + 1, np.bool_)
    is_false[[lesion.lesion_id for lesion in lesions if lesion.kind == "fp"]] = True
    false = is_false[prediction.owner]
    frame, affine, volume_mm3 = comparison.frame, scene.grid.affine, scene.voxel_volume_mm3
    return {
        (kind, lesion_id): shape
        for kind, voxels, owner in (
            ("gt", reference.voxels, reference.owner),
            ("fp", prediction.voxels[false], prediction.owner[false]),
        )
        for lesion_id, shape in lesion_shapes(voxels, owner, frame.shape, frame.origin, affine, volume_mm3).items()
    }


def _columns(record: Any) -> Row:  # noqa: ANN401 - any dataclass with slots
    """The fields of a flat dataclass by name; `asdict` copies every value."""
    return {name: getattr(record, name) for name in record.__slots__}
