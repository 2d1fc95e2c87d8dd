"""Every parquet table of a run: schemas, building from commits and failures, writing with stable bytes."""

import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goat_ray.cases import FailedCase
from goat_ray.commits import Commit, Ledger

SCHEMA_VERSION = 1

_TEXT = pa.string()
_IDS = [("run_id", _TEXT), ("case_id", _TEXT), ("site", _TEXT), ("cohort", _TEXT)]
_AXES = ("x", "y", "z")

SCHEMAS: dict[str, pa.Schema] = {
    # One row per discovered case, failed ones included.
    "cases": pa.schema(
        [
            *_IDS,
            ("status", _TEXT),
            ("failure_category", _TEXT),
            *[(f"size_{axis}_vox", pa.int32()) for axis in _AXES],
            *[(f"spacing_{axis}_mm", pa.float64()) for axis in _AXES],
            ("members", pa.list_(_TEXT)),
            ("decode", _TEXT),
            ("postprocess", _TEXT),
            ("et_threshold", pa.float64()),
            ("wt_threshold", pa.float64()),
            ("et_mean_component", pa.float64()),
            ("wt_mean_component", pa.float64()),
            ("threshold_unit", _TEXT),
            ("n_removed_components", pa.int32()),
            ("mean_entropy", pa.float64()),
            ("label_key", _TEXT),
            ("label_sha256", _TEXT),
        ]
    ),
    # One row per case and region.
    "regions": pa.schema(
        [
            *_IDS,
            ("region", _TEXT),
            ("n_pred", pa.int32()),
            ("pred_volume_vox", pa.int64()),
            ("pred_volume_ml", pa.float64()),
            ("raw_volume_ml", pa.float64()),
            ("mean_probability", pa.float64()),
        ]
    ),
    # One row per 26-connected predicted lesion of a region.
    "lesions": pa.schema(
        [
            *_IDS,
            ("region", _TEXT),
            ("kind", _TEXT),
            ("lesion_id", pa.int32()),
            ("volume_vox", pa.int64()),
            ("volume_mm3", pa.float64()),
            *[(f"centroid_{axis}", pa.float32()) for axis in "ijk"],
            *[(f"centroid_{axis}_mm", pa.float32()) for axis in _AXES],
            *[(f"bbox_{axis}{end}", pa.int32()) for axis in "ijk" for end in "01"],
            ("equiv_diameter_mm", pa.float32()),
        ]
    ),
    # One row per component that postprocessing removed.
    "components": pa.schema(
        [
            *_IDS,
            ("step", _TEXT),
            ("component_id", pa.int32()),
            ("volume_vox", pa.int64()),
            ("size", pa.float64()),
            ("threshold", pa.float64()),
            ("unit", _TEXT),
            ("dominant_label", pa.int8()),
            ("new_label", pa.int8()),
        ]
    ),
    # One row per failed case.
    "failures": pa.schema(
        [
            *_IDS,
            ("stage", _TEXT),
            ("category", _TEXT),
            ("message", _TEXT),
            ("hint", _TEXT),
            ("attempts", pa.int32()),
        ]
    ),
    # One row per case and step. The only table whose values differ from run to run.
    "timings": pa.schema([*_IDS, ("step", _TEXT), ("seconds", pa.float64())]),
}

Row = Mapping[str, Any]


def build_tables(ledger: Ledger) -> dict[str, pa.Table]:
    """Every table of a run, rows ordered by case id, from its commits and failures alone."""
    tables = {}
    for name, rows in _rows(ledger).items():
        metadata = {"goat_ray.schema_version": str(SCHEMA_VERSION), "goat_ray.run_id": ledger.run_id}
        tables[name] = pa.Table.from_pylist(list(rows), schema=SCHEMAS[name].with_metadata(metadata))
    return tables


def encode_table(table: pa.Table) -> bytes:
    """Parquet bytes of a table: equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=65_536)
    return sink.getvalue()


def table_key(name: str) -> str:
    """Where a table lies in the run folder."""
    return f"tables/{name}.parquet"


def _rows(ledger: Ledger) -> dict[str, Iterable[Row]]:
    commits = [ledger.commits[case_id] for case_id in sorted(ledger.commits)]
    failures = sorted(ledger.failures.values(), key=lambda failed: failed.case_id)
    per_commit: dict[str, Callable[[Commit], Iterable[Row]]] = {
        "regions": lambda commit: commit.regions,
        "lesions": lambda commit: commit.lesions,
        "components": lambda commit: commit.components,
        "timings": _timing_rows,
    }
    tables: dict[str, Iterable[Row]] = {
        name: [{**_ids(ledger.run_id, commit), **row} for commit in commits for row in rows_of(commit)]
        for name, rows_of in per_commit.items()
    }
    cases = [{**_ids(ledger.run_id, commit), **_case_row(commit)} for commit in commits]
    cases += [{**_ids(ledger.run_id, failed), **_failed_case_row(failed)} for failed in failures]
    tables["cases"] = sorted(cases, key=lambda row: str(row["case_id"]))
    tables["failures"] = [{**_ids(ledger.run_id, failed), **failed.failure.to_dict()} for failed in failures]
    return tables


def _ids(run_id: str, case: Commit | FailedCase) -> dict[str, Any]:
    return {"run_id": run_id, "case_id": case.case_id, "site": case.site, "cohort": case.cohort}


def _case_row(commit: Commit) -> dict[str, Any]:
    sizes = {f"size_{axis}_vox": size for axis, size in zip(_AXES, commit.shape, strict=True)}
    spacings = {f"spacing_{axis}_mm": mm for axis, mm in zip(_AXES, commit.spacing_mm, strict=True)}
    label = commit.outputs[commit.label_key]
    return {
        "status": "ok",
        **sizes,
        **spacings,
        "members": list(commit.members),
        "decode": commit.decode,
        **commit.postprocess,
        "n_removed_components": len(commit.components),
        "mean_entropy": commit.mean_entropy,
        "label_key": commit.label_key,
        "label_sha256": label.sha256,
    }


def _failed_case_row(failed: FailedCase) -> dict[str, Any]:
    return {"status": "failed", "failure_category": str(failed.failure.category)}


def _timing_rows(commit: Commit) -> Iterable[Row]:
    return [{"step": step, "seconds": seconds} for step, seconds in commit.timings_s.items()]
