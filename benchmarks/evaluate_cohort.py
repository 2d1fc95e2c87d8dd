"""A cohort of 1,000 small cases through `goat-ray evaluate`: time a case, the driver's memory, the tables' size.

Every case is a pair of 48×48×40 maps with a dozen lesions. The driver's memory is sampled while it runs.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks._record import record
from goat_ray.imaging.nifti import Grid, encode_labels

CASES = int(sys.argv[1]) if sys.argv[1:] else 1000
SHAPE = (48, 48, 40)
LESIONS = 12


def make_maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for _ in range(LESIONS):
        corner, size = rng.integers(1, np.array(SHAPE) - 9), rng.integers(2, 7, 3)
        for labels, shift in ((reference, 0), (prediction, rng.integers(0, 2, 3))):
            if labels is reference or rng.random() < 0.8:
                start = corner + shift
                labels[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = rng.choice([1, 2, 3])
    return reference, prediction


def write_cohort(folder: Path) -> None:
    grid = Grid(SHAPE, np.eye(4))
    for role in ("references", "labels"):
        (folder / role).mkdir()
    for number in range(CASES):
        for role, labels in zip(("references", "labels"), make_maps(number), strict=True):
            (folder / role / f"case-{number:05d}.nii.gz").write_bytes(encode_labels(labels, grid))


def run(folder: Path) -> tuple[float, list[tuple[float, int, float]]]:
    """Wall seconds, and samples of (seconds, cases committed, driver's memory in MB)."""
    command = [str(Path(sys.executable).with_name("goat-ray")), "evaluate", str(folder / "labels")]
    command += ["--references", str(folder / "references"), "--spec", "brats2023-gli", "--out", str(folder / "run")]
    start = time.monotonic()
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process, samples = psutil.Process(driver.pid), []
    while driver.poll() is None:
        done = len(list((folder / "run" / "commits").glob("*/*.json")))
        try:
            samples.append((time.monotonic() - start, done, process.memory_info().rss / 2**20))
        except psutil.NoSuchProcess:
            break
        time.sleep(1)
    if driver.wait():
        raise SystemExit("the run failed")
    return time.monotonic() - start, samples


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cohort(folder)
        wall_s, samples = run(folder)
        tables = {path.stem: path for path in (folder / "run" / "tables").glob("*.parquet")}
        sizes = {
            table: {"rows": pq.read_metadata(path).num_rows, "kb": path.stat().st_size / 1024}
            for table, path in sorted(tables.items())
        }
        readable = {
            "pyarrow": len(pq.read_table(tables["regions"])),
            "pandas": len(pq.read_table(tables["regions"]).to_pandas()),
        }
        timings = pq.read_table(tables["timings"]).to_pylist()
    working = [(done, mb) for _, done, mb in samples if CASES * 0.1 <= done <= CASES * 0.99]
    done, mb = np.array(working).T
    slope_kb, first = np.polyfit(done, mb * 1024, 1)[0], next(s for s, done, _ in samples if done)
    payload = {
        "cases": CASES,
        "wall_s": wall_s,
        "seconds_to_first_commit": first,
        "ms_per_case_after_that": 1000 * (wall_s - first) / CASES,
        "scoring_cpu_ms_per_case": 1000 * statistics.mean(t["cpu_seconds"] for t in timings if t["step"] == "evaluate"),
        "driver_rss_mb": {"at_10_percent": mb[0], "at_99_percent": mb[-1], "peak": max(mb for *_, mb in samples)},
        "driver_slope_kb_per_case": slope_kb,
        "tables": sizes,
        "rows_of_regions_read_by": readable,
    }
    record("evaluate_cohort", payload, ("numpy", "ray", "pyarrow"))
    print({key: value for key, value in payload.items() if key != "tables"})


if __name__ == "__main__":
    main()
