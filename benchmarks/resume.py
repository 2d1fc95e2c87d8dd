"""Resuming a finished run: how long it takes to see that nothing is left to do, and the memory it takes.

The cohort's files are links to four small images. The run is made by the real stages in one process, without Ray and
with a stub for the members; then the real command is called on the finished folder.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks._record import record
from goat_ray.config import RunConfig
from tests import chaos
from tests.cohorts import write_linked_cohort, write_tiny_ensemble
from tests.inline import predict_inline

CASES = int(sys.argv[1]) if sys.argv[1:] else 10_000
RESUMES = 3


def measure(command: list[str]) -> dict[str, float]:
    """Wall seconds, CPU seconds and largest memory in MB of a command and its children."""
    start, peak, cpu = time.monotonic(), 0.0, 0.0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss / 2**20)
            cpu = sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    if process.wait():
        raise SystemExit(f"{command} failed")
    return {"wall_s": time.monotonic() - start, "cpu_s": cpu, "peak_mb": peak}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_linked_cohort(folder / "cohort", CASES)
        ensemble = write_tiny_ensemble(folder / "ensemble")
        config = RunConfig(cohort=str(folder / "cohort"), ensemble=str(ensemble), out=str(folder / "run"), threads=1)
        chaos.PAUSE_S = 0
        predict_inline(config, worker=chaos.StubPredict)
        command = [str(Path(sys.executable).with_name("goat-ray")), "predict", config.cohort]
        command += ["--ensemble", str(ensemble), "--out", config.out, "--threads", "1"]
        resumes = [measure(command) for _ in range(RESUMES)]
        verified = measure([*command, "--verify"])
        commits = [path.stat().st_size for path in (folder / "run" / "commits").rglob("*.json")]
    payload = {
        "cases": CASES,
        "resumes": resumes,
        "resume_with_verify": verified,
        "commit_kb": sum(commits) / len(commits) / 1024,
    }
    record("resume", payload, ("ray", "pyarrow", "pydantic"))
    print(payload)


if __name__ == "__main__":
    main()
