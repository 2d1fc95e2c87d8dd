"""Growth of whole runs over tiny cases: each run in a process of its own, so that its memory is its own too.

`python -m benchmarks._growth_runs inline CASES` and `… actors WORKERS CASES_OF_EACH` are those; they print JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._growth_fit import Growth, Point

PREDICT_S = 2.0
"""So long that two shared cores read and finish tiny cases for four workers beside it."""


def cohort_growth(sizes: Sequence[int]) -> tuple[Growth, ...]:
    """Processor time and memory of a run without Ray, thumbnails and members, by the number of its cases."""
    runs = {size: _in_fresh_process("inline", size) for size in sizes}
    seconds = (Point(n, run["cpu_s"], {"ms_per_case": 1000 * run["cpu_s"] / n}) for n, run in runs.items())
    memory = (Point(n, run["peak_mb"]) for n, run in runs.items())
    about = "cases in the cohort"
    return (
        Growth("cohort_cpu", "Run of stub cases", about, "CPU-s of the run", "CPU-ms a case", 1000, tuple(seconds)),
        Growth("cohort_memory", "Memory of that run", about, "peak memory, MB", "kB a case", 1024, tuple(memory)),
    )


def actor_growth(workers: Sequence[int], cases_of_each: int) -> tuple[Growth, ...]:
    """Cases per hour of a run on Ray whose members only sleep, by the number of its workers."""
    runs = {number: _in_fresh_process("actors", number, cases_of_each) for number in workers}
    points = (
        Point(n, run["per_hour"], {"per_worker": run["per_hour"] / n, "cases": run["cases"]}) for n, run in runs.items()
    )
    title = f"Ray, members sleep {PREDICT_S:g} s"
    unit = "cases/h a worker"
    return (Growth("actors", title, "predict workers", "cases per hour", unit, 1, tuple(points), is_yield=True),)


def _in_fresh_process(kind: str, size: int, *more: int) -> dict[str, float]:
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    environment |= {**dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"), "CHAOS_PAUSE_S": str(PREDICT_S)}
    command = [sys.executable, "-m", "benchmarks._growth_runs", kind, *map(str, (size, *more))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{kind} {size:6d}: " + ", ".join(f"{name} {value:,.2f}" for name, value in found.items()), flush=True)
    return found


def _inline(folder: Path, cases: int) -> dict[str, float]:
    """A run over one case pays for imports; the one that is measured does not."""
    from tests.chaos import ThresholdPredict
    from tests.inline import predict_inline

    predict_inline(_config(folder / "first", 1, thumbnails=False), worker=ThresholdPredict)
    config = _config(folder / "measured", cases, thumbnails=False)
    started = time.process_time()
    summary = predict_inline(config, worker=ThresholdPredict)
    cpu_s = time.process_time() - started
    if summary.ok != cases:
        sys.exit(f"{summary.ok} of {cases} cases were done")
    return {"cpu_s": cpu_s, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    """Largest resident memory of this process; `ru_maxrss` would be its parent's, where that is larger."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _actors(folder: Path, workers: int, cases_of_each: int) -> dict[str, float]:
    import ray

    from tests.chaos import carry_out, events, journal

    cases = cases_of_each * workers
    config = _config(folder, cases, workers=workers)
    ray.init("local", num_cpus=2 * workers + 2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    summary = carry_out(config)
    ray.shutdown()
    starts = [moment for moment, event, _ in events(summary.out) if event == "predict"]
    journal(summary.out).unlink()
    if (summary.ok, len(starts)) != (cases, cases):
        sys.exit(f"{summary.ok} of {cases} cases were done, {len(starts)} predicted")
    # From when every worker has its first case until the last case begins: all of them have work throughout.
    busy_s = starts[-1] - starts[workers - 1]
    return {"per_hour": 3600 * (cases - workers) / busy_s, "cases": cases}


def _config(folder: Path, cases: int, **settings: Any) -> Any:
    """A run over cases that share the files of one."""
    from goat_ray.config import RunConfig
    from tests.cohorts import write_linked_cohort, write_tiny_ensemble

    write_linked_cohort(folder / "cohort", cases)
    ensemble = write_tiny_ensemble(folder / "ensemble")
    places = {"cohort": str(folder / "cohort"), "ensemble": str(ensemble), "out": str(folder / "run")}
    return RunConfig(**places, members=("Labels",), device="cpu", threads=1, **settings)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        measure: Callable[..., dict[str, float]] = {"inline": _inline, "actors": _actors}[sys.argv[1]]
        print(json.dumps(measure(Path(name), *map(int, sys.argv[2:]))))
