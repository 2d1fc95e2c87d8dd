"""What was evaluated: runs, the way of the cases, the sites."""

import numpy as np

from goat_ray.report.blocks import Cell, Section, Table
from goat_ray.report.data import Cohort
from goat_ray.report.statistics import spread

_ALL = "all"


def provenance(cohort: Cohort) -> Section:
    """Which runs, made from what, and where every expected case ended."""
    return Section("flow", "What was evaluated", _about(cohort), (_runs(cohort), _flow(cohort)))


def sites(cohort: Cohort) -> Section:
    """What each site sent."""
    return Section("sites", "Sites", (), (_sites(cohort),))


def _about(cohort: Cohort) -> list[str]:
    specs = sorted(cohort.scored["spec"].unique())
    cases = cohort.tables["cases"]
    text = [f"{len(cases)} expected cases of {len(cohort.sites)} site(s) in {len(cohort.runs)} run(s)."]
    if specs:
        text.append(f"Scored by {', '.join(specs)}. References are those that the runs were given; see run.json.")
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
                str((record.get("config") or {}).get("spec")),
                str(record.get("state", "")),
            ]
        )
    heads = ("run", "kind", "id", "started (UTC)", "ensemble", "members", "spec", "state")
    return Table("Runs", "Equal ids mean equal settings and weights.", heads, rows, keys=8)


def _flow(cohort: Cohort) -> Table:
    cases = cohort.tables["cases"]
    reasons = sorted(cases["failure_category"].dropna().unique())
    rows: list[list[Cell]] = []
    for site in [*cohort.sites, _ALL]:
        here = cases if site == _ALL else cases[cases["site"] == site]
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
    heads = ("site", "expected", *reasons, "done", "with reference", "scored")
    return Table("The way of the cases", "Expected = failed, by reason, + done.", heads, rows, digits=0)


def _sites(cohort: Cohort) -> Table:
    cases, regions = cohort.tables["cases"], cohort.tables["regions"]
    wt, et = (regions[regions["region"] == name] for name in ("WT", "ET"))
    rows: list[list[Cell]] = []
    for site in [*cohort.sites, _ALL]:
        here = (cases if site == _ALL else cases[cases["site"] == site]).query("status == 'ok'")
        ids = here["case_id"]
        predicted = spread(wt[wt["case_id"].isin(ids)]["pred_volume_mm3"].to_numpy(float) / 1000)
        reference = spread(wt[wt["case_id"].isin(ids)]["gt_volume_mm3"].to_numpy(float) / 1000)
        enhancing = et[et["case_id"].isin(ids)]
        empty = enhancing["pred_volume_mm3"].to_numpy(float) == 0
        spacing = here[[f"spacing_{axis}_mm" for axis in "xyz"]].drop_duplicates().round(2).drop_duplicates()
        rows.append(
            [
                site,
                len(here),
                ", ".join(sorted(here["cohort"].dropna().unique())) or "unknown",
                "; ".join("×".join(f"{mm:g}" for mm in row) for row in spacing.head(2).to_numpy())
                + (" and others" if len(spacing) > 2 else ""),
                predicted.median,
                _range(predicted.q1, predicted.q3),
                reference.median,
                _range(reference.q1, reference.q3),
                float(np.mean(empty)) if len(empty) else None,
            ]
        )
    heads = (
        "site",
        "cases",
        "cohorts",
        "spacing (mm)",
        "predicted WT (ml)",
        "middle half",
        "reference WT (ml)",
        "middle half of it",
        "share without ET",
    )
    caption = "Done cases. Volumes are medians of the whole tumour; the last column counts predictions without ET."
    return Table("Sites", caption, heads, rows, digits=1)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.1f} to {high:.1f}"
