"""Which lesions are found, and how well volumes agree."""

import numpy as np
import pandas as pd

from goat_ray.patients import patients_of
from goat_ray.report import figures
from goat_ray.report.agreement import VolumeAgreement, volume_agreement
from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort, Frame, in_order, region_place
from goat_ray.report.detection import Sensitivity, false_positives, sensitivities
from goat_ray.report.drawing import Look, looks

_ALL = "all sites"


def detection(cohort: Cohort) -> Section:
    """Sensitivity by lesion size, and false positives per case."""
    lesions, scored = cohort.tables["lesions"], cohort.scored
    known = lesions[(lesions["kind"] == "gt") & lesions["scored"].fillna(False).astype(bool)]
    blocks: list[Table | Figure] = []
    curves = {}
    for name, rows in _groups(known):
        found = sensitivities(
            rows["volume_mm3"].to_numpy(float),
            rows["detected"].to_numpy(float),
            patients_of(rows["case_id"]),
            rows["site"].tolist(),
        )
        blocks.append(_sizes(name, {**found.sites, _ALL: found.pooled}))
        curves[name] = found.pooled[1:]
    if curves:
        names = [_bin(one) for one in next(iter(curves.values()))]
        shares = {name: [one.share for one in found] for name, found in curves.items()}
        labels = ("volume of the lesion in the reference (mm³)", "share of lesions found")
        blocks.insert(0, figures.curves("Lesions found, by size", names, shares, labels))
    alarms = _alarms(scored)
    if alarms.rows:
        blocks.append(alarms)
    text = (
        "A lesion is a connected piece of a region in the reference, as the scoring rules count it; it is found if a "
        "prediction touches it. Brackets: 95 % intervals, over patients, since lesions of one patient are not "
        "independent.",
    )
    return Section("detection", "Which lesions are found", text if blocks else ("No scored lesions.",), blocks)


def _groups(rows: Frame) -> list[tuple[str, Frame]]:
    """Rows of each region and spec, by the name that headings use."""
    groups = {(str(spec), region_place(str(region))): here for (spec, region), here in rows.groupby(["spec", "region"])}
    return [(f"{region}, {spec}", groups[spec, (place, region)]) for spec, (place, region) in sorted(groups)]


def _bin(one: Sensitivity) -> str:
    return f"≥ {one.low_mm3:,g}" if one.high_mm3 is None else f"{one.low_mm3:,g}–{one.high_mm3:,g}"


def _sizes(name: str, sites: dict[str, tuple[Sensitivity, ...]]) -> Table:
    rows: list[list[Cell]] = [
        [site, "all" if index == 0 else _bin(one), one.lesions, one.detected, one.share]
        for site, found in sites.items()
        for index, one in enumerate(found)
        if one.lesions
    ]
    heads = ("site", "volume (mm³)", "lesions", "found", "share found")
    caption = "Lesions of the reference that count for the score, by volume; sizes a site has none of are left out."
    return Table(f"Lesions found: {name}", caption, heads, rows, keys=2)


def _alarms(scored: Frame) -> Table:
    rows: list[list[Cell]] = []
    for name, here in _groups(scored):
        found = false_positives(here["fp"].to_numpy(float), patients_of(here["case_id"]), here["site"].tolist())
        for site, one in {**found.sites, _ALL: found.pooled}.items():
            rows.append([name, site, one.n_cases, one.total, one.per_case, one.none])
    heads = (
        *("region", "site", "cases", "false positives"),
        *("false positives per case", "share of cases without any"),
    )
    caption = "A false positive is a predicted lesion that touches none of the reference."
    return Table("False positives", caption, heads, rows, keys=2)


def volumes(cohort: Cohort) -> Section:
    """Agreement of predicted and reference volumes."""
    regions = cohort.tables["regions"]
    known = regions[regions["gt_volume_mm3"].notna() & regions["pred_volume_mm3"].notna()]
    rows: list[list[Cell]] = []
    blocks: list[Table | Figure] = []
    palette = looks(cohort.sites_by_size)
    for region in in_order(known["region"].unique()):
        here = known[known["region"] == region]
        reference, predicted = (here[f"{who}_volume_mm3"].to_numpy(float) / 1000 for who in ("gt", "pred"))
        found = volume_agreement(reference, predicted, patients_of(here["case_id"]), here["site"].tolist())
        rows += [[region, site, *_cells(one)] for site, one in {**found.sites, _ALL: found.pooled}.items()]
        if found.pooled.n_both:
            blocks.append(_bland_altman(region, here, found.pooled, palette))
    heads = (
        *("region", "site", "cases with both", "only reference", "only predicted", "neither"),
        *("bias (%)", "lower limit (%)", "upper limit (%)", "calibration slope", "concordance", "absolute error (ml)"),
    )
    caption = (
        "Bias: by how many per cent predictions are larger than the reference, on (geometric) average; between the "
        "limits of agreement 95 % of cases lie (Bland–Altman on log ratios). Calibration slope: 1 is right, less means "
        "that large volumes come out too small. Bias, limits and slope rest on cases with both volumes. Concordance "
        "(Lin): 1 is perfect, 0 none; it and the mean absolute error rest on all cases. Brackets: 95 % intervals."
    )
    table = Table("Volume agreement", caption, heads, rows, digits=2, keys=2, digits_of=dict.fromkeys(heads[6:9], 1))
    return Section("volumes", "Volumes", () if rows else ("No reference volumes.",), [table, *blocks] if rows else [])


def _cells(one: VolumeAgreement) -> list[Cell]:
    counts: list[Cell] = [one.n_both, one.n_only_reference, one.n_only_predicted, one.n_neither]
    limits = [one.bias_percent, one.lower_limit_percent, one.upper_limit_percent]
    return [*counts, *limits, one.slope, one.concordance, one.absolute_error_ml]


def _bland_altman(region: str, here: pd.DataFrame, found: VolumeAgreement, palette: dict[str, Look]) -> Figure:
    both = here[(here["gt_volume_mm3"] > 0) & (here["pred_volume_mm3"] > 0)]
    reference, predicted = both["gt_volume_mm3"], both["pred_volume_mm3"]
    groups = figures.points(np.sqrt(reference * predicted) / 1000, predicted / reference, both["site"])
    ends = {
        "bias": found.bias_percent,
        "lower limit": found.lower_limit_percent,
        "upper limit": found.upper_limit_percent,
    }
    lines = {name: 1 + one.value / 100 for name, one in ends.items() if one.value is not None and one.value > -100}
    caption = (
        "Each point is a case with both volumes: at 1 they are equal, at 2 the prediction is twice as large. Solid "
        "line: bias, the average ratio; dashed lines: limits of agreement, between which 95 % of cases lie."
    )
    labels = (f"mean of both volumes of {region} (ml, geometric)", "predicted ÷ reference volume")
    title = f"Predicted over reference volume: {region}"
    return figures.scatter(title, caption, groups, palette, labels, lines=lines, log_x=True, log_y=True)
