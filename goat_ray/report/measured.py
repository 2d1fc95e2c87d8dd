"""The scores of one region by one spec, as sections and comparisons take them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from goat_ray.patients import patients_of
from goat_ray.report.data import Cohort, region_place

DISTANCES = ("lw_hd95_mm", "lw_hd95_found_mm", "hd95_mm", "sq_hd95_mm")
"""Scores in millimetres, of which less is better."""

_LESIONWISE = {
    "lw_dice": "lesion-wise Dice",
    "lw_nsd_1_0": "lesion-wise NSD at 1 mm",
    "dice": "Dice of the whole region",
    "lw_hd95_mm": "lesion-wise HD95 with penalties (mm)",
    "lw_hd95_found_mm": "HD95 of found lesions (mm)",
    "hd95_mm": "HD95 of the whole region (mm)",
}
_ONE_TO_ONE = {
    "sq_dice": "Dice of matched pairs",
    "sq_nsd": "NSD of matched pairs",
    "match_f1": "detection F1",
    "dice": "Dice of the whole region",
    "sq_hd95_mm": "HD95 of matched pairs (mm)",
    "hd95_mm": "HD95 of the whole region (mm)",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """The scores of one region by one spec.

    Attributes:
        spec: its name.
        region: its name.
        rows: of the table `regions`, by site and case.
        metrics: columns that have values, and what they are called; the first is the main one.
    """

    spec: str
    region: str
    rows: pd.DataFrame
    metrics: dict[str, str]

    @property
    def name(self) -> str:
        """What headings call it; `*` where the spec's organisers do not score it."""
        return f"{self.region}{'' if self.rows['official'].all() else '*'}, {self.spec}"

    @property
    def main(self) -> str:
        """The column that the figures show."""
        return next(iter(self.metrics))

    @property
    def label(self) -> str:
        """What the main score is called."""
        return self.metrics[self.main]

    @property
    def who(self) -> tuple[list[str], list[str]]:
        """Patient and site of each row."""
        return patients_of(self.rows["case_id"]), self.rows["site"].tolist()


def measured(cohort: Cohort) -> Iterator[Measured]:
    """Each region that has scores, the organisers' own first."""
    scored = cohort.scored
    groups = {
        (not official, str(spec), region_place(str(region))): rows
        for (official, spec, region), rows in scored.groupby([scored["official"].astype(bool), "spec", "region"])
    }
    for (_, spec, (_, region)), rows in sorted(groups.items(), key=lambda group: group[0]):
        if metrics := _metrics(rows):
            yield Measured(spec, region, rows.sort_values(["site", "case_id"]), metrics)


def _metrics(rows: pd.DataFrame) -> dict[str, str]:
    known = _LESIONWISE if rows["lw_dice"].notna().any() else _ONE_TO_ONE
    return {column: label for column, label in known.items() if rows[column].notna().any()}
