"""Removal of small components from a label map: the ratio-adaptive rule, fixed sizes, or neither."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from goat_ray.config import PostprocessConfig
from goat_ray.imaging.components import Connectivity, foreground_box, label_components
from goat_ray.labels import Label, LabelMap, check_labels, region_mask

Step = Literal["ET", "TC", "WT"]
Method = Literal["adaptive", "fixed", "minimum", "none"]
Unit = Literal["vox", "mm3"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the rule compared sizes with, in the configuration's unit; None where the rule has no such value.

    The means are over WT components of at least `min_average`, before (`et_`) and after (`wt_`) the ET step.
    """

    et_threshold: float | None = None
    wt_threshold: float | None = None
    et_mean_component: float | None = None
    wt_mean_component: float | None = None


@dataclass(frozen=True, slots=True)
class RemovedComponent:
    """One component that was too small; the fields are the columns of the `components` table.

    `component_id` counts the components of the step's own mask in C raster order (axis order of the label
    map as given) of their first voxels, from 1. `dominant_label` is the most frequent label in it before the
    step, the smallest of several. `new_label` is what its voxels became; with `fixed` those that a surviving
    inner region claims are excepted.
    """

    step: Step
    component_id: int
    volume_vox: int
    size: float
    threshold: float
    unit: Unit
    dominant_label: int
    new_label: int


@dataclass(frozen=True, slots=True, eq=False)
class Postprocessed:
    """A new label map (uint8, shape and axis order of the input) and the record of how it came about."""

    labels: LabelMap
    method: Method
    thresholds: Thresholds
    removed: tuple[RemovedComponent, ...]


def postprocess(labels: LabelMap, config: PostprocessConfig, voxel_volume_mm3: float = 1.0) -> Postprocessed:
    """Removes small components by `config.method`; a size equal to its threshold stays.

    `adaptive` is the ratio-adaptive rule of the BraTS-GoAT 2025 winners (6-connectivity): ET components below
    a share of the mean WT component become background, then WT components below another share of the mean,
    taken again. `fixed` drops WT, TC and ET components below three fixed sizes (26-connectivity) and repaints
    what survived as SNFH, then NETC, then ET: a removed ET becomes NETC, a removed TC SNFH. An ET that
    survives is painted even where its TC or WT did not, unless `config.nested`; what a removed parent takes
    along then has no record of its own. `minimum` drops WT components below `wt_min` (6-connectivity) and nothing
    else, as the winners did to pseudo-labels. `fixed` and `minimum` are idempotent, `adaptive` is not: what it
    removes changes the mean that the next call would start from.

    Args:
        labels: uint8, 3-D, any axis and memory order; it is never changed, and the result never shares its
            memory.
        config: method, parameters and their unit.
        voxel_volume_mm3: volume of one voxel; used only with the unit `mm3`.

    Raises:
        CaseError: a value is not one of `Label`.
    """
    box = foreground_box(labels)
    crop = labels[box].copy(order="C")
    check_labels(crop, "the label map")
    voxel_size = voxel_volume_mm3 if config.unit == "mm3" else 1.0
    edited, thresholds, removed = _RULES[config.method](crop, config, voxel_size)
    result = np.array(labels, order="K")
    result[box] = edited
    return Postprocessed(result, config.method, thresholds, tuple(removed))


