"""How well, and where: scores and distances by site and region."""

import numpy as np
import pandas as pd

from goat_ray.report import figures
from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort, by_site
from goat_ray.report.drawing import Look, looks
from goat_ray.report.measured import DISTANCES, Measured, measured
from goat_ray.report.reasons import LOW
from goat_ray.report.statistics import BySite, Estimate, means, shares, shares_below, spread

_ALL = "all cases"
_FEWEST_POINTS = 3


def performance(cohort: Cohort) -> Section:
    """Scores of each site and region."""
    blocks: list[Table | Figure] = []
    palette = looks(cohort.sites_by_size)
    for one in measured(cohort):
        blocks.append(_scores(one))
        blocks += _distances(one)
        groups = {str(site): rows[one.main].to_numpy(float) for site, rows in one.rows.groupby("site")}
        blocks.append(figures.boxes(f"{_capital(one.label)} by site: {one.name}", groups, palette, one.label))
        if len(groups) > 1:
            title = f"Share of cases up to each score: {one.name}"
            blocks.append(figures.cumulative(title, groups, palette, one.label))
        blocks += _against_size(one, palette)
    text = [
        "Brackets hold 95 % intervals: bootstrapped over patients within sites (2,000 resamples, fixed seed), for "
        "shares Wilson's where each patient has one case. Below 10 patients there is no interval, only n, the number "
        "of patients; below 50 the number is grey.",
        "Regions marked * are scored by the same rules, but not by the challenge's organisers.",
    ]
    return Section("performance", "How well, and where", text if blocks else ["No scores."], blocks)


def _scores(one: Measured) -> Table:
    columns, who = [name for name in one.metrics if name not in DISTANCES], one.who
    mean = means(one.rows[columns].to_numpy(float), *who)
    below = shares_below(one.rows[one.main].to_numpy(float), LOW, *who)
    mismatch = shares(_mismatches(one.rows), *who)
    rows: list[list[Cell]] = []
    parts = _parts(one)
    for place, column in enumerate(columns):
        for site, estimates in _and_all(mean).items():
            middle = spread(parts[site][column].to_numpy(float))
            quartiles = [middle.median, middle.q1, middle.q3, middle.p5]
            of_case = [_and_all(found)[site][0] if not place else "" for found in (below, mismatch)]
            rows.append([one.metrics[column], site, middle.n, estimates[place], *quartiles, *of_case])
    heads = (
        *("score", "site", "cases", "mean (95 % interval)"),
        *("median", "lower quartile", "upper quartile", "5th percentile"),
        *(f"share below {LOW:g}", "share where only one side is empty"),
    )
    caption = (
        "All scores run from 0 to 1, 1 is best. Cases whose score is undefined are not counted; those without "
        "prediction are, as the rules penalise them. The 5th percentile is what 19 of 20 cases reach. Only one side "
        "empty: the region is in the prediction or in the reference, but not in both; the score is then 0."
    )
    return Table(f"Scores: {one.name}", caption, heads, rows, keys=2)


def _distances(one: Measured) -> list[Table]:
    columns = [name for name in one.metrics if name in DISTANCES]
    if not columns:
        return []
    mean = means(one.rows[columns].to_numpy(float), *one.who)
    rows: list[list[Cell]] = []
    parts = _parts(one)
    for place, column in enumerate(columns):
        for site, estimates in _and_all(mean).items():
            here = parts[site][column]
            middle = spread(here.to_numpy(float))
            quartiles = [middle.median, middle.q1, middle.q3, middle.p95]
            rows.append([one.metrics[column], site, middle.n, int(here.isna().sum()), estimates[place], *quartiles])
    heads = (
        *("distance", "site", "cases", "undefined", "mean (95 % interval)"),
        *("median", "lower quartile", "upper quartile", "95th percentile"),
    )
    caption = (
        "In mm, 0 is best. HD95 is the distance that 95 % of one outline keeps to the other. It is undefined where one "
        "of both is empty; the organisers put a penalty of several hundred mm there and for every missed or false "
        "lesion, so that a mean with penalties is mostly a miss rate. Read it beside the medians without."
    )
    return [Table(f"Distances: {one.name}", caption, heads, rows, keys=2, digits=1)]


def _and_all(found: BySite[tuple[Estimate, ...]]) -> dict[str, tuple[Estimate, ...]]:
    return {**found.sites, _ALL: found.pooled}


def _parts(one: Measured) -> dict[str, pd.DataFrame]:
    return dict(by_site(one.rows, one.rows["site"].unique(), _ALL))


def _mismatches(rows: pd.DataFrame) -> pd.Series:
    """Whether exactly one of reference and prediction is empty: 1 or 0, NaN where either is not there."""
    both = rows[["gt_empty", "pred_empty"]].astype(float)
    return (both["gt_empty"] != both["pred_empty"]).astype(float).where(both.notna().all(axis=1), np.nan)


def _against_size(one: Measured, palette: dict[str, Look]) -> list[Figure]:
    known = one.rows[one.rows["gt_volume_mm3"] > 0].dropna(subset=[one.main])
    if len(known) < _FEWEST_POINTS:
        return []
    groups = figures.points(known["gt_volume_mm3"] / 1000, known[one.main], known["site"])
    caption = (
        "Each point is a case that has the region in its reference. Small regions score less everywhere, so that a "
        "site with small tumours is not yet a worse one; see “Sites at equal lesion size”."
    )
    labels = (f"reference volume of {one.region} (ml)", one.label)
    return [figures.scatter(f"Score against size: {one.name}", caption, groups, palette, labels, log_x=True)]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
