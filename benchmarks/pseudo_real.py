"""Pseudo-labels on the real development cohort: what the strict gates refuse when the teachers know phantoms only.

The scans are private test material found through GOAT_RAY_DATA; cases are numbered, not named. Four labelled cases are
the experts' side; the cohort is all ten cases and a copy of a labelled one under another id.

    python -m benchmarks.pseudo_real [FOLDER]    # FOLDER: where the run folder stays to be looked at
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks._record import record
from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE
from goat_ray.pipeline.progress import LogReporter
from goat_ray.pipeline.pseudolabel import pseudo_label_cohort
from goat_ray.pseudolabel.config import PseudoLabelConfig
from goat_ray.quality import SIGNS

DATA = Path(os.environ.get("GOAT_RAY_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
TEACHERS = ("ResNetM", "ResNetL", "ResNetXL")
LABELLED = 4


def main() -> None:
    """Label the cohort with the strict gates, and record the reason for each case."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else folder)
        names = sorted(path.name for path in (DATA / "cohort").iterdir() if path.is_dir())
        experts = [name for name in names if (DATA / "cohort" / name / f"{name}-seg.nii.gz").exists()][:LABELLED]
        for name in names:
            shutil.copytree(DATA / "cohort" / name, root / "cohort" / name, ignore=shutil.ignore_patterns("*-seg.*"))
        for name in experts:
            shutil.copytree(DATA / "cohort" / name, root / "labelled" / name)
        copy_under_another_id(root / "cohort", experts[0], "unknown-7")
        config = PseudoLabelConfig(
            cohort=str(root / "cohort"),
            labelled=str(root / "labelled"),
            ensemble=str(EMBEDDED_ENSEMBLE),
            members=TEACHERS,
            out=str(root / "out"),
            folds=LABELLED,
            gates={"preset": "strict"},  # type: ignore[arg-type]
        )
        started = time.monotonic()
        summary = pseudo_label_cohort(config, LogReporter())
        rows = pq.read_table(root / "out" / "tables" / "provenance.parquet").to_pylist()
        record(
            "pseudo_real",
            {
                "teachers": TEACHERS,
                "gates": "strict",
                "kept": dict(summary.kept),
                "refused": dict(summary.refused),
                "elapsed_s": round(time.monotonic() - started, 1),
                "cases": [case(number, row) for number, row in enumerate(rows, start=1)],
                "remarks": "The teachers know phantoms only: gates should refuse what they make of real scans.",
            },
            packages=("torch", "ray", "numpy"),
        )


def copy_under_another_id(cohort: Path, case_id: str, other: str) -> None:
    """The same scan as another hospital might have called it."""
    (cohort / other).mkdir()
    for path in (cohort / case_id).iterdir():
        shutil.copy(path, cohort / other / path.name.replace(case_id, other))


def case(number: int, row: dict[str, object]) -> dict[str, object]:
    """Verdict and signs of a case, without its name."""
    known = {sign: round(value, 3) for sign in SIGNS if isinstance(value := row[sign], float)}
    detail = None if row["reason"] == "labelled_scan" else row["detail"]
    verdict = {name: row[name] for name in ("source", "accepted", "reason")}
    return {"case": number, **verdict, "detail": detail, **known}


if __name__ == "__main__":
    main()