@dataclass(frozen=True, slots=True, eq=False)
class _Components:
    """The components of a step's region as a list of their voxels, in C raster order.

    `voxels` are flat indices, `labels` and `owner` tell the label and the component of each; component i has
    the id i + 1 and the size `sizes[i]` in `unit`.
    """

    step: Step
    unit: Unit
    voxels: NDArray[np.intp]
    labels: LabelMap
    owner: NDArray[np.intp]
    sizes_vox: NDArray[np.intp]
    sizes: NDArray[np.float64]

    def mean_size(self, at_least: float) -> float:
        """Mean over the components of this size and more; 0 without any."""
        counted = self.sizes[self.sizes >= at_least]
        return float(counted.mean()) if counted.size else 0.0

    def voxels_of(self, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Voxels of the components that `chosen` is true for."""
        return self.voxels[chosen[self.owner]]

    def below(self, threshold: float, new_labels: NDArray[np.uint8]) -> list[RemovedComponent]:
        """Records of the components below `threshold`; component i becomes `new_labels[i]`."""
        n_labels = len(Label)
        tally = np.bincount(self.owner * n_labels + self.labels, minlength=n_labels * self.sizes.size)
        dominant = tally.reshape(-1, n_labels).argmax(axis=1)
        return [
            RemovedComponent(
                step=self.step,
                component_id=i + 1,
                volume_vox=int(self.sizes_vox[i]),
                size=float(self.sizes[i]),
                threshold=threshold,
                unit=self.unit,
                dominant_label=int(dominant[i]),
                new_label=int(new_labels[i]),
            )
            for i in np.flatnonzero(self.sizes < threshold).tolist()
        ]


_Edit = tuple[LabelMap, Thresholds, list[RemovedComponent]]


def _adaptive(labels: LabelMap, config: PostprocessConfig, voxel_size: float) -> _Edit:
    tumour = _components(labels, "WT", 6, config.unit, voxel_size)
    et_mean = tumour.mean_size(config.min_average)
    et_threshold = min(config.et_ratio * et_mean, config.et_max)
    removed = _erase(labels, _components(labels, "ET", 6, config.unit, voxel_size), et_threshold)
    if removed:
        tumour = _components(labels, "WT", 6, config.unit, voxel_size)
    wt_mean = tumour.mean_size(config.min_average)
    wt_threshold = max(min(config.wt_ratio * wt_mean, config.wt_max), config.wt_min)
    removed += _erase(labels, tumour, wt_threshold)
    return labels, Thresholds(et_threshold, wt_threshold, et_mean, wt_mean), removed


def _fixed(labels: LabelMap, config: PostprocessConfig, voxel_size: float) -> _Edit:
    repainted = np.zeros_like(labels)
    canvas = repainted.reshape(-1)
    removed: list[RemovedComponent] = []
    steps: tuple[tuple[Step, float, Label, Label], ...] = (
        ("WT", config.fixed_wt, Label.BACKGROUND, Label.SNFH),
        ("TC", config.fixed_tc, Label.SNFH, Label.NETC),
        ("ET", config.fixed_et, Label.NETC, Label.ET),
    )
    for step, threshold, parent, label in steps:
        components = _components(labels, step, 26, config.unit, voxel_size)
        # A component lies within one component of the region around it: one voxel tells what is under all.
        witness = np.empty(components.sizes.size, dtype=np.intp)
        witness[components.owner] = components.voxels
        removed += components.below(threshold, canvas[witness])
        kept = components.voxels_of(components.sizes >= threshold)
        canvas[kept[canvas[kept] == parent] if config.nested else kept] = label
    return repainted, Thresholds(et_threshold=config.fixed_et, wt_threshold=config.fixed_wt), removed


def _minimum(labels: LabelMap, config: PostprocessConfig, voxel_size: float) -> _Edit:
    removed = _erase(labels, _components(labels, "WT", 6, config.unit, voxel_size), config.wt_min)
    return labels, Thresholds(wt_threshold=config.wt_min), removed


def _unchanged(labels: LabelMap, config: PostprocessConfig, voxel_size: float) -> _Edit:
    return labels, Thresholds(), []


# Each gets C-contiguous labels that it may overwrite, and the size of one voxel in the configuration's unit.
_RULES: dict[Method, Callable[[LabelMap, PostprocessConfig, float], _Edit]] = {
    "adaptive": _adaptive,
    "fixed": _fixed,
    "minimum": _minimum,
    "none": _unchanged,
}


def _erase(labels: LabelMap, components: _Components, threshold: float) -> list[RemovedComponent]:
    """Makes the components below `threshold` background, in place."""
    labels.reshape(-1)[components.voxels_of(components.sizes < threshold)] = Label.BACKGROUND
    return components.below(threshold, np.zeros(components.sizes.size, dtype=np.uint8))


def _components(labels: LabelMap, step: Step, connectivity: Connectivity, unit: Unit, voxel_size: float) -> _Components:
    mask = region_mask(labels, step)
    voxels = np.flatnonzero(mask)
    owner = label_components(mask, connectivity).reshape(-1)[voxels].astype(np.intp) - 1
    sizes_vox = np.bincount(owner)
    sizes = np.multiply(sizes_vox, voxel_size, dtype=np.float64)
    return _Components(step, unit, voxels, labels.reshape(-1)[voxels], owner, sizes_vox, sizes)
