"""What was evaluated: runs, the way of the cases, the sites."""

import numpy as np
import pandas as pd

from goat_ray.patients import patients_of
from goat_ray.report.blocks import Cell, Section, Table
from goat_ray.report.data import Cohort, by_site
from goat_ray.report.statistics import spread

_ALL = "all"
_QUARTILES = ("median", "lower quartile", "upper quartile")


def provenance(cohort: Cohort) -> Section:
    """Which runs, made from what, and where every expected case ended."""
    return Section("flow", "What was evaluated", _about(cohort), (_runs(cohort), _flow(cohort)))


def sites(cohort: Cohort) -> Section:
    """What each site sent."""
    text = (
        "Cases that were segmented or read without fault. Sites and cohorts are those of the list the run was given.",
    )
    return Section("sites", "The sites", text, (_sites(cohort), _volumes(cohort)))


def _about(cohort: Cohort) -> list[str]:
    specs = sorted(cohort.scored["spec"].unique())
    cases, n_sites = cohort.tables["cases"], len(cohort.sites)
    text = [f"Cases: {len(cases):,}; sites: {n_sites}; runs put together: {len(cohort.runs)}."]
    if specs:
        text.append(
            f"Scores follow {', '.join(specs)}, a named set of rules on what counts as a lesion, a hit and a penalty; "
            "its values are at the end. References are the expert label maps that the run was given."
        )
    else:
        text.append("No case has a reference: there are no scores, and everything else is shown.")
    return text


def _runs(cohort: Cohort) -> Table:
    rows = []
    for run in cohort.runs:
        record = run.record
        ensemble = record.get("ensemble") or {}
        rows.append(
            [
                run.name,
                str(record.get("kind")),
                str(record.get("run_id")),
                str(record.get("created_utc")),
                f"{ensemble.get('name', '')} {str(ensemble.get('sha256', ''))[:12]}".strip() or "none",
                ", ".join(ensemble.get("members", {})) or "none",
                str((record.get("config") or {}).get("spec") or "none"),
                str(record.get("state", "")),
            ]
        )
    heads = ("run", "kind", "id", "started (UTC)", "ensemble", "members", "scored by", "state")
    caption = (
        "Kind: predict makes label maps, pseudo-label a training set of them, evaluate scores given ones. "
        "Equal ids mean equal settings and weights. Ensemble: its name and the first letters of its checksum; "
        "members are its networks."
    )
    return Table("Runs", caption, heads, rows, keys=8)


def _flow(cohort: Cohort) -> Table:
    cases = cohort.tables["cases"]
    reasons = sorted(cases["failure_category"].dropna().unique())
    rows: list[list[Cell]] = []
    for site, here in by_site(cases, cohort.sites, _ALL):
        ok = here[here["status"] == "ok"]
        rows.append(
            [
                site,
                len(here),
                *[int((here["failure_category"] == reason).sum()) for reason in reasons],
                len(ok),
                int(ok["evaluation"].notna().sum()),
                int((ok["evaluation"] == "ok").sum()),
            ]
        )
    failed = "; the columns between the first two count the failed ones by reason" if reasons else "; none failed"
    caption = (
        f"Cases, from expected to scored. Expected = done + failed{failed}. With reference: done cases that were to be "
        "scored; scored: those that could be. What kept a case from it is under “Cases without a result”."
    )
    heads = ("site", "expected", *reasons, "done", "with reference", "scored")
    return Table("The way of the cases", caption, heads, rows, digits=0)


def _sites(cohort: Cohort) -> Table:
    whole = _region(cohort, "WT")
    rows: list[list[Cell]] = []
    for site, here in by_site(cohort.done, cohort.sites, _ALL):
        tumour = whole.reindex(here["case_id"])
        rows.append(
            [
                site,
                len(here),
                len(set(patients_of(here["case_id"]))),
                ", ".join(sorted(here["cohort"].dropna().unique())) or "unknown",
                _spacings(here),
                _mean(tumour["n_gt_scored"]),
                _mean(tumour["n_pred_components"]),
            ]
        )
    heads = (
        *("site", "cases", "patients", "cohorts", "spacing (mm)"),
        *("reference lesions per case", "predicted pieces per case"),
    )
    caption = (
        "Patients: ids that end in a time point (-000, -001, …) are of one patient. Cohort: kind of tumour. Spacing: "
        "edges of a voxel. Lesions and pieces are those of the whole tumour (WT), on average: lesions of the reference "
        "that the scoring counts, and separate pieces of the prediction."
    )
    return Table("Cases", caption, heads, rows, digits=1)


def _volumes(cohort: Cohort) -> Table:
    whole, enhancing = _region(cohort, "WT"), _region(cohort, "ET")
    rows: list[list[Cell]] = []
    for site, here in by_site(cohort.done, cohort.sites, _ALL):
        wt, et = (region.reindex(here["case_id"]) for region in (whole, enhancing))
        for who, column in (("prediction", "pred_volume_mm3"), ("reference", "gt_volume_mm3")):
            found = spread(wt[column].to_numpy(float) / 1000)
            if found.n:
                quartiles = [found.median, found.q1, found.q3]
                rows.append([site, who, found.n, *quartiles, _mean(et[column].dropna() == 0)])
    heads = ("site", "of", "cases", *(f"WT {name} (ml)" for name in _QUARTILES), "share without ET")
    caption = (
        "Volume of the whole tumour (WT) in the predictions and, where there are any, in the references. The middle "
        "half of the cases lies between the quartiles. Share without ET: of cases where nothing enhances."
    )
    return Table("Tumour volumes", caption, heads, rows, digits=1, keys=2, digits_of={heads[-1]: 2})


def _region(cohort: Cohort, name: str) -> pd.DataFrame:
    regions = cohort.tables["regions"]
    return regions[regions["region"] == name].set_index("case_id")


def _mean(values: pd.Series) -> float | None:
    known = values.dropna().to_numpy(float)
    return float(np.mean(known)) if len(known) else None


def _spacings(cases: pd.DataFrame) -> str:
    spacing = cases[[f"spacing_{axis}_mm" for axis in "xyz"]].round(2).drop_duplicates()
    first = ["×".join(f"{mm:g}" for mm in row) for row in spacing.head(2).to_numpy()]
    return "; ".join(first) + (" and others" if len(spacing) > 2 else "")
