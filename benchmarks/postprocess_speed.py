"""CPU time of the ratio-adaptive rule on noisy label maps: against a mask per component, and as volumes grow.

Exits with 1 when it is not a hundred times as fast at 1,000 components, or more than linear in voxels.

    python -m benchmarks.postprocess_speed [--quick]
"""

import sys
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks._record import cpu_seconds, record
from goat_ray.config import PostprocessConfig
from goat_ray.labels import Label, LabelMap
from goat_ray.postprocess import postprocess

SHAPE = (240, 240, 155)
CONFIG = PostprocessConfig()
SCALED_COMPONENTS = 300
LEAST_RATIO, LARGEST_GROWTH = 100.0, 1.3
"""Of the times at 1,000 components; of the time per voxel between the smallest volume and any larger one."""


def noisy_map(n_components: int, seed: int = 0) -> LabelMap:
    """One large tumour with an enhancing rim, and small blobs of SNFH or ET around it, in C order as from members."""
    rng = np.random.default_rng(seed)
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    radius = np.sqrt((i - 120) ** 2 + (j - 120) ** 2 + (k - 77) ** 2)
    labels = np.select([radius < 12, radius < 18, radius < 30], [Label.NETC, Label.ET, Label.SNFH], 0)
    corners = [c for c in np.ndindex(23, 23, 15) if np.linalg.norm(np.multiply(c, 10) - (115, 115, 72)) > 48]
    for corner in rng.permutation(corners)[: n_components - 1] * 10:
        size = rng.integers(1, 5, 3)
        labels[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))] = rng.choice([2, 3])
    return labels.astype(np.uint8)


def per_component(labels: LabelMap) -> LabelMap:
    """The rule as it reads: each component is measured and removed with a mask of the whole volume."""
    edited = labels.copy()
    _remove(edited, edited == Label.ET, min(CONFIG.et_ratio * _mean(edited), CONFIG.et_max))
    wt_threshold = max(min(CONFIG.wt_ratio * _mean(edited), CONFIG.wt_max), CONFIG.wt_min)
    _remove(edited, edited > 0, wt_threshold)
    return edited


def _mean(labels: LabelMap) -> float:
    ids, n = ndimage.label(labels > 0)
    sizes = [np.count_nonzero(ids == component) for component in range(1, n + 1)]
    counted = [size for size in sizes if size >= CONFIG.min_average]
    return float(np.mean(counted)) if counted else 0.0


def _remove(labels: LabelMap, mask: np.ndarray, threshold: float) -> None:
    ids, n = ndimage.label(mask)
    for component in range(1, n + 1):
        voxels = ids == component
        if np.count_nonzero(voxels) < threshold:
            labels[voxels] = 0


def measure(n_components: int) -> dict[str, Any]:
    labels = noisy_map(n_components)
    found = ndimage.label(labels > 0)[1]
    result = postprocess(labels, CONFIG)
    if found != n_components or not np.array_equal(result.labels, per_component(labels)):
        raise SystemExit(f"{n_components} components: the two implementations differ; nothing was measured")
    ours = cpu_seconds(lambda: postprocess(labels, CONFIG), repeats=9)
    loop = cpu_seconds(lambda: per_component(labels), repeats=3)
    row = {"components": found, "removed": len(result.removed), "goat_ray_s": ours, "per_component_s": loop}
    print(f"{found:5d} components: {ours['median']:.3f} s, one mask per component {loop['median']:.2f} s")
    return row


def growth() -> list[dict[str, Any]]:
    """Time on ever larger volumes of the same contents: copies of one noisy map, one above the other."""
    one = noisy_map(SCALED_COMPONENTS)
    rows = []
    for copies in (1, 2, 4):
        labels = np.concatenate([one] * copies)
        spent = cpu_seconds(lambda labels=labels: postprocess(labels, CONFIG), repeats=9)
        rows.append({"voxels": labels.size, "goat_ray_s": spent, "ns_per_voxel": 1e9 * spent["median"] / labels.size})
        print(
            f"{labels.size / 1e6:5.0f} million voxels: {spent['median']:.3f} s, {rows[-1]['ns_per_voxel']:.2f} ns each"
        )
    return rows


def main() -> None:
    is_quick = "--quick" in sys.argv[1:]
    rows, scaled = [measure(n) for n in ((1000,) if is_quick else (10, 100, 1000))], growth()
    ratio = rows[-1]["per_component_s"]["median"] / rows[-1]["goat_ray_s"]["median"]
    per_voxel = [row["ns_per_voxel"] for row in scaled]
    growth_ratio = max(per_voxel) / per_voxel[0]
    bars = {"times_faster_at_1000": LEAST_RATIO, "growth_of_ns_per_voxel": LARGEST_GROWTH}
    record(
        "postprocess_speed",
        {
            "shape": SHAPE,
            "unit": "CPU seconds",
            "bars": bars,
            "times_faster_at_1000": ratio,
            "growth_of_ns_per_voxel": growth_ratio,
            "rows": rows,
            "growth": scaled,
        },
        packages=("numpy", "scipy", "connected-components-3d"),
        is_quick=is_quick,
    )
    sys.exit(ratio < LEAST_RATIO or growth_ratio > LARGEST_GROWTH)


if __name__ == "__main__":
    main()
