"""Where it fails: cases without a result, and the worst of those with one."""

import base64
from collections import Counter
from collections.abc import Iterable
from itertools import islice

import pandas as pd

from goat_ray.report.blocks import Cell, Figure, Section, Table
from goat_ray.report.data import Cohort, Frame, RunData
from goat_ray.report.flags import find_flags
from goat_ray.report.measured import Measured, measured
from goat_ray.report.reasons import SCORED, in_words, scored_reasons
from goat_ray.report.sections.checks import most_flagged

MOST_PICTURES = 24

PICTURE_KEY = (
    "Pictures: three planes through the largest cross-section over the T1 image with contrast, patient's right on the "
    "left; orange is NETC (necrotic and non-enhancing core), blue SNFH (oedema), yellow ET (enhancing tumour)."
)

_FEWEST, _WORST = 3, 10  # of each site and region; of all sites together, where they are few


def failures(cohort: Cohort) -> Section:
    """Failed cases by reason, and each of them."""
    lost = _without_result(cohort)
    if lost.empty:
        return Section("failures", "Cases without a result", ("Every expected case has one.",))
    counts = Counter(zip(lost["site"], lost["category"], strict=True))
    summary: list[list[Cell]] = [[site, category, count] for (site, category), count in sorted(counts.items())]
    each: list[list[Cell]] = [
        [row["case_id"], row["site"], row["category"], row["message"], row["hint"]] for row in lost.to_dict("records")
    ]
    blocks = [
        Table("Failures by reason", "", ("site", "reason", "cases"), summary, keys=2, digits=0),
        Table("Failed cases", "", ("case", "site", "reason", "what was found", "what to do"), each, keys=5),
    ]
    text = (
        "These cases have no label map or no score. Each reason is one of a fixed list; the same rows, and every "
        "scored region with a reason of its own, are in the CSV that ends in .failures.csv, beside this file.",
    )
    return Section("failures", "Cases without a result", text, blocks)


def _without_result(cohort: Cohort) -> Frame:
    """Failed cases, and done ones that could not be scored though they have a reference; by case."""
    unscored = cohort.unscored.rename(columns={"evaluation": "category", "evaluation_message": "message"})
    columns = ["case_id", "site", "category", "message", "hint"]
    parts = [
        part.reindex(columns=columns).astype(object) for part in (cohort.tables["failures"], unscored) if len(part)
    ]
    return pd.concat([pd.DataFrame(columns=columns), *parts]).sort_values("case_id").fillna("")


def worst(cohort: Cohort) -> Section:
    """The lowest scores of each site and region, why they are low, and how they look."""
    tables: list[Table] = []
    shown: list[Frame] = []
    rows = scored_reasons(cohort)
    each = max(_FEWEST, _WORST // max(1, len(cohort.sites)))
    for one in measured(cohort):
        lowest = _lowest(rows.loc[one.rows.index], one.main, each)
        tables.append(_table(one, lowest))
        told = lowest[one.main].map(f"{one.label} {{:.3f}}".format)
        shown.append(lowest.assign(told=f"{one.name}: " + lowest["why"] + "; " + told))
    if not tables:
        pictures = _pictures(cohort, most_flagged(find_flags(cohort)))
        text = ["Without references: the cases with most flags, see “Cases to check”.", PICTURE_KEY]
        return Section("worst", "Where to look first", text if pictures else ["There are no pictures."], pictures)
    pictures = _pictures(cohort, _by_turns(shown))
    text = [f"The {each} lowest scores of each site and region, and why they are low."]
    if pictures:
        text.append(f"{PICTURE_KEY} At most {MOST_PICTURES} are shown, the lowest of each site first.")
    return Section("worst", "Where to look first", text, [_meanings(rows), *tables, *pictures])


def _lowest(rows: Frame, main: str, each: int) -> Frame:
    """The lowest of each site, with their `place` in it and `why`; by site."""
    lowest = rows.dropna(subset=[main]).sort_values([main, "case_id"]).groupby("site").head(each)
    lowest = lowest.assign(place=lowest.groupby("site").cumcount(), why=[*map(in_words, lowest.to_dict("records"))])
    return lowest.sort_values(["site", "place"])


def _meanings(rows: Frame) -> Table:
    counts = Counter(rows["reason"])
    cells: list[list[Cell]] = [[code, meaning, counts[code]] for code, meaning in SCORED.items()]
    caption = (
        "Each region of each scored case has one reason or none; all of them are in the CSV that ends in "
        ".failures.csv, beside this file."
    )
    return Table("Reasons", caption, ("reason", "what it means", "regions of cases"), cells, keys=2, digits=0)


def _table(one: Measured, lowest: Frame) -> Table:
    rows: list[list[Cell]] = [
        [
            *(row[name] for name in ("case_id", "site", "why")),
            row["reason"] or "none",
            row[one.main],
            *(None if pd.isna(row[name]) else int(row[name]) for name in ("tp", "fp", "fn")),
            *(None if pd.isna(row[name]) else row[name] / 1000 for name in ("gt_volume_mm3", "pred_volume_mm3")),
        ]
        for row in lowest.to_dict("records")
    ]
    heads = (
        *("case", "site", "why", "reason", one.label),
        *("lesions found", "false lesions", "lesions missed", "reference (ml)", "predicted (ml)"),
    )
    caption = "Lesions found and missed are those of the reference, false ones are predicted where it has none."
    digits_of = dict.fromkeys(heads[-2:], 1)
    return Table(f"Lowest scores: {one.name}", caption, heads, rows, keys=4, digits_of=digits_of)


def _by_turns(lowest: list[Frame]) -> list[tuple[str, str]]:
    """Cases and why they are shown: the lowest of each site and region before the second lowest of any."""
    ordered = pd.concat(lowest).sort_values("place", kind="stable").drop_duplicates("case_id")
    return [(row["case_id"], f"{row['site']}. {row['told']}") for row in ordered.to_dict("records")]


def _pictures(cohort: Cohort, shown: Iterable[tuple[str, str]]) -> list[Figure]:
    cases = cohort.tables["cases"].set_index("case_id")["run"]
    found = (picture(cohort.run_of(cases[case_id]), case_id, why) for case_id, why in shown)
    return list(islice((figure for figure in found if figure), MOST_PICTURES))


def picture(run: RunData, case_id: str, why: str) -> Figure | None:
    """The thumbnail of a case with a few words on why it is shown; None if there is none."""
    png = run.thumbnail(case_id)
    if png is None:
        return None
    image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Figure(case_id, why, f"three planes through {case_id}: {why}", image=image)
