"""The organisers' own file formats, from rows of the `regions` table alone.

Where a score is undefined, what the organisers put in its place is written. Cases come by id; regions that the
organisers do not score are left out.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from goat_ray.metrics.specs import SPECS

Row = Mapping[str, Any]
Cells = dict[str, Any]

_CASE_ID = itemgetter("case_id")
_PLACES = {(name, region): place for name, spec in SPECS.items() for place, region in enumerate(spec.regions)}
_FOOTERS = ("mean", "std", "25quantile", "median", "75quantile")
# Columns of the Synapse files, and their names in the core table.
_KINDS = {"Dice": "Dice", "NSD_0.5": "NSD @ 0.5", "NSD_1.0": "NSD @ 1.0", "Hausdorff95": "HD95"}
_SCORES = {f"LesionWise_{name}": f"LesionWise_Score_{kind}" for name, kind in _KINDS.items()}
_SCORES |= {name: name for name in ("Num_TP", "Num_FP", "Num_FN")}
_FULL_SCORES = {name: f"Legacy {kind}" if "NSD" in kind else f"Legacy_{kind}" for name, kind in _KINDS.items()}
_FULL_SCORES |= {name: name for name in ("Sensitivity", "Specificity")}

# Keys of the JSON of 2026, and our columns.
_COUNTS = {"n_ref_instances": "n_gt", "n_pred_instances": "n_pred", "tp": "tp", "fp": "fp", "fn": "fn"}
_DETECTION = {"prec": "match_precision", "rec": "match_recall", "rq": "match_f1"}
_DICE = {"sq_dsc": "sq_dice", "sq_dsc_std": "sq_dice_std", "pq_dsc": "pq_dice"}
_SURFACES = {"sq_hd95": "sq_hd95_mm", "sq_hd95_std": "sq_hd95_std_mm", "sq_nsd": "sq_nsd", "sq_nsd_std": "sq_nsd_std"}
_VOLUMES = {"global_bin_volume_pred": "pred_volume_vox", "global_bin_volume_ref": "gt_volume_vox"}
_GLOBAL = {"dsc": "dice", "hd95": "official_global_hd95_vox", "nsd": "official_global_nsd"}
_RESULTS = _COUNTS | _DETECTION | _DICE | _SURFACES | _VOLUMES
_RESULTS |= {f"global_bin_{name}": column for name, column in _GLOBAL.items()}
# Columns of the summary of 2026, and their keys in its JSON.
_METRICS, _MOMENTS = ("dsc", "nsd", "hd95"), {"mean": "", "std": "_std"}
_SUMMARY = {
    **{f"all_instance_{name}": name for name in ("tp", "fp", "fn", "prec", "rec")},
    "all_instance_f1": "rq",
    **{f"global_{name}": f"global_bin_{name}" for name in _METRICS},
    **{f"lesionwise_{name}_{moment}": f"sq_{name}{end}" for name in _METRICS for moment, end in _MOMENTS.items()},
}


def export_files(rows: Sequence[Row], missing: Iterable[str]) -> dict[str, bytes]:
    """Every export that `rows` allow, by key in the run folder; `missing` names cases without prediction."""
    lesionwise, one_to_one = _lesionwise(rows), _one_to_one(rows)
    files = {f"exports/cases/{case_id}.csv": core_csv(case) for case_id, case in groupby(lesionwise, _CASE_ID)}
    if lesionwise:
        files["exports/all_scores.csv"] = all_scores_csv(lesionwise)
        files["exports/all_full_scores.csv"] = all_full_scores_csv(lesionwise)
    if one_to_one:
        files["exports/brats2026.json"] = brats2026_json(one_to_one, missing)
        files["exports/brats2026.csv"] = brats2026_csv(one_to_one)
    return files


def core_csv(rows: Iterable[Row]) -> bytes:
    """What the programs of 2023 and 2025 write for one case: a line per region; NSD only from 2025 on."""
    return _csv("Labels", [(row["region"], _core(row)) for row in _lesionwise(rows)])


def all_scores_csv(rows: Iterable[Row]) -> bytes:
    """Lesion-wise scores and counts as Synapse returned them: a line per case, then statistics over the cases.

    Columns are grouped by score. A region that a case's spec does not score is an empty cell and in no statistic.
    """
    return _synapse_csv(rows, _SCORES)


def all_full_scores_csv(rows: Iterable[Row]) -> bytes:
    """Whole-volume scores in the layout of `all_scores_csv`."""
    return _synapse_csv(rows, _FULL_SCORES)


def brats2026_json(rows: Iterable[Row], missing: Iterable[str]) -> bytes:
    """What the evaluation program of 2026 writes, but NaN and infinity as strings, so that it is JSON.

    Penalised cases have no results there: they are named among the missing ones.
    """
    one_to_one = _one_to_one(rows)
    absent = {*missing, *(row["case_id"] for row in one_to_one if row.get("penalised"))}
    found = groupby((row for row in one_to_one if row["case_id"] not in absent), _CASE_ID)
    metrics = [{**{row["region"]: _results(row) for row in case}, "subject_name": case_id} for case_id, case in found]
    return json.dumps({"metrics": metrics, "missings": sorted(absent)}, indent=4, allow_nan=False).encode()


def brats2026_csv(rows: Iterable[Row]) -> bytes:
    """What the organisers' parser makes of the JSON of 2026: a line per case; undefined values are empty."""
    return _csv("subject_id", _lines(_one_to_one(rows), _summary, _SUMMARY))


def _is_one_to_one(row: Row) -> bool:
    spec = SPECS.get(row["spec"])
    return spec.matching == "one-to-one" if spec else row.get("lw_dice") is None


