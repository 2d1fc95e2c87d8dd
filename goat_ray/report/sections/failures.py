"""Where it fails: cases without a result, and the worst of those with one."""

import base64
from collections import Counter

import pandas as pd

from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort, RunData
from goat_ray.report.sections.performance import Measured, measured

_WORST = 5
_MOST_PICTURES = 24


def failures(cohort: Cohort) -> Section:
    """Failed cases by reason, and each of them."""
    failed = cohort.tables["failures"]
    counts = Counter(zip(failed["site"], failed["category"], strict=True))
    summary: list[list[Cell]] = [[site, category, count] for (site, category), count in sorted(counts.items())]
    each: list[list[Cell]] = [
        [row["case_id"], row["site"], row["category"], row["message"], row["hint"]]
        for row in failed.sort_values("case_id").to_dict("records")
    ]
    if not each:
        return Section("failures", "Cases without a result", ("Every expected case has one.",))
    blocks = [
        Table("Failures by reason", "", ("site", "reason", "cases"), summary, keys=2, digits=0),
        Table("Failed cases", "", ("case", "site", "reason", "what was found", "what to do"), each, keys=5),
    ]
    return Section("failures", "Cases without a result", (), blocks)


def worst(cohort: Cohort) -> Section:
    """The lowest scores of each region, why they are low, and how they look."""
    blocks: list[Table | Figure] = []
    shown: dict[str, str] = {}
    for one in measured(cohort):
        lowest = one.rows.dropna(subset=[one.main]).nsmallest(_WORST, one.main, keep="first")
        reasons = {row["case_id"]: _reason(cohort, row) for row in lowest.to_dict("records")}
        blocks.append(_table(one, lowest, reasons))
        shown |= {case_id: f"{one.name}: {reason}" for case_id, reason in reasons.items() if case_id not in shown}
    if not blocks:
        shown = _least_sure(cohort)
    text = () if blocks else ("Without references: the cases in which the members agree least.",)
    return Section("worst", "Where to look first", text, [*blocks, *_pictures(cohort, shown)])


def _table(one: Measured, lowest: pd.DataFrame, reasons: dict[str, str]) -> Table:
    rows: list[list[Cell]] = [
        [
            row["case_id"],
            row["site"],
            reasons[row["case_id"]],
            row[one.main],
            *[None if pd.isna(row[name]) else int(row[name]) for name in ("tp", "fp", "fn")],
            _ml(row["gt_volume_mm3"]),
            _ml(row["pred_volume_mm3"]),
        ]
        for row in lowest.to_dict("records")
    ]
    heads = (
        "case",
        "site",
        "why",
        one.metrics[one.main],
        "found",
        "false",
        "missed",
        "reference (ml)",
        "predicted (ml)",
    )
    return Table(f"Lowest scores: {one.name}", "", heads, rows, keys=3)


def _ml(volume_mm3: float | None) -> float | None:
    return None if volume_mm3 is None or pd.isna(volume_mm3) else volume_mm3 / 1000


def _reason(cohort: Cohort, row: dict[str, object]) -> str:
    """In a few words, from the counts of the region and its lesions."""
    if row["penalised"] is True:
        return "no prediction"
    if row["gt_empty"] is True and row["pred_empty"] is not True:
        return "predicted where the reference is empty"
    if row["pred_empty"] is True and row["gt_empty"] is not True:
        return "nothing predicted"
    missed, false = (int(row[name] or 0) if not pd.isna(row[name]) else 0 for name in ("fn", "fp"))  # type: ignore[call-overload]
    lesions = cohort.tables["lesions"]
    own = lesions[(lesions["case_id"] == row["case_id"]) & (lesions["region"] == row["region"])]
    if bool(own["shell_match_only"].fillna(False).astype(bool).any()):
        return "touched only at the rim"
    if missed or false:
        return " and ".join(text for text, n in ((f"{missed} missed", missed), (f"{false} false", false)) if n)
    return "outlines differ"


def _least_sure(cohort: Cohort) -> dict[str, str]:
    regions = cohort.tables["regions"]
    sure = regions[regions["region"] == "WT"].dropna(subset=["member_dice_mean"]).nsmallest(_WORST, "member_dice_mean")
    return {row["case_id"]: f"members agree to {row['member_dice_mean']:.2f}" for row in sure.to_dict("records")}


def _pictures(cohort: Cohort, shown: dict[str, str]) -> list[Figure]:
    cases = cohort.tables["cases"].set_index("case_id")["run"]
    found = (picture(cohort.run_of(cases[case_id]), case_id, why) for case_id, why in shown.items())
    return [figure for figure in found if figure][:_MOST_PICTURES]


def picture(run: RunData, case_id: str, why: str) -> Figure | None:
    """The thumbnail of a case with a few words on why it is shown; None if there is none."""
    png = run.thumbnail(case_id)
    if png is None:
        return None
    image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Figure(case_id, why, f"three planes through {case_id}", image=image)
