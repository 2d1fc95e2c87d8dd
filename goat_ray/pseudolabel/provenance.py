"""Where each case of a dataset comes from, or why it is not in it: one row a case."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from goat_ray.cases import Case
from goat_ray.labels import Label
from goat_ray.pseudolabel.selection import Reason
from goat_ray.pseudolabel.stored import Stored
from goat_ray.tables import PROVENANCE_SCHEMA, to_parquet

HUMAN, PSEUDO = "human", "pseudo"


@dataclass(frozen=True, slots=True)
class Teachers:
    """Who made the pseudo-labels: the run, and each member with its hash."""

    run_id: str
    members: Mapping[str, str]


def provenance_rows(stored: Stored, decisions: pd.DataFrame, teachers: Teachers) -> Iterator[dict[str, Any]]:
    """Rows of the inspected and of the predicted cases, without `patient` and `val_fold`.

    Args:
        stored: the tables of the run.
        decisions: on the predicted cases, see `selection.select`.
        teachers: who predicted.
    """
    for row in stored.labelled.to_dict("records"):
        ok = row["status"] == "ok"
        verdict = {"accepted": ok, "reason": None if ok else str(Reason.FAILED), "detail": row["failure_category"]}
        yield {**_common(row, "gt_label_voxels"), "source": HUMAN, **verdict, "label_sha256": row["reference_sha256"]}
    known, values = decisions.to_dict("index"), stored.signs.to_dict("index")
    made_by = {"teachers": [*teachers.members], "teachers_sha256": [*teachers.members.values()]}
    for row in stored.predicted.to_dict("records"):
        case_id = row["case_id"]
        yield {
            **_common(row, "pred_label_voxels"),
            "source": PSEUDO,
            **known[case_id],
            **made_by,
            "run_id": teachers.run_id,
            **values.get(case_id, {}),
            "label_sha256": row["label_sha256"],
        }


def unseen_rows(cases: Sequence[Case], reason: Reason, detail: str) -> Iterator[dict[str, Any]]:
    """Rows of unlabelled cases that were not predicted at all."""
    for case in cases:
        about = {"case_id": case.case_id, "site": case.site, "cohort": case.cohort, "source": PSEUDO}
        yield {**about, "accepted": False, "reason": str(reason), "detail": detail}


def encode_provenance(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The table of all rows, labelled cases first, then by id; equal rows give equal bytes."""
    ordered = sorted(rows, key=lambda row: (row["source"], row["case_id"]))
    plain = [{name: None if _is_nan(value) else value for name, value in row.items()} for row in ordered]
    return to_parquet(plain, PROVENANCE_SCHEMA)


def _common(row: Mapping[str, Any], voxels: str) -> dict[str, Any]:
    about = {name: row[name] for name in ("case_id", "site", "cohort", "scan_sha256")}
    counts = row[voxels]
    if counts is None:
        return about
    ml = row["spacing_x_mm"] * row["spacing_y_mm"] * row["spacing_z_mm"] / 1000
    labels = [label for label in Label if label]
    return about | {
        f"{label.name.lower()}_ml": float(counts[label] * ml) if label < len(counts) else 0.0 for label in labels
    }


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
