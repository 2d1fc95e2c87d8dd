"""The embedded ensemble on real scans: time per case, peak memory, and what comes out.

The scans are private test material found through GOAT_RAY_DATA; only counts, volumes and times are recorded.
The members know phantoms only, so the labels say nothing about the patients: see `remarks` in the result.

    python -m benchmarks.real_cohort [FOLDER]    # FOLDER: where the run folder stays to be looked at
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks._record import record
from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE

DATA = Path(os.environ.get("GOAT_RAY_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def main() -> None:
    """Run the command a user would run, and record what it took."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(sys.argv[1] if len(sys.argv) > 1 else folder) / "run"
        command = [Path(sys.executable).with_name("goat-ray"), "predict", DATA / "cohort"]
        command += ["--ensemble", EMBEDDED_ENSEMBLE, "--sites", DATA / "sites.csv", "--out", out, "--workers", "1"]
        started = time.monotonic()
        process = subprocess.Popen(command)
        peak = PeakMemory(process.pid)
        exit_code = process.wait()
        elapsed_s = time.monotonic() - started
        record(
            "real_cohort",
            {
                "exit_code": exit_code,
                "elapsed_s": round(elapsed_s, 1),
                "peak_worker_mb": round(peak.worker_mb()),
                "peak_all_processes_mb": round(peak.total_mb()),
                "cases": cases(out),
                "remarks": (
                    "Labels of an ensemble that was trained on phantoms only: bright FLAIR and contrast-enhancing "
                    "structures of real brains are called tumour or missed without meaning."
                ),
            },
            packages=("torch", "ray", "numpy", "nibabel"),
        )
    sys.exit(exit_code)


def cases(out: Path) -> list[dict[str, object]]:
    """Per case: grid, geometry check, label volumes and seconds per step; numbered, not named."""
    table = pq.read_table(out / "tables" / "cases.parquet")
    regions = pq.read_table(out / "tables" / "regions.parquet")
    timings = pq.read_table(out / "tables" / "timings.parquet")
    rows = []
    for number, case_id in enumerate(table.column("case_id").to_pylist(), start=1):
        label = nibabel.load(out / "labels" / f"{case_id}.nii.gz")
        t1c = nibabel.load(DATA / "cohort" / case_id / f"{case_id}-t1c.nii.gz")
        volume = {row["region"]: round(row["pred_volume_mm3"] / 1000, 2) for row in _of(regions, case_id)}
        seconds = {row["step"]: round(row["seconds"], 2) for row in _of(timings, case_id)}
        rows.append(
            {
                "case": number,
                "size_vox": list(label.shape),
                "geometry_equals_t1c": bool(label.shape == t1c.shape and np.allclose(label.affine, t1c.affine)),
                "label_dtype": str(label.get_data_dtype()),
                "volume_ml": volume,
                "seconds": seconds,
            }
        )
    return rows


def _of(table: object, case_id: str) -> list[dict[str, object]]:
    return table.filter(pc.field("case_id") == case_id).to_pylist()  # type: ignore[attr-defined]


class PeakMemory:
    """Largest proportional memory of a process tree, watched from a thread."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._worker = self._total = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def worker_mb(self) -> float:
        """Of the largest single process."""
        return self._worker / 1e6

    def total_mb(self) -> float:
        """Of the whole tree at once."""
        return self._total / 1e6

    def _watch(self) -> None:
        while self._process.is_running():
            sizes = [self._size(child) for child in [self._process, *self._process.children(recursive=True)]]
            self._worker, self._total = max([self._worker, *sizes]), max(self._total, sum(sizes))
            time.sleep(0.5)

    @staticmethod
    def _size(process: psutil.Process) -> int:
        try:
            return int(process.memory_full_info().pss)
        except psutil.Error:
            return 0


if __name__ == "__main__":
    main()
