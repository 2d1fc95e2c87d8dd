"""What made a run: versions, machine, code and inputs, as `run.json` and the table `run` record them."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from goat_ray.cases import Discovery

_PACKAGES = ("goat-ray", "torch", "numpy", "scipy", "ray", "connected-components-3d", "nibabel", "pyarrow")


def about_run(kind: str, config: Mapping[str, Any], discovery: Discovery) -> dict[str, Any]:
    """What `run.json` tells of a run's start."""
    return {
        "kind": kind,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": dict(config),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "git_commit": _git_commit(),
        "inputs_sha256": _inputs_sha256(discovery),
    }


def run_row(document: Mapping[str, Any], timings: pa.Table) -> dict[str, Any]:
    """The row of the table `run` that a finished `run.json` amounts to."""
    counts, ensemble, config = document["counts"], document.get("ensemble", {}), document["config"]
    specs = document["fingerprint"].get("spec") or {}
    return {
        **{name: document.get(name) for name in ("run_id", "kind", "created_utc", "finished_utc")},
        **{name: document.get(name) for name in ("inputs_sha256", "git_commit", "machine")},
        "spec": config.get("spec"),
        "spec_sha256": _sha256(json.dumps(specs, sort_keys=True)) if specs else None,
        "specs": json.dumps(document.get("specs"), sort_keys=True),
        "policy": config.get("missing"),
        "ensemble": ensemble.get("name"),
        "ensemble_sha256": ensemble.get("sha256"),
        "members": json.dumps(ensemble.get("members", {}), sort_keys=True),
        "versions": json.dumps(document["versions"], sort_keys=True),
        **{f"n_{name}": counts[key] for name, key in _COUNTS.items()},
        "wall_s": document["elapsed_s"],
        "cpu_s": pc.sum(timings["cpu_seconds"]).as_py(),
    }


_COUNTS = {"expected": "discovered", "ok": "ok", "failed": "failed", "skipped": "skipped"}


def _inputs_sha256(discovery: Discovery) -> str:
    """Hash of the expected case ids and the names of their files."""
    cases = [[case.case_id, case.file_names] for case in discovery.cases]
    return _sha256(json.dumps([cases, [failed.case_id for failed in discovery.failures]], sort_keys=True))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _git_commit() -> str | None:
    """The commit that the package runs from, when it runs from a checkout."""
    folder = Path(__file__).resolve().parents[2]
    command: Sequence[str] = ("git", "-C", str(folder), "rev-parse", "HEAD")
    if not (folder / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603 - fixed words
        return done.stdout.strip()
    return None
