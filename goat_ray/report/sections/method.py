"""What the method did: postprocessing, confidence and disagreement of the members, time."""

import numpy as np
import pandas as pd
import pyarrow as pa

from goat_ray.costs import COLUMNS, Costs
from goat_ray.report import figures
from goat_ray.report.agreement import spearman
from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort, in_order
from goat_ray.report.drawing import Look, looks
from goat_ray.report.measured import Measured, measured
from goat_ray.report.statistics import spread

_FEWEST_POINTS = 3
_SIGNS = {
    "mean_probability": "mean probability in the region",
    "member_dice_mean": "members agree (mean Dice of pairs)",
    "member_dice_min": "members agree (worst pair)",
    "member_volume_cv": "members' volumes vary (deviation ÷ mean)",
}


def postprocessing(cohort: Cohort) -> Section:
    """What the postprocessing rule changed, by region."""
    regions, components = cohort.tables["regions"], cohort.tables["components"]
    known = regions[regions["raw_volume_mm3"].notna()]
    rows: list[list[Cell]] = []
    for region in in_order(known["region"].unique()):
        here = known[known["region"] == region]
        before, after = (here[f"{name}_volume_mm3"].to_numpy(float) / 1000 for name in ("raw", "pred"))
        changed = before != after
        rows.append(
            [
                region,
                len(here),
                int(changed.sum()),
                int(((before > 0) & (after == 0)).sum()),
                float(before.sum()),
                float(after.sum()),
                float(np.median((after - before)[changed])) if changed.any() else 0.0,
            ]
        )
    heads = (
        *("region", "cases", "changed", "emptied"),
        *("before, all cases (ml)", "after, all cases (ml)", "median change where changed (ml)"),
    )
    caption = (
        "Volumes of the merged prediction before and after the rule that removes small pieces. Changed: cases whose "
        "region the rule touched; emptied: cases of which nothing was left."
    )
    blocks = [Table("Before and after postprocessing", caption, heads, rows), *_removed(components)] if rows else []
    text = () if rows else ("The runs did not postprocess anything; they scored label maps as they were.",)
    return Section("postprocessing", "What postprocessing changed", text, blocks)


def _removed(components: pd.DataFrame) -> list[Table]:
    if components.empty:
        return []
    sizes = components.groupby("step")["volume_vox"].agg(["count", "sum", "median", "max"])
    rows: list[list[Cell]] = [
        [str(name), int(row["count"]), int(row["sum"]), float(row["median"]), int(row["max"])]
        for name, row in sizes.iterrows()
    ]
    heads = ("step", "components removed", "voxels, all together", "median size (voxels)", "largest (voxels)")
    caption = (
        "Separate pieces that were removed or given another label because they were smaller than their case's "
        "threshold. Step: the region whose pieces are judged."
    )
    return [Table("Components removed", caption, heads, rows, digits=0)]


def trust(cohort: Cohort) -> Section:
    """Whether confidence and agreement of the members tell good results from bad ones."""
    regions = cohort.tables["regions"]
    signs = {column: label for column, label in _SIGNS.items() if regions[column].notna().any()}
    if not signs:
        text = "Not known: only `predict` runs have members whose agreement and confidence can be looked at."
        return Section("trust", "Whether to believe it", (text,))
    blocks: list[Table | Figure] = [_levels(regions, signs)]
    rows: list[list[Cell]] = []
    palette = looks(cohort.sites_by_size)
    for one in measured(cohort):
        for column, label in signs.items():
            both = one.rows[[column, one.main]].dropna()
            if len(both):
                rows.append([one.name, label, spearman(both[column].to_numpy(float), both[one.main].to_numpy(float))])
        blocks += _against_quality(one, palette)
    if rows:
        heads = ("region", "sign", "rank correlation with the score")
        caption = (
            "Spearman's: 1 means that the sign orders cases exactly as the score does, 0 that it tells nothing. For "
            "the members' volumes a useful sign is below 0."
        )
        blocks.insert(1, Table("Do the signs tell good from bad?", caption, heads, rows, keys=2))
    text = (
        "Signs of quality that need no reference: how sure the ensemble is, and how far its members agree. Where there "
        "are references too, they show whether a low sign means a poor result in this cohort."
    )
    return Section("trust", "Whether to believe it", (text,), blocks)


