"""Which lesions are found, and how well volumes agree."""

import numpy as np
import pandas as pd

from goat_ray.report import figures
from goat_ray.report.agreement import VolumeAgreement, volume_agreement
from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort
from goat_ray.report.detection import Sensitivity, false_positives, sensitivities
from goat_ray.report.patients import patients_of

_ALL = "all sites"


def detection(cohort: Cohort) -> Section:
    """Sensitivity by lesion size, and false positives per case."""
    lesions, scored = cohort.tables["lesions"], cohort.scored
    known = lesions[(lesions["kind"] == "gt") & lesions["scored"].fillna(False).astype(bool)]
    blocks: list[Table | Figure] = []
    curves = {}
    for (spec, region), rows in known.groupby(["spec", "region"]):
        found = sensitivities(
            rows["volume_mm3"].to_numpy(float),
            rows["detected"].to_numpy(float),
            patients_of(rows["case_id"]),
            rows["site"].tolist(),
        )
        blocks.append(_sizes(f"{region}, {spec}", {**found.sites, _ALL: found.pooled}))
        curves[f"{region}, {spec}"] = found.pooled[1:]
    if curves:
        names = [_bin(one) for one in next(iter(curves.values()))]
        shares = {name: [one.share for one in found] for name, found in curves.items()}
        blocks.insert(0, figures.curves("Lesions found, by size", names, shares, "share of lesions found"))
    alarms = _alarms(scored)
    if alarms.rows:
        blocks.append(alarms)
    text = (
        "Lesions of one patient are not independent: intervals are over patients. Sizes are volumes of the reference.",
    )
    return Section("detection", "Which lesions are found", text if blocks else ("No scored lesions.",), blocks)


def _bin(one: Sensitivity) -> str:
    return f"≥ {one.low_mm3:g}" if one.high_mm3 is None else f"{one.low_mm3:g}–{one.high_mm3:g}"


def _sizes(name: str, sites: dict[str, tuple[Sensitivity, ...]]) -> Table:
    rows: list[list[Cell]] = [
        [site, "all" if index == 0 else _bin(one), one.lesions, one.detected, one.share]
        for site, found in sites.items()
        for index, one in enumerate(found)
        if one.lesions
    ]
    heads = ("site", "volume (mm³)", "lesions", "found", "share found")
    return Table(f"Lesions found: {name}", "Scored lesions of the reference.", heads, rows, keys=2)


def _alarms(scored: pd.DataFrame) -> Table:
    rows: list[list[Cell]] = []
    for (spec, region), here in scored.groupby(["spec", "region"]):
        found = false_positives(here["fp"].to_numpy(float), patients_of(here["case_id"]), here["site"].tolist())
        for site, one in {**found.sites, _ALL: found.pooled}.items():
            rows.append([f"{region}, {spec}", site, one.n_cases, one.total, one.per_case, one.none])
    heads = ("region", "site", "cases", "false positives", "per case", "share of cases with none")
    return Table("False positives", "Predicted lesions that the reference has nothing of.", heads, rows, keys=2)


def volumes(cohort: Cohort) -> Section:
    """Agreement of predicted and reference volumes."""
    regions = cohort.tables["regions"]
    known = regions[regions["gt_volume_mm3"].notna() & regions["pred_volume_mm3"].notna()]
    rows: list[list[Cell]] = []
    blocks: list[Table | Figure] = []
    for region, here in known.groupby("region"):
        reference, predicted = (here[f"{who}_volume_mm3"].to_numpy(float) / 1000 for who in ("gt", "pred"))
        found = volume_agreement(reference, predicted, patients_of(here["case_id"]), here["site"].tolist())
        rows += [[str(region), site, *_cells(one)] for site, one in {**found.sites, _ALL: found.pooled}.items()]
        if found.pooled.n_both:
            blocks.append(_bland_altman(str(region), here, found.pooled))
    heads = (
        "region",
        "site",
        "both",
        "only reference",
        "only predicted",
        "neither",
        "bias (%)",
        "limits from (%)",
        "to (%)",
        "calibration slope",
        "concordance",
        "absolute error (ml)",
    )
    caption = (
        "Bland–Altman on log ratios: bias and limits say by how many per cent the prediction is larger. They rest on "
        "cases with both volumes; concordance and absolute error on all."
    )
    table = Table("Volume agreement", caption, heads, rows, digits=2, keys=2)
    return Section("volumes", "Volumes", () if rows else ("No reference volumes.",), [table, *blocks] if rows else [])


def _cells(one: VolumeAgreement) -> list[Cell]:
    counts: list[Cell] = [one.n_both, one.n_only_reference, one.n_only_predicted, one.n_neither]
    limits = [one.bias_percent, one.lower_limit_percent, one.upper_limit_percent]
    return [*counts, *limits, one.slope, one.concordance, one.absolute_error_ml]


def _bland_altman(region: str, here: pd.DataFrame, found: VolumeAgreement) -> Figure:
    both = here[(here["gt_volume_mm3"] > 0) & (here["pred_volume_mm3"] > 0)]
    groups = {
        str(site): (
            np.sqrt(rows["gt_volume_mm3"] * rows["pred_volume_mm3"]).to_numpy(float) / 1000,
            np.log(rows["pred_volume_mm3"] / rows["gt_volume_mm3"]).to_numpy(float),
        )
        for site, rows in both.groupby("site")
    }
    estimates = (found.bias_percent, found.lower_limit_percent, found.upper_limit_percent)
    lines = {
        name: float(np.log1p(estimate.value / 100))
        for name, estimate in zip(("bias", "lower limit", "upper limit"), estimates, strict=True)
        if estimate.value is not None and estimate.value > -100
    }
    return figures.scatter(
        f"Predicted over reference volume: {region}",
        "Each point is a case; above zero the prediction is larger. Solid: bias; dashed: limits of agreement.",
        groups,
        ("geometric mean of both volumes (ml)", "predicted over reference"),
        lines=lines,
        log_x=True,
        percent_y=True,
    )
