"""Every parquet table of a run: schemas, building from commits and failures, writing with stable bytes."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goat_ray.cases import FailedCase
from goat_ray.commits import Commit, Timings
from goat_ray.errors import GoatRayError
from goat_ray.ledger import Ledger, read_commits, read_timings
from goat_ray.storage import RunStore

SCHEMA_VERSION = 4

Row = Mapping[str, Any]
Penalties = Callable[[FailedCase], Sequence[Row]]

_CASES_AT_ONCE = 256  # a chunk of cases is a row group, and what is in memory at a time
_TEXT, _FLAG, _COUNT, _SCORE = pa.string(), pa.bool_(), pa.int32(), pa.float64()
_IDS = [("run_id", _TEXT), ("case_id", _TEXT), ("site", _TEXT), ("cohort", _TEXT)]
_AXES = ("x", "y", "z")


def _scores(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, _SCORE) for name in names]


def _counts(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, _COUNT) for name in names]


SCHEMAS: dict[str, pa.Schema] = {
    # One row per expected case, failed ones included.
    "cases": pa.schema(
        [
            *_IDS,
            ("status", _TEXT),
            ("failure_category", _TEXT),
            # `ok`, or the category of what kept the case from being scored; null where nothing was to be scored.
            ("evaluation", _TEXT),
            ("evaluation_message", _TEXT),
            ("spec", _TEXT),
            *[(f"size_{axis}_vox", _COUNT) for axis in _AXES],
            *[(f"spacing_{axis}_mm", _SCORE) for axis in _AXES],
            ("affine", pa.list_(_SCORE)),  # 4×4, row by row
            ("members", pa.list_(_TEXT)),
            ("decode", _TEXT),
            ("postprocess", _TEXT),
            *_scores("et_threshold", "wt_threshold", "et_mean_component", "wt_mean_component"),
            ("threshold_unit", _TEXT),
            ("n_removed_components", _COUNT),
            *_scores("mean_entropy", "mean_margin"),  # over the predicted whole tumour, before postprocessing
            ("pred_label_voxels", pa.list_(pa.int64())),  # voxels of label 0, 1, 2, …
            ("gt_label_voxels", pa.list_(pa.int64())),
            ("label_key", _TEXT),
            ("label_sha256", _TEXT),
            ("reference_sha256", _TEXT),
            ("scan_sha256", _TEXT),  # what t1c shows: equal for one scan under two ids
        ]
    ),
    # One row per case and region. Metrics are null without a reference; see `null_reason` for other nulls.
    "regions": pa.schema(
        [
            *_IDS,
            ("region", _TEXT),
            ("spec", _TEXT),
            ("region_labels", pa.list_(pa.int16())),
            ("official", _FLAG),  # whether the spec's organisers score this region
            ("penalised", _FLAG),  # a case without prediction, scored as its organisers do
            *_counts("n_pred_components", "n_gt", "n_gt_scored", "n_gt_ignored", "n_pred", "tp", "fp", "fn"),
            *_scores("lw_dice", "lw_nsd_0_5", "lw_nsd_1_0", "lw_hd95_mm", "lw_hd95_found_mm", "hd95_penalty_mm"),
            *_scores("dice", "nsd_0_5", "nsd_1_0", "hd95_mm", "sensitivity", "specificity", "precision"),
            ("null_reason", _TEXT),
            ("gt_volume_vox", pa.int64()),
            ("pred_volume_vox", pa.int64()),
            *_scores("gt_volume_mm3", "pred_volume_mm3", "raw_volume_mm3"),
            ("gt_empty", _FLAG),
            ("pred_empty", _FLAG),
            ("mean_probability", _SCORE),
            *_scores("member_dice_mean", "member_dice_min", "member_volume_cv"),  # of ET, TC and WT
            *_scores("official_hd95_mm", "official_sensitivity", "official_specificity"),
            *_scores("match_precision", "match_recall", "match_f1"),
            *_scores("sq_dice", "sq_dice_std", "sq_nsd", "sq_nsd_std", "sq_hd95_mm", "sq_hd95_std_mm"),
            *_scores("official_global_nsd", "official_global_hd95_vox"),
        ]
    ),
    # One row per lesion of a region: `gt` of the reference, `fp` predicted where the reference has none, and `pred`
    # for each 26-connected piece of a predicted label map (these three kinds overlap: choose one).
    "lesions": pa.schema(
        [
            *_IDS,
            ("region", _TEXT),
            ("spec", _TEXT),
            ("kind", _TEXT),
            *_counts("lesion_id", "n_components"),
            ("volume_vox", pa.int64()),
            ("volume_mm3", _SCORE),
            *[(f"centroid_{axis}", pa.float32()) for axis in "ijk"],
            *[(f"centroid_{axis}_mm", pa.float32()) for axis in _AXES],
            *[(f"bbox_{axis}{end}", _COUNT) for axis in "ijk" for end in "01"],
            ("equiv_diameter_mm", pa.float32()),
            ("scored", _FLAG),
            ("detected", _FLAG),
            ("pred_ids", pa.list_(_COUNT)),
            ("n_pred", _COUNT),
            *_scores("pred_volume_mm3", "intersection_mm3", "dice", "iou", "nsd_0_5", "nsd_1_0"),
            *_scores("hd95_mm", "hd95_scored_mm"),  # null where undefined; with the spec's penalty
            ("shares_prediction", _FLAG),
            ("shell_match_only", _FLAG),
            *_scores("sq_nsd", "sq_hd95_mm"),
        ]
    ),
    # One row per component that postprocessing removed.
    "components": pa.schema(
        [
            *_IDS,
            ("step", _TEXT),
            ("component_id", _COUNT),
            ("volume_vox", pa.int64()),
            ("size", _SCORE),
            ("threshold", _SCORE),
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
            ("attempts", _COUNT),
        ]
    ),
    # One row per case and step. Values differ from run to run.
    "timings": pa.schema([*_IDS, ("step", _TEXT), ("seconds", _SCORE), ("cpu_seconds", _SCORE)]),
}

RUN_SCHEMA = pa.schema(
    [
        *[(name, _TEXT) for name in ("run_id", "kind", "created_utc", "finished_utc")],
        *[(name, _TEXT) for name in ("spec", "spec_sha256", "policy", "ensemble", "ensemble_sha256")],
        *[(name, _TEXT) for name in ("specs", "members", "versions")],  # as JSON
        *[(name, _TEXT) for name in ("inputs_sha256", "git_commit", "machine")],
        *_counts("n_expected", "n_ok", "n_failed", "n_skipped"),
        *_scores("wall_s", "cpu_s"),
    ]
)
"""The one row of the table `run`. Values differ from run to run."""


PROVENANCE_SCHEMA = pa.schema(
    [
        *[(name, _TEXT) for name in ("case_id", "patient", "site", "cohort")],
        ("source", _TEXT),  # `human` or `pseudo`
        ("accepted", _FLAG),
        ("reason", _TEXT),  # why it is not in the dataset; null where it is
        ("detail", _TEXT),
        ("val_fold", _COUNT),  # the fold that validates on it; null for pseudo-labels
        ("teachers", pa.list_(_TEXT)),
        ("teachers_sha256", pa.list_(_TEXT)),
        ("run_id", _TEXT),
        *_scores("dice_wt", "dice_tc", "dice_et", "confidence", "entropy", "margin", "wt_volume_ml", "wt_components"),
        *_scores("netc_ml", "snfh_ml", "et_ml"),  # volumes of the label map
        ("label_sha256", _TEXT),
        ("scan_sha256", _TEXT),
    ]
)
"""One row per labelled and per unlabelled case of a pseudo-label run, whatever became of it."""


def write_tables(store: RunStore, ledger: Ledger, penalties: Penalties = lambda failed: ()) -> None:
    """Write every table of a run, rows ordered by case id, from its commits and failures alone.

    Commits are read chunk by chunk; equal facts give equal bytes, whatever order they arrived in.

    Args:
        store: the run folder.
        ledger: the cases the tables are about.
        penalties: rows of `regions` that a failed case is given.

    Raises:
        GoatRayError: a commit's rows are not those of the tables.
    """
    case_ids = ledger.case_ids
    writers = {name: _TableWriter(schema, ledger.run_id) for name, schema in SCHEMAS.items()}
    for start in range(0, len(case_ids), _CASES_AT_ONCE):
        chunk = case_ids[start : start + _CASES_AT_ONCE]
        try:
            for name, rows in _rows(store, ledger, chunk, penalties).items():
                writers[name].add(rows)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise GoatRayError(
                f"{store.root}: an object of the cases {chunk[0]} to {chunk[-1]} under commits or errors has table "
                f"rows of another form ({type(error).__name__}: {str(error)[:200]}); delete it and run again"
            ) from error
    for name, writer in writers.items():
        store.write(table_key(name), writer.finish())


def tables_are_there(store: RunStore) -> bool:
    """Whether every table that `write_tables` writes lies in the run folder."""
    return {table_key(name) for name in SCHEMAS} <= store.list("tables").keys()


def write_run_table(store: RunStore, row: Row) -> None:
    """Write the table `run`."""
    writer = _TableWriter(RUN_SCHEMA, str(row["run_id"]))
    writer.add([row])
    store.write(table_key("run"), writer.finish())


def read_table(store: RunStore, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A table that was written before, or some of its columns."""
    return pq.read_table(pa.BufferReader(store.read(table_key(name))), columns=list(columns) if columns else None)