def _levels(regions: pd.DataFrame, signs: dict[str, str]) -> Table:
    rows: list[list[Cell]] = []
    groups = dict(iter(regions.groupby(["site", "region"])))
    for site in sorted(regions["site"].unique()):
        for region in in_order(regions["region"].unique()):
            if (here := groups.get((site, region))) is None:
                continue
            for column, label in signs.items():
                found = spread(here[column].to_numpy(float))
                if found.n:
                    rows.append([str(site), region, label, found.n, found.median, found.q1, found.q3, found.p5])
    heads = ("site", "region", "sign", "cases", "median", "lower quartile", "upper quartile", "5th percentile")
    caption = (
        "Mean probability: of the region, over its predicted voxels, from 0 to 1. Members agree: Dice of every two "
        "members' own results, 1 is full agreement; mean of all pairs, and of the pair that agrees least. Members' "
        "volumes vary: standard deviation divided by the mean, 0 is full agreement."
    )
    return Table("Confidence and agreement", caption, heads, rows, keys=3)


def _against_quality(one: Measured, palette: dict[str, Look]) -> list[Figure]:
    sign = "member_dice_mean" if one.rows["member_dice_mean"].notna().any() else "mean_probability"
    both = one.rows[[sign, one.main, "site"]].dropna()
    if len(both) < _FEWEST_POINTS:
        return []
    groups = figures.points(both[sign], both[one.main], both["site"])
    caption = (
        "Each point is a case. Where points rise from the lower left to the upper right, the sign can be trusted: "
        "cases that it calls sure are good. Points on the lower right are sure and wrong."
    )
    labels = (f"{one.region}: {_SIGNS[sign]}", one.label)
    return [figures.scatter(f"Score against confidence: {one.name}", caption, groups, palette, labels)]


def runtimes(cohort: Cohort) -> Section:
    """What a case took, step by step."""
    timings = cohort.tables["timings"]
    rows: list[list[Cell]] = []
    for step, here in timings.groupby("step"):
        wall, cpu = spread(here["seconds"].to_numpy(float)), spread(here["cpu_seconds"].to_numpy(float))
        rows.append([str(step), wall.n, wall.median, wall.q3, float(here["seconds"].max()), cpu.median])
    heads = ("step", "cases", "median (s)", "upper quartile (s)", "longest (s)", "median CPU time (s)")
    caption = (
        "Wall-clock seconds of one case in the worker that did the step; steps of different cases run beside each "
        "other, so that they do not add up to the run's time. CPU time: over all threads, where it was measured."
    )
    return Section("time", "What it took", (), [*_costs(timings), Table("Time a case", caption, heads, rows, digits=2)])


def _costs(timings: pd.DataFrame) -> list[Table]:
    """What each stage takes of processors for one predict worker; nothing where nothing was predicted."""
    costs = Costs.of(pa.Table.from_pandas(timings[[*COLUMNS]], preserve_index=False))
    if not costs.cores:
        return []
    rows: list[list[Cell]] = [
        [name, stage.cases, stage.wall_median_s, stage.cpu_median_s, costs.cores[name]]
        for name, stage in costs.stages.items()
    ]
    heads = ("stage", "cases", "wall, median (s)", "CPU, median (s)", "cores per predict worker")
    caption = (
        "Cores per predict worker: CPU seconds of the stage for each wall second of predict, by the medians. With the "
        f"sum of them, rounded up to {costs.cores_per_worker}, the other stages keep up with one worker, or one GPU."
    )
    rows.append(["together", None, None, None, sum(costs.cores.values())])
    return [Table("Cores a worker needs", caption, heads, rows, digits=2)]
