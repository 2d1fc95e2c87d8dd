"""Ten thousand cases through a cluster of logical nodes on one machine, with members that only sleep.

Real are the driver, Ray Data, the rows' sizes, reading and finishing of tiny cases, commits, tables. What is looked at:
the driver's memory, the gaps between the cases of a worker that has a GPU, and how much of its time it is busy.

    python -m benchmarks.scale [--quick] [--predict-s S] [--keep FOLDER]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks._record import record
from benchmarks._scale_cluster import CROP, Plan, rows_of
from goat_ray.config import RunConfig
from tests.cohorts import write_linked_cohort, write_tiny_ensemble

FULL, QUICK = 10_000, 400


def main() -> None:
    """Simulate and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} cases")
    parser.add_argument("--predict-s", type=float, default=1.6)
    parser.add_argument("--keep", type=Path, help="an empty folder for what the run leaves")
    options = parser.parse_args()
    plan = Plan(nodes=2, gpus_per_node=4, cpus_per_node=8, predict_s=options.predict_s)
    with _folder(options.keep) as folder:
        cases = QUICK if options.quick else FULL
        _simulate(folder, cases, plan)
        figures = {"cases": cases, "crop": CROP, "plan": asdict(plan), **_figures(folder, plan)}
    print(json.dumps(figures, indent=2))
    record("scale", figures, ("ray", "pyarrow", "numpy"), is_quick=options.quick)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept:
        yield kept
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _simulate(folder: Path, cases: int, plan: Plan) -> None:
    """Write cohort and settings, and let a driver of its own do the run, watched from here."""
    write_linked_cohort(folder / "cohort", cases)
    ensemble = write_tiny_ensemble(folder / "ensemble")
    config = RunConfig(
        cohort=str(folder / "cohort"),
        ensemble=str(ensemble),
        members=("Labels",),
        out=str(folder / "run"),
        device="cuda",
        thumbnails=False,
    )
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "plan.json").write_text(json.dumps(asdict(plan)))
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment["RAY_idle_worker_killing_time_threshold_ms"] = "600000"  # as jobs/README.md asks of a cluster
    command = [sys.executable, "-m", "benchmarks._scale_cluster", str(folder)]
    driver = subprocess.Popen(command, env=environment)
    spent: dict[int, float] = {}
    while driver.poll() is None:
        spent |= _processor_time(driver.pid)
        time.sleep(2)
    if driver.returncode:
        sys.exit(f"the driver ended with {driver.returncode}")
    (folder / "machine.json").write_text(json.dumps({"cpu_s": sum(spent.values())}))


def _processor_time(pid: int) -> dict[int, float]:
    """Processor time so far of a process and everything below it."""
    found = {}
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            found[process.pid] = sum(process.cpu_times()[:2])
        except psutil.Error:
            continue
    return found


def _figures(folder: Path, plan: Plan) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    cpu_s = json.loads((folder / "machine.json").read_text())["cpu_s"]
    return {
        "summary": summary,
        "driver": _driver(rows_of(folder / "driver.csv")),
        "workers": _workers([rows_of(path) for path in sorted((folder / "notes").iterdir())], plan),
        "cpu_s_per_case": round(cpu_s / summary["ok"], 4),
    }


def _driver(notes: np.ndarray) -> dict[str, Any]:
    """Memory of the driver over the cases, the first tenth left out, in which Ray Data and its buffers come up."""
    cases, megabytes = np.arange(1, len(notes)), notes[:-1, 1] / 2**20  # the last note follows the tables
    steady = cases > len(cases) // 10
    slope_mb, _ = np.polyfit(cases[steady], megabytes[steady], 1)
    began, ended = np.flatnonzero(steady)[[0, -1]]
    return {
        "memory_mb": {
            "after_a_tenth": round(megabytes[began], 1),
            "after_all": round(megabytes[ended], 1),
            "most": round(megabytes.max(), 1),
            "after_tables": round(notes[-1, 1] / 2**20, 1),
        },
        "slope_kb_per_case": round(1024 * slope_mb, 2),
        "cpu_ms_per_case": round(1000 * (notes[ended, 2] - notes[began, 2]) / (ended - began), 2),
        "memory_mb_at_tenths": [round(float(part[-1]), 1) for part in np.array_split(megabytes, 10)],
    }


def _workers(notes: list[np.ndarray], plan: Plan) -> dict[str, Any]:
    """What the workers did while all of them had cases: from the last one's first case to the first one's last."""
    workers = plan.nodes * plan.gpus_per_node
    if len(notes) != workers:
        sys.exit(f"{len(notes)} worker(s) took part, not {workers}")
    first, last = max(own[0, 0] for own in notes), min(own[-1, 1] for own in notes)
    busy_s = sum(float(np.diff(np.clip(own, first, last), axis=1).sum()) for own in notes)
    pairs = np.concatenate([np.stack([own[:-1, 1], own[1:, 0]], axis=1) for own in notes])
    ended, began = pairs[(pairs[:, 0] >= first) & (pairs[:, 1] <= last)].T
    gaps = began - ended
    return {
        "number": workers,
        "cases_per_worker": [len(own) for own in notes],
        "busy_percent": round(100 * busy_s / (workers * (last - first)), 2),
        "gap_ms_between_cases": {
            "mean": round(1000 * float(gaps.mean()), 2),
            "median": round(1000 * float(np.median(gaps)), 2),
            "p99": round(1000 * float(np.quantile(gaps, 0.99)), 2),
        },
        "cases_per_s": round(sum(map(len, notes)) / (max(own[-1, 1] for own in notes) - first), 3),
    }


if __name__ == "__main__":
    main()
