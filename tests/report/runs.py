"""Runs and cohorts for the report's tests, and how their numbers are looked up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from goat_ray.config import EvaluateConfig
from goat_ray.imaging.nifti import Grid, encode_labels
from goat_ray.report.data import Cohort, RunData
from goat_ray.storage import RunStore
from goat_ray.tables import SCHEMAS, read_table
from tests.inline import evaluate_inline

SHAPE = (32, 30, 28)
HOSTILE_SITE = "<b onclick='x()'>north</b>&"


def maps(seed: int, quality: float) -> tuple[np.ndarray, np.ndarray]:
    """A reference with a few lesions, and a prediction that finds each with a probability of `quality`."""
    rng = np.random.default_rng(seed)
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for _ in range(rng.integers(1, 4)):
        corner, size = rng.integers(1, np.array(SHAPE) - 14), rng.integers(4, 9, 3)
        for labels, shift in ((reference, 0), (prediction, rng.integers(0, 2, 3))):
            start = corner + shift
            if labels is reference or rng.random() < quality:
                labels[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = rng.choice([1, 2, 3])
    return reference, prediction


def make_run(folder: Path, quality: float) -> Path:
    """A scored run over 24 cases of two sites; one has no prediction and one is broken."""
    grid, sites = Grid(SHAPE, np.eye(4)), ["case_id,site,cohort"]
    for role in ("references", "labels"):
        (folder / role).mkdir(parents=True)
    for number in range(24):
        name = f"BraTS-GLI-{number:05d}-000"
        sites.append(f"{name},{'harbour' if number < 14 else HOSTILE_SITE},GLI")
        for role, labels in zip(("references", "labels"), maps(number, quality), strict=True):
            if not (role == "labels" and number == 3):
                (folder / role / f"{name}.nii.gz").write_bytes(encode_labels(labels, grid))
    (folder / "labels" / "BraTS-GLI-00020-000.nii.gz").write_bytes(b"broken")
    (folder / "sites.csv").write_text("\n".join(sites))
    evaluate_inline(
        EvaluateConfig(
            labels=str(folder / "labels"),
            references=str(folder / "references"),
            out=str(folder / "run"),
            spec="brats2023-gli",
            sites=str(folder / "sites.csv"),
        )
    )
    return folder / "run"


def table(run: Path, name: str) -> pd.DataFrame:
    return read_table(RunStore(str(run)), name).to_pandas()


def twin(page: Path) -> pd.DataFrame:
    """The numbers beside a page."""
    return pd.read_csv(page.with_suffix(".numbers.csv"), keep_default_na=False, na_values=[""])


def value(numbers: pd.DataFrame, title: str, row: str, column: str, what: str = "value") -> float:
    (found,) = numbers.query("table == @title and row == @row and column == @column")[what]
    return float(found)


def cohort_of(**rows: Sequence[dict[str, Any]]) -> Cohort:
    """A cohort of one run whose tables have these rows; columns that are left out are null."""
    store = RunStore("/nowhere")
    tables = {
        name: pa.Table.from_pylist(list(rows.get(name, ())), schema=schema).to_pandas().assign(run=store.root)
        for name, schema in SCHEMAS.items()
    }
    return Cohort((RunData(store, {}, tables),), tables)
