"""The sites against each other: pooled, as a sample of sites, and at equal lesion size."""

from goat_ray.report import figures
from goat_ray.report.adjusted import Adjusted, SiteEffect, at_equal_size
from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort
from goat_ray.report.measured import Measured, measured
from goat_ray.report.pooling import Pooling, pool
from goat_ray.report.statistics import SMALL, Estimate, means


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
        *("region", "score", "case-weighted mean", "site-weighted mean", "random effects"),
        *("new site: from", "new site: to", "tau²", "I²", "without one site: lowest", "without one site: highest"),
    )
    caption = (
        "Case-weighted: every case counts the same, large sites more. Site-weighted: every site counts the same. "
        "Random effects: the sites as a sample of all sites there are (Paule–Mandel, Hartung–Knapp interval). New "
        "site: where the mean of a further site is expected, 95 %; from 3 sites on. tau²: variance between sites; I²: "
        "its share of all variance, 0 to 1. Without one site: the random-effects mean when the site that matters most "
        "is left out. Sites of one patient, or of equal scores alone, cannot carry random effects."
    )
    table = Table("Pooled over sites", caption, heads, rows, keys=2)
    return Section("pooling", "All sites together", () if rows else ("No scores.",), [table, *blocks] if rows else [])


def _pooled_row(one: Measured, pooled: Pooling, mean: Estimate) -> list[Cell]:
    effects = pooled.random_effects
    head: list[Cell] = [one.name, one.label, mean, pooled.site_weighted]
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
    return figures.forest(f"Sites beside each other: {one.name}", rows, band, one.label)


def equal_size(cohort: Cohort) -> Section:
    """Which sites are still apart when lesion size is taken into account."""
    title = "Sites at equal lesion size"
    found = {one.name: (one, _adjusted(one)) for one in measured(cohort)}
    if not found:
        return Section("equal-size", title, ("No scores.",))
    text = [
        "Small lesions score less everywhere, so that a site with small tumours looks worse than it is. Here a mixed "
        "model takes that away: the score is a straight line in the logarithm of the reference volume, and each site "
        "may lie above or below it. It rests on patients (the mean of each one's cases) whose reference has the "
        "region.",
        "Look here before saying that a site is worse. A site is apart if the interval of its adjusted difference does "
        "not contain 0; of twenty sites that do not differ, about one is apart by chance.",
        *(f"{name}: not fitted, because {result.problem}." for name, (_, result) in found.items() if result.problem),
    ]
    return Section("equal-size", title, text, [_effects(*pair) for pair in found.values() if not pair[1].problem])


def _adjusted(one: Measured) -> Adjusted:
    cohorts = one.rows["cohort"].astype(object).fillna("unknown").tolist()
    return at_equal_size(
        one.rows[one.main].to_numpy(float), one.rows["gt_volume_mm3"].to_numpy(float), cohorts, *one.who
    )


def _effects(one: Measured, found: Adjusted) -> Table:
    rows: list[list[Cell]] = [
        [site, _apart(effect), effect.patients, effect.raw, _estimate(effect)] for site, effect in found.sites.items()
    ]
    heads = ("site", "apart", "patients", "raw difference", "adjusted difference (95 % interval)")
    caption = (
        f"Score: {one.label}, adjusted for {'lesion size and cohort' if found.is_by_cohort else 'lesion size'}: it "
        f"changes by {found.per_tenfold:+.3f} where the reference is ten times as large. Differences are from the mean "
        "of all sites, every site counting the same; below 0 is worse. Raw: as measured. Adjusted: what is left at "
        f"equal size, drawn towards 0 the more, the fewer patients a site has; a site of fewer than {SMALL} is not "
        "judged."
    )
    if found.sites and not found.has_variance:
        caption += " The model finds no variance between sites beyond that between patients: none is apart."
    return Table(f"Sites at equal lesion size: {one.name}", caption, heads, rows, keys=2)


def _apart(effect: SiteEffect) -> str:
    return "not judged" if effect.patients < SMALL else "yes" if effect.is_apart else "no"


def _estimate(effect: SiteEffect) -> Estimate:
    return Estimate(effect.adjusted, effect.low, effect.high, effect.patients)