def _lesionwise(rows: Iterable[Row]) -> list[Row]:
    """By case, and regions as the spec orders them; those of a user's own spec stay as they come."""
    official = (row for row in rows if row.get("official") and not _is_one_to_one(row))
    return sorted(official, key=lambda row: (row["case_id"], _PLACES.get((row["spec"], row["region"]), 0)))


def _one_to_one(rows: Iterable[Row]) -> list[Row]:
    """By case and region, which is in lower case."""
    official = (row for row in rows if row.get("official") and _is_one_to_one(row))
    return sorted(({**row, "region": row["region"].lower()} for row in official), key=itemgetter("case_id", "region"))


def _core(row: Row) -> Cells:
    """Cells of the core table; wrong whole-volume values that 2025 published stand where they were computed."""
    prefix = "" if row.get("official_sensitivity") is None else "official_"
    cells = {
        **{f"Num_{name.upper()}": row.get(name) for name in ("tp", "fp", "fn")},
        "Sensitivity": _defined(row, f"{prefix}sensitivity", 1, 0),
        "Specificity": _defined(row, f"{prefix}specificity", 1, 0),
        "Legacy_Dice": _defined(row, "dice", 1, 0),
        "Legacy_HD95": _defined(row, f"{prefix}hd95_mm", 0, row.get("hd95_penalty_mm", math.nan)),
        "Legacy NSD @ 0.5": _defined(row, "nsd_0_5", 1, 0),
        "Legacy NSD @ 1.0": _defined(row, "nsd_1_0", 1, 0),
        "GT_Complete_Volume": row.get("gt_volume_mm3"),
        "LesionWise_Score_Dice": row.get("lw_dice"),
        "LesionWise_Score_HD95": row.get("lw_hd95_mm"),
        "LesionWise_Score_NSD @ 0.5": row.get("lw_nsd_0_5"),
        "LesionWise_Score_NSD @ 1.0": row.get("lw_nsd_1_0"),
    }
    spec = SPECS.get(row["spec"])
    cells = _penalised(cells, row["lw_hd95_mm"]) if row.get("penalised") else cells
    return {column: cell for column, cell in cells.items() if spec is None or spec.official_nsd or "NSD" not in column}


def _results(row: Row) -> Cells:
    """A region in the JSON of 2026; precision and recall are left out where they are undefined."""
    dice, f1 = row.get("sq_dice"), row.get("match_f1")
    row = {**row, "pq_dice": None if dice is None or f1 is None else dice * f1}
    infinite = dict.fromkeys(("sq_hd95", "global_bin_hd95"), math.inf)
    found = {key: _defined(row, column, math.nan, infinite.get(key, math.nan)) for key, column in _RESULTS.items()}
    kept = {key: value for key, value in found.items() if key not in ("prec", "rec") or not math.isnan(value)}
    return {key: value if math.isfinite(value) else str(value) for key, value in kept.items()}


def _summary(row: Row) -> Cells:
    if row.get("penalised"):
        return _penalised(_RESULTS, row["sq_hd95_mm"])
    results = {"prec": None, "rec": None, **_results(row)}
    return {**results, "global_bin_hd95": row["hd95_penalty_mm"]} if results["global_bin_hd95"] == "inf" else results


def _penalised(columns: Iterable[str], hd95_mm: float) -> Cells:
    return {column: hd95_mm if "hd95" in column.lower() else 0 for column in columns}


def _defined(row: Row, name: str, both_empty: float, otherwise: float) -> float:
    """A score, or what stands for it where both maps are empty, or where it is undefined for another reason."""
    value: float | None = row.get(name)
    if value is not None:
        return value
    return both_empty if row.get("null_reason") == "both_empty" else otherwise


def _synapse_csv(rows: Iterable[Row], names: Mapping[str, str]) -> bytes:
    lines = _lines(_lesionwise(rows), _core, names)
    present = {column for _, cells in lines for column in cells}
    regions = sorted({column.rpartition("_")[2] for column in present})
    columns = [column for name in names for region in regions if (column := f"{name}_{region}") in present]
    found = {column: _statistics([cells[column] for _, cells in lines if column in cells]) for column in columns}
    footers = [(footer, {column: values[footer] for column, values in found.items()}) for footer in _FOOTERS]
    return _csv("scan_id", [*lines, *footers], columns)


def _lines(rows: Iterable[Row], cells_of: Callable[[Row], Cells], names: Mapping[str, str]) -> list[tuple[str, Cells]]:
    """A line per case: columns by `names` and region, where `cells_of` the region has them."""
    lines: dict[str, Cells] = {}
    for row in rows:
        cells = cells_of(row)
        line = {f"{name}_{row['region']}": cells[column] for name, column in names.items() if column in cells}
        lines.setdefault(row["case_id"], {}).update(line)
    return list(lines.items())


def _statistics(values: Sequence[float]) -> Cells:
    low, median, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else [*values] * 3
    std = statistics.stdev(values) if len(values) > 1 else None
    return dict(zip(_FOOTERS, (statistics.fmean(values), std, low, median, high), strict=True))


def _csv(index: str, lines: Sequence[tuple[str, Cells]], columns: Iterable[str] = ()) -> bytes:
    columns = list(columns) or list(dict.fromkeys(column for _, cells in lines for column in cells))
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([index, *columns])
    for name, cells in lines:
        values = [math.nan if cells.get(column) is None else float(cells[column]) for column in columns]
        writer.writerow([name, *("" if math.isnan(value) else repr(value) for value in values)])
    return sink.getvalue().encode()
