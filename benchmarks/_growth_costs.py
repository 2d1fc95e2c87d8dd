"""Growth of a single case's cost in processor seconds: lesions, voxels, members. One thread, the real stages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._growth_fit import Growth, Point
from benchmarks._record import cpu_seconds
from benchmarks.postprocess_speed import SHAPE, noisy_map
from goat_ray.config import PostprocessConfig, RunConfig
from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE, DemoCase, write_demo_cohort
from goat_ray.demo.phantoms import BENCHMARK_SEEDS
from goat_ray.imaging.nifti import Grid
from goat_ray.labels import Label, LabelMap
from goat_ray.members.ensemble import load_ensemble
from goat_ray.metrics.evaluation import score_case
from goat_ray.metrics.specs import SPECS
from goat_ray.pipeline import predict
from goat_ray.pipeline.rows import Row, reference_row
from goat_ray.pipeline.stages import Finish, Predict, Read
from goat_ray.postprocess import postprocess
from tests.cohorts import embedded_with_small_windows

SPECS_SCORED = {"scoring": "goat2025-met", "scoring_one_to_one": "brats2026-goat"}
"""The two kinds of lesion-wise score, by the specs that count the smallest lesions."""
BRATS_VOXELS = SHAPE[0] * SHAPE[1] * SHAPE[2]
SMALL_HEAD = (48, 58, 48)
"""A few of the small windows, so that a member costs a good fraction of a second."""


@dataclass(frozen=True, slots=True)
class OneCase:
    """A case and the stages that take it to its files."""

    reference: Row
    read: Read
    predict: Predict
    finish: Finish

    def after_reading(self) -> Row:
        """The case as members get it."""
        return sound(self.read(self.reference))


def sound(row: Row) -> Row:
    """The row, if no stage has failed on it."""
    if row["error"] or row["fatal"]:
        raise SystemExit(row["error"] or row["fatal"])
    return row


def lesion_growth(counts: Sequence[int], repeats: int) -> tuple[Growth, ...]:
    """Postprocessing and scoring of one map, by the number of its components."""
    maps = dict(_spread_map(count) for count in counts)
    config = PostprocessConfig()
    finding = [Point(n, *_timed(lambda m=m: postprocess(m, config), repeats)) for n, m in maps.items()]
    about, unit = "components of a 240×240×155 map", "CPU-ms a component"
    growths = [Growth("postprocessing", "Postprocessing", about, "CPU-s a case", unit, 1000, tuple(finding))]
    for name, spec in SPECS_SCORED.items():
        points = tuple(_scored(n, labels, spec, repeats) for n, labels in maps.items())
        growths.append(Growth(name, f"Scoring, {spec}", about, "CPU-s a case", unit, 1000, points))
    return tuple(growths)


def _spread_map(count: int) -> tuple[int, LabelMap]:
    """Its number of components, and a map of as many and two in far corners: work is on the box of them all."""
    labels = noisy_map(count)
    for corner in (slice(5, 8), slice(-8, -5)):
        labels[corner, corner, corner] = Label.ET
    return count + 2, labels


def _scored(count: int, labels: LabelMap, spec: str, repeats: int) -> Point:
    """The map against itself, one voxel aside: large components overlap, small ones are missed."""
    grid, moved = Grid(SHAPE, np.eye(4)), np.roll(labels, 1, axis=0)
    lesions = score_case(labels, moved, grid, SPECS[spec]).lesions
    y, spread = _timed(lambda: score_case(labels, moved, grid, SPECS[spec]), repeats)
    return Point(count, y, {**spread, "rows_of_lesions": len(lesions)})


def size_growth(folder: Path, voxels: Sequence[float], repeats: int) -> tuple[Growth, ...]:
    """Reading and finishing, and a member's network, by the voxels of a phantom of BraTS's proportions."""
    ends, network = [], []
    for wanted in voxels:
        side = (wanted / BRATS_VOXELS) ** (1 / 3)
        shape = (round(SHAPE[0] * side), round(SHAPE[1] * side), round(SHAPE[2] * side))
        size = float(np.prod(shape)) / 1e6
        case = one_case(folder / f"{size:.3f}", shape, EMBEDDED_ENSEMBLE, ("ResNetM",))
        row = case.after_reading()
        predicted = sound(case.predict(row))
        details = {"shape": shape, "crop_zyx": row["image_0"].shape[1:]}
        ends.append(Point(size, *_timed(lambda c=case, r=predicted: (c.after_reading(), sound(c.finish(r))), repeats)))
        y, spread = _timed(lambda c=case, r=row: sound(c.predict(r)), repeats)
        network.append(Point(size, y, {**spread, **details}))
    about, unit, total = "million voxels of an image", "CPU-s a million voxels", "CPU-s a case"
    return (
        Growth("reading_and_finishing", "Reading and finishing", about, total, unit, 1, tuple(ends)),
        Growth("network", "One member (ResNetM)", about, total, unit, 1, tuple(network)),
    )


def member_growth(folder: Path, counts: Sequence[int], repeats: int) -> tuple[Growth, ...]:
    """The first members of the embedded ensemble together, by what each of them costs alone."""
    manifest = embedded_with_small_windows(folder / "ensemble")
    codes = tuple(member.code for member in load_ensemble(manifest).members)
    alone = {code: _predicted(folder, manifest, (code,), repeats)[0] for code in codes}
    points = []
    for count in counts:
        y, spread = _predicted(folder, manifest, codes[:count], repeats)
        apart = sum(alone[code] for code in codes[:count])
        points.append(Point(apart, y, {**spread, "members": count, "overhead_percent": 100 * (y / apart - 1)}))
    about = f"{counts[0]} to {counts[-1]} members, each alone: sum of CPU-s"
    return (Growth("members", "Members together", about, "CPU-s together", "CPU-s for each alone", 1, tuple(points)),)


def _predicted(
    folder: Path, manifest: Path, members: tuple[str, ...], repeats: int
) -> tuple[float, Mapping[str, float]]:
    case = one_case(folder, SMALL_HEAD, manifest, members)
    row = case.after_reading()
    return _timed(lambda: sound(case.predict(row)), repeats)


def one_case(folder: Path, shape: tuple[int, int, int], manifest: Path, members: tuple[str, ...]) -> OneCase:
    """A phantom with its reference in `folder`, written once, and stages that hold these members."""
    cohort = folder / "cohort"
    if not cohort.exists():
        write_demo_cohort(cohort, (DemoCase("phantom", BENCHMARK_SEEDS[0], "large_glioma", "north"),), shape)
    out = folder / "-".join(members)
    config = RunConfig(cohort=str(cohort), ensemble=str(manifest), members=members, out=str(out), threads=1)
    prediction = predict.prepare(config)
    stages = predict.stages_of(prediction, "cpu", 1)
    (case,) = prediction.job.cases
    return OneCase(reference_row(case), stages.read, Predict(stages.predict), stages.finish)


def _timed(function: Callable[[], object], repeats: int) -> tuple[float, Mapping[str, float]]:
    """Median of CPU seconds, and its spread."""
    spread = cpu_seconds(function, repeats)
    return spread["median"], spread
