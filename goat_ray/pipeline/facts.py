"""Facts about a case that become table rows: its grid, its predicted lesions, its regions with and without scores."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from goat_ray.imaging.nifti import Grid
from goat_ray.labels import REGIONS, LabelMap, region_mask
from goat_ray.metrics.shapes import LesionShape, total_volume_vox


def grid_columns(grid: Grid) -> dict[str, Any]:
    """Columns of `cases` that tell where a label map lies."""
    sizes = {f"size_{axis}_vox": size for axis, size in zip("xyz", grid.shape, strict=True)}
    spacings = {f"spacing_{axis}_mm": mm for axis, mm in zip("xyz", grid.spacing_mm, strict=True)}
    return {**sizes, **spacings, "affine": grid.affine.ravel().tolist()}


def predicted_rows(shapes: Mapping[str, Mapping[int, LesionShape]]) -> list[dict[str, Any]]:
    """Rows of `lesions`, one for each piece of a predicted label map, by region and id."""
    return [
        {"kind": "pred", "region": region, "lesion_id": lesion_id, "n_components": 1, **asdict(shape)}
        for region, lesions in shapes.items()
        for lesion_id, shape in lesions.items()
    ]


def region_rows(
    crop: LabelMap,
    shapes: Mapping[str, Mapping[int, LesionShape]],
    grid: Grid,
    confidence: Mapping[str, float | None],
    agreement: Mapping[str, Mapping[str, float | None]],
    scores: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Rows of `regions`: our own regions with volumes, confidence and agreement, joined with the spec's and scores.

    `crop` is the label crop before postprocessing, `shapes` are the lesions after it. A spec may mean other labels
    by the name of a region; its row then has the scores alone.
    """
    ours = {
        region: {
            "region": region,
            "region_labels": list(labels),
            "n_pred_components": len(shapes[region]),
            "pred_volume_vox": (volume_vox := total_volume_vox(shapes[region])),
            "pred_volume_mm3": volume_vox * grid.voxel_volume_mm3,
            "raw_volume_mm3": np.count_nonzero(region_mask(crop, region)) * grid.voxel_volume_mm3,
            "mean_probability": confidence[region],
            **agreement.get(region, {}),
        }
        for region, labels in REGIONS.items()
    }
    for score in scores:
        region = score["region"]
        same = sorted(REGIONS.get(region, ())) == sorted(score["region_labels"])
        ours[region] = {**(ours[region] if same else {}), **score}
    return list(ours.values())
