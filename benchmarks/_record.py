"""What every benchmark shares: timing, and a JSON record of the numbers and of what they were measured with."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"

_UNITS = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}  # what decides how fast a convolution can be


def cpu_seconds(function: Callable[[], object], repeats: int = 5) -> dict[str, float]:
    """CPU seconds (all threads of this process) of `function`: median, min and max after one warm-up call."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return {"n": repeats, "median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def record(
    name: str, payload: Mapping[str, Any], packages: Sequence[str] = ("numpy",), *, is_quick: bool = False
) -> Path:
    """Writes `results/<name>.json`: the payload, the command, the date, the machine and the versions.

    A quick form has a file of its own, `<name>_quick.json`, from which nothing is quoted.
    """
    path = RESULTS / f"{name}{'_quick' * is_quick}.json"
    content = {
        "benchmark": name,
        "command": " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *_arguments()]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in sorted(packages)}},
        **payload,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(RESULTS.parent.parent)}")
    return path


def recorded(name: str) -> dict[str, Any]:
    """What `record` wrote under a name."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def _arguments() -> list[str]:
    """The command's arguments; a folder to leave things in changes no result and is this machine's own."""
    return [argument for argument in sys.argv[1:] if not Path(argument).is_dir()]


def _machine() -> dict[str, Any]:
    """Kind of machine, never its name."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _of_processor("model name") or platform.processor(),
        "vector_units": sorted(_UNITS & set(_of_processor("flags").split())),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _of_processor(entry: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(entry)), "")
