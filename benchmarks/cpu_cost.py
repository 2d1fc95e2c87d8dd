"""CPU time of a case outside the networks, stage by stage and part by part, and of what a worker imports for it.

Real-size phantoms, and the private scans named by GOAT_RAY_DATA where they exist (figures only). The expert labels
stand in for the networks' ones; no case is scored. The stages are those of a run, called as Ray calls them.

    python -m benchmarks.cpu_cost [--quick]
"""

import argparse
import functools
import json
import os
import pkgutil
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks._processes import as_a_worker
from benchmarks._record import record
from goat_ray.cases import Case, discover
from goat_ray.config import PostprocessConfig, S3Config
from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE, DemoCase, write_demo_cohort
from goat_ray.demo.phantoms import BENCHMARK_SEEDS, SITES, TUMOURS
from goat_ray.errors import Category
from goat_ray.imaging.reading import load_labels
from goat_ray.members.ensemble import load_ensemble
from goat_ray.pipeline.files import Place
from goat_ray.pipeline.rows import Row, reference_row
from goat_ray.pipeline.stages import CommitCase, Finish, Read
from goat_ray.pipeline.watchdog import Surroundings

DATA = Path(os.environ.get("GOAT_RAY_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
REAL_SHAPE = (240, 240, 155)
LIMIT_CPU_S = {"read": 0.4, "finish": 0.4}
"""So that four cores feed one GPU; `finish` is with the commit."""

PARTS = {
    "read": {
        "fetch and hash": "goat_ray.imaging.reading._read_file",
        "gunzip and parse": "goat_ray.imaging.reading.decode_image",
        "mask and box": "goat_ray.imaging.reading.brain_mask_box",
        "fill holes": "goat_ray.imaging.geometry._fill_holes",
        "check and crop": "goat_ray.pipeline.stages.load_case",
        "hash of the scan": "goat_ray.imaging.reading._scan_sha256",
        "z-score": "goat_ray.pipeline.stages.preprocess",
        "grey volume": "goat_ray.pipeline.stages.grey_volume",
    },
    "finish": {
        "postprocess": "goat_ray.pipeline.stages.postprocess",
        "restore": "goat_ray.pipeline.files.Place.uncropped",
        "encode": "goat_ray.pipeline.stages.encode_labels",
        "lesions": "goat_ray.pipeline.stages.predicted_shapes",
        "regions": "goat_ray.pipeline.stages.region_rows",
        "histogram": "goat_ray.pipeline.stages.label_histogram",
        "thumbnail": "goat_ray.pipeline.stages.thumbnail_file",
    },
    "commit": {"write": "goat_ray.pipeline.stages.write_commit"},
}
"""Functions of each stage whose own time (without that of other parts within) is told; the stage's rest is `other`."""

IMPORTS = {
    "numpy": "import numpy",
    "ray.data": "import ray.data",
    "what a task unpickles": "import goat_ray.pipeline.stages",
    "both": "import ray.data, goat_ray.pipeline.stages",
}


class Clock:
    """CPU seconds of this process by part, each without the parts within it."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._within: list[float] = []

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls counted as `part`."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._within.append(0.0)
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.process_time() - started
                self.spent[part] += whole - self._within.pop()
                if self._within:
                    self._within[-1] += whole

        return call

    @contextmanager
    def watching(self, parts: dict[str, str]) -> Iterator[None]:
        """Count what is called within the block."""
        with ExitStack() as stack:
            for part, name in parts.items():
                stack.enter_context(patch(name, self.timed(part, pkgutil.resolve_name(name))))
            yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two phantoms, one call each")
    arguments = parser.parse_args()
    as_a_worker()
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        heads = phantoms(2 if arguments.quick else len(TUMOURS))
        write_demo_cohort(Path(folder) / "phantoms", heads, REAL_SHAPE)
        cohorts = {"phantoms": Path(folder) / "phantoms"}
        if DATA.is_dir() and not arguments.quick:
            cohorts["real"] = DATA / "cohort"
        rows = {name: cohort_rows(path, Path(folder), 1 if arguments.quick else 5) for name, path in cohorts.items()}
    payload = {
        "unit": "CPU seconds of one process",
        "limits": LIMIT_CPU_S,
        "load_average_before": load,
        "summary": {name: summary(found) for name, found in rows.items()},
        "imports": imports(1 if arguments.quick else 5),
        "cases": rows,
    }
    print(json.dumps({key: payload[key] for key in ("summary", "imports")}, indent=1))
    packages = ("numpy", "isal", "nibabel", "connected-components-3d", "ray")
    record("cpu_cost", payload, packages, is_quick=arguments.quick)
    sys.exit(any(found["missed"] for found in payload["summary"].values()))


def phantoms(count: int, first_seed: int = 0) -> list[DemoCase]:
    """A head of each kind of tumour; sites take turns."""
    return [
        DemoCase(f"head-{place}", BENCHMARK_SEEDS[first_seed + place], tumour, tuple(SITES)[place % len(SITES)])
        for place, tumour in enumerate(tuple(TUMOURS)[:count])
    ]


def cohort_rows(cohort: Path, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Every case with labels, numbered and not named."""
    cases = [case for case in discover(str(cohort)).cases if case.reference]
    return [{"case": number, **measure(case, folder, repeats)} for number, case in enumerate(cases, start=1)]


def measure(case: Case, folder: Path, repeats: int) -> dict[str, Any]:
    """Median CPU seconds of each stage and part over `repeats`, after a first call that counts for nothing."""
    calls = [stages_of(case, folder) for _ in range(repeats + 1)][1:]
    row: dict[str, Any] = {stage: medians([call[stage] for call in calls]) for stage in PARTS}
    print(case.case_id if str(DATA) not in str(case.images["t1c"]) else "real", {s: row[s]["all"] for s in PARTS})
    return row


def stages_of(case: Case, folder: Path) -> dict[str, dict[str, float]]:
    """One case from its files to its commit; CPU seconds by stage and part."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        surroundings = Surroundings(root, S3Config(), 3600.0)
        spec = load_ensemble(str(EMBEDDED_ENSEMBLE)).members[0].preprocessing
        finish = Finish("majority", PostprocessConfig(), None, surroundings)
        commit = CommitCase(surroundings, "benchmark")
        row, read = timed("read", Read((spec,), True, surroundings), reference_row(case))
        row, finished = timed("finish", finish, as_predicted(row, case))
        row, committed = timed("commit", commit, row)
    if row["error"] or row["fatal"]:
        sys.exit(row["error"] or row["fatal"])
    return {"read": read, "finish": finished, "commit": committed}


def timed(stage: str, call: Callable[[Row], Row], row: Row) -> tuple[Row, dict[str, float]]:
    """What a stage makes of a row, and its CPU seconds: all, and by part."""
    clock = Clock()
    with clock.watching(PARTS[stage]):
        done = clock.timed("other", call)(row)
    return done, {"all": clock.spent.total(), **clock.spent}


def as_predicted(row: Row, case: Case) -> Row:
    """A read row as if members had drawn the expert's labels in it."""
    context = json.loads(row["context"])
    labels = load_labels(str(case.reference), "reference", Category.MISSING_REFERENCE).labels
    regions = ("ET", "NETC", "SNFH", "TC", "WT")
    context["confidence"] = {**dict.fromkeys(regions, 0.9), "entropy": 0.1, "margin": 0.8}
    context["agreement"], context["members"] = {}, ["stand-in"]
    crop = np.ascontiguousarray(Place.of(context).cropped(np.minimum(labels, 3)))
    return {**row, "labels": crop, "probabilities": np.zeros((0, 0, 0, 0), np.uint8), "context": json.dumps(context)}


def medians(calls: list[dict[str, float]]) -> dict[str, float]:
    parts = dict.fromkeys(part for call in calls for part in call)
    return {part: round(statistics.median(call.get(part, 0.0) for call in calls), 4) for part in parts}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and largest of each stage and part over the cases, and which limits are missed."""
    told: dict[str, Any] = {}
    for stage in PARTS:
        parts = {part: [row[stage].get(part, 0.0) for row in rows] for part in rows[0][stage]}
        told[stage] = {part: {"median": statistics.median(s), "max": max(s)} for part, s in parts.items()}
    spent = {"read": [row["read"]["all"] for row in rows]}
    spent["finish"] = [row["finish"]["all"] + row["commit"]["all"] for row in rows]
    told["missed"] = [stage for stage, limit in LIMIT_CPU_S.items() if statistics.median(spent[stage]) > limit]
    return {"cases": len(rows), **told}


def imports(repeats: int) -> dict[str, float]:
    """CPU seconds of a process that only imports, less those of one that does nothing; the least of several."""
    nothing = min(child_cpu_s("pass") for _ in range(repeats))
    return {name: round(min(child_cpu_s(code) for _ in range(repeats)) - nothing, 3) for name, code in IMPORTS.items()}


def child_cpu_s(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
