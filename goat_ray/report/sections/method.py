"""What the method did: postprocessing, confidence and disagreement of the members, time."""

import numpy as np
import pandas as pd

from goat_ray.report import figures
from goat_ray.report.agreement import spearman
from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort
from goat_ray.report.sections.performance import measured
from goat_ray.report.statistics import spread

_ALL = "all sites"
_SIGNS = {
    "mean_probability": "mean probability in the region",
    "member_dice_mean": "members agree (mean Dice of pairs)",
    "member_dice_min": "members agree (worst pair)",
    "member_volume_cv": "members' volumes vary (coefficient of variation)",
}


def postprocessing(cohort: Cohort) -> Section:
    """What the postprocessing rule changed, by region."""
    regions, components = cohort.tables["regions"], cohort.tables["components"]
    known = regions[regions["raw_volume_mm3"].notna()]
    rows: list[list[Cell]] = []
    for region, here in known.groupby("region"):
        before, after = (here[f"{name}_volume_mm3"].to_numpy(float) / 1000 for name in ("raw", "pred"))
        changed = before != after
        rows.append(
            [
                str(region),
                len(here),
                int(changed.sum()),
                int(((before > 0) & (after == 0)).sum()),
                float(before.sum()),
                float(after.sum()),
                float(np.median((after - before)[changed])) if changed.any() else 0.0,
            ]
        )
    heads = ("region", "cases", "changed", "emptied", "before (ml, all cases)", "after (ml)", "median change (ml)")
    caption = "Volumes of the merged prediction before and after the rule, over all done cases."
    blocks = [Table("Before and after postprocessing", caption, heads, rows), *_removed(components)] if rows else []
    return Section(
        "postprocessing", "What postprocessing changed", () if rows else ("Nothing is known of it.",), blocks
    )


def _removed(components: pd.DataFrame) -> list[Table]:
    if components.empty:
        return []
    sizes = components.groupby("step")["volume_vox"].agg(["count", "sum", "median", "max"])
    rows: list[list[Cell]] = [
        [str(name), int(row["count"]), int(row["sum"]), float(row["median"]), int(row["max"])]
        for name, row in sizes.iterrows()
    ]
    heads = ("step", "components removed", "voxels", "median size", "largest")
    return [Table("Components removed", "Each lay below its case's threshold.", heads, rows, digits=0)]


def trust(cohort: Cohort) -> Section:
    """Whether confidence and agreement of the members tell good results from bad ones."""
    regions = cohort.tables["regions"]
    signs = {column: label for column, label in _SIGNS.items() if regions[column].notna().any()}
    if not signs:
        return Section("trust", "Whether to believe it", ("Nothing is known of the members' confidence.",))
    blocks: list[Table | Figure] = [_levels(regions, signs)]
    rows: list[list[Cell]] = []
    for one in measured(cohort):
        for column, label in signs.items():
            both = one.rows[[column, one.main]].dropna()
            if len(both):
                rows.append([one.name, label, spearman(both[column].to_numpy(float), both[one.main].to_numpy(float))])
        blocks += _against_quality(one.name, one.rows, one.main, one.metrics[one.main])
    if rows:
        heads = ("region", "sign", "rank correlation with the score")
        caption = "Spearman; 1 would mean that the sign orders cases exactly as the score does."
        blocks.insert(1, Table("Do the signs tell good from bad?", caption, heads, rows, keys=2))
    return Section("trust", "Whether to believe it", (), blocks)


def _levels(regions: pd.DataFrame, signs: dict[str, str]) -> Table:
    rows: list[list[Cell]] = []
    for (site, region), here in regions.groupby(["site", "region"]):
        for column, label in signs.items():
            found = spread(here[column].to_numpy(float))
            if found.n:
                rows.append([str(site), str(region), label, found.n, found.median, found.q1, found.q3, found.p5])
    heads = ("site", "region", "sign", "cases", "median", "lower quartile", "upper quartile", "5th percentile")
    return Table("Confidence and agreement", "Without any reference.", heads, rows, keys=3)


def _against_quality(name: str, rows: pd.DataFrame, main: str, label: str) -> list[Figure]:
    sign = "member_dice_mean" if rows["member_dice_mean"].notna().any() else "mean_probability"
    both = rows[[sign, main, "site"]].dropna()
    if len(both) < 3:
        return []
    groups = {
        str(site): (here[sign].to_numpy(float), here[main].to_numpy(float)) for site, here in both.groupby("site")
    }
    caption = "Each point is a case. Low on the left and high on the right: the sign can be trusted."
    return [figures.scatter(f"Score against confidence: {name}", caption, groups, (_SIGNS[sign], label))]


def runtimes(cohort: Cohort) -> Section:
    """What a case took, step by step."""
    timings = cohort.tables["timings"]
    rows: list[list[Cell]] = []
    for step, here in timings.groupby("step"):
        wall, cpu = spread(here["seconds"].to_numpy(float)), spread(here["cpu_seconds"].to_numpy(float))
        rows.append([str(step), wall.n, wall.median, wall.q3, float(here["seconds"].max()), cpu.median])
    heads = ("step", "cases", "median (s)", "upper quartile", "longest", "median CPU (s)")
    return Section("time", "What it took", (), [Table("Time a case", "Wall seconds in the workers.", heads, rows, 2)])