def to_parquet(rows: Sequence[Row], schema: pa.Schema) -> bytes:
    """A table of its own as parquet; equal rows give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    return sink.getvalue()


def table_key(name: str) -> str:
    """Where a table lies in the run folder."""
    return f"tables/{name}.parquet"


class _TableWriter:
    """A parquet file in the making: each `add` is a row group."""

    def __init__(self, schema: pa.Schema, run_id: str) -> None:
        metadata = {"goat_ray.schema_version": str(SCHEMA_VERSION), "goat_ray.run_id": run_id}
        self._schema = schema.with_metadata(metadata)
        self._sink = io.BytesIO()
        self._writer = pq.ParquetWriter(self._sink, self._schema, compression="zstd")

    def add(self, rows: Sequence[Row]) -> None:
        if rows:
            self._writer.write_table(pa.Table.from_pylist(list(rows), schema=self._schema))

    def finish(self) -> bytes:
        self._writer.close()
        return self._sink.getvalue()


def _rows(store: RunStore, ledger: Ledger, case_ids: Sequence[str], penalties: Penalties) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {name: [] for name in SCHEMAS}
    committed = [case_id for case_id in case_ids if case_id in ledger.commits]
    commits = dict(zip(committed, read_commits(store, committed), strict=True))
    timings = dict(zip(committed, read_timings(store, committed), strict=True))
    for case_id in case_ids:
        record = ledger.commits.get(case_id) or ledger.failures[case_id]
        ids = {"run_id": ledger.run_id, "case_id": case_id, "site": record.site, "cohort": record.cohort}
        found = (
            _failed_rows(record, penalties)
            if isinstance(record, FailedCase)
            else _committed_rows(commits[case_id], timings[case_id])
        )
        for name, its_rows in found.items():
            rows[name] += [{**ids, **row} for row in its_rows]
    return rows


def _committed_rows(commit: Commit, timings: Timings) -> dict[str, Iterable[Row]]:
    (case,) = commit.tables["cases"]
    steps = [
        {"step": step, "seconds": seconds, "cpu_seconds": timings.cpu_seconds.get(step)}
        for step, seconds in timings.seconds.items()
    ]
    return {**commit.tables, "cases": [{"status": "ok", **case}], "timings": steps}


def _failed_rows(failed: FailedCase, penalties: Penalties) -> dict[str, Iterable[Row]]:
    return {
        "cases": [{"status": "failed", "failure_category": str(failed.failure.category)}],
        "regions": penalties(failed),
        "failures": [failed.failure.to_dict()],
    }
