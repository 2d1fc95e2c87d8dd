"""How well, and where: scores by site and region, pooling over sites."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from goat_ray.report import figures
from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort
from goat_ray.report.patients import patients_of
from goat_ray.report.pooling import Pooling, pool
from goat_ray.report.statistics import Estimate, means, shares_below, spread

_ALL = "all cases"
_LESIONWISE = {
    "lw_dice": "lesion-wise Dice",
    "lw_nsd_1_0": "lesion-wise NSD at 1 mm",
    "dice": "Dice",
    "lw_hd95_mm": "lesion-wise HD95 with penalties (mm)",
    "lw_hd95_found_mm": "HD95 of found lesions (mm)",
}
_FEWEST_POINTS = 3
_ONE_TO_ONE = {"sq_dice": "Dice of matched pairs", "sq_nsd": "NSD of matched pairs", "match_f1": "detection F1"}


@dataclass(frozen=True, slots=True)
class Measured:
    """The scores of one region by one spec."""

    spec: str
    region: str
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        """What headings call it; `*` where the spec's organisers do not score it."""
        return f"{self.region}{'' if self.rows['official'].all() else '*'}, {self.spec}"

    @property
    def metrics(self) -> dict[str, str]:
        """Columns that have values, and what they are called."""
        known = _LESIONWISE if self.rows["lw_dice"].notna().any() else _ONE_TO_ONE
        return {column: label for column, label in known.items() if self.rows[column].notna().any()}

    @property
    def main(self) -> str:
        """The column that the figures show."""
        return next(iter(self.metrics))

    @property
    def who(self) -> tuple[list[str], list[str]]:
        """Patient and site of each row."""
        return patients_of(self.rows["case_id"]), self.rows["site"].tolist()


def measured(cohort: Cohort) -> Iterator[Measured]:
    """Each region that has scores, the organisers' own first."""
    scored = cohort.scored
    for (_, spec, region), rows in scored.groupby([~scored["official"].astype(bool), "spec", "region"], sort=True):
        found = Measured(str(spec), str(region), rows.sort_values(["site", "case_id"]))
        if found.metrics:
            yield found


def performance(cohort: Cohort) -> Section:
    """Scores of each site and region."""
    found = list(measured(cohort))
    blocks: list[Table | Figure] = []
    for one in found:
        blocks.append(_scores(one))
        groups = {site: rows[one.main].to_numpy(float) for site, rows in one.rows.groupby("site")}
        blocks.append(figures.boxes(f"{one.metrics[one.main]} by site: {one.name}", groups, one.metrics[one.main]))
        blocks += _against_size(one)
        if len(groups) > 1:
            title = f"How many cases score how little: {one.name}"
            blocks.append(figures.cumulative(title, groups, one.metrics[one.main]))
    text = [
        "Every interval is a 95 % bootstrap interval over patients within sites (2,000 resamples, seed stated in the "
        "code). Fewer than 10 patients: no interval; fewer than 50: greyed.",
        "Regions with * are not scored by the spec's organisers.",
        "A mean of HD95 with penalties is a miss rate in disguise: read it beside the HD95 of found lesions.",
    ]
    return Section("performance", "How well, and where", text if found else ["No scores."], blocks)


def _scores(one: Measured) -> Table:
    columns, who = list(one.metrics), one.who
    values = one.rows[columns].to_numpy(float)
    mean = means(values, *who)
    below = shares_below(one.rows[one.main].to_numpy(float), 0.5, *who)
    rows: list[list[Cell]] = []
    for place, column in enumerate(columns):
        for site in [*mean.sites, _ALL]:
            here = one.rows if site == _ALL else one.rows[one.rows["site"] == site]
            estimates = mean.pooled if site == _ALL else mean.sites[site]
            (share,) = below.pooled if site == _ALL else below.sites[site]
            middle = spread(here[column].to_numpy(float))
            quartiles = [middle.median, middle.q1, middle.q3, middle.p5]
            rows.append(
                [one.metrics[column], site, middle.n, estimates[place], *quartiles, share if not place else None]
            )
    heads = (
        "score",
        "site",
        "cases",
        "mean (95 % interval)",
        "median",
        "lower quartile",
        "upper quartile",
        "5th percentile",
        "share below 0.5",
    )
    return Table(
        f"Scores: {one.name}",
        "Cases whose score is undefined are not counted; those without prediction are, as the spec penalises them.",
        heads,
        rows,
        keys=2,
    )


def _against_size(one: Measured) -> list[Figure]:
    """Scores fall with the size of what is to be found: a site with small tumours is not a worse site."""
    known = one.rows[one.rows["gt_volume_mm3"] > 0].dropna(subset=[one.main])
    if len(known) < _FEWEST_POINTS:
        return []
    groups = {
        str(site): (here["gt_volume_mm3"].to_numpy(float) / 1000, here[one.main].to_numpy(float))
        for site, here in known.groupby("site")
    }
    caption = "Each point is a case. Small regions score less everywhere: compare sites at equal size."
    labels = ("reference volume (ml)", one.metrics[one.main])
    return [figures.scatter(f"Score against size: {one.name}", caption, groups, labels, log_x=True)]


def pooling(cohort: Cohort) -> Section:
    """All sites together, as one population and as a sample of sites."""
    blocks: list[Table | Figure] = []
    rows: list[list[Cell]] = []
    for one in measured(cohort):
        values, who = one.rows[one.main].to_numpy(float), one.who
        pooled, mean = pool(values, *who), means(values, *who)
        rows.append(_pooled_row(one, pooled, mean.pooled[0]))
        if len(mean.sites) > 1:
            shown = {**{site: found[0] for site, found in mean.sites.items()}, "all cases": mean.pooled[0]}
            blocks.append(_forest(one, shown, pooled))
    heads = (
        "region",
        "score",
        "case-weighted mean",
        "site-weighted mean",
        "random effects",
        "new site from",
        "to",
        "tau²",
        "I²",
        "without one site, from",
        "up to",
    )
    caption = (
        "Case-weighted: large sites count more. Site-weighted: every site counts the same. Random effects: "
        "Paule–Mandel with the Hartung–Knapp interval; `new site` is where the mean of a further site is expected."
    )
    table = Table("Pooled over sites", caption, heads, rows, keys=2)
    return Section("pooling", "All sites together", () if rows else ("No scores.",), [table, *blocks] if rows else [])


def _pooled_row(one: Measured, pooled: Pooling, mean: Estimate) -> list[Cell]:
    effects = pooled.random_effects
    head: list[Cell] = [one.name, one.metrics[one.main], mean, pooled.site_weighted]
    if effects is None:
        return [*head, *[None] * 7]
    out = effects.leave_one_out
    return [
        *head,
        Estimate(effects.value, effects.low, effects.high, mean.n),
        effects.new_site_low,
        effects.new_site_high,
        effects.tau2,
        effects.i2,
        out.low if out else None,
        out.high if out else None,
    ]


def _forest(one: Measured, rows: dict[str, Estimate], pooled: Pooling) -> Figure:
    effects, band = pooled.random_effects, None
    if effects and effects.new_site_low is not None and effects.new_site_high is not None:
        band = (effects.new_site_low, effects.new_site_high)
    return figures.forest(f"Sites beside each other: {one.name}", rows, band, one.metrics[one.main])
