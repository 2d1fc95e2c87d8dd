"""Pseudo-labels of thousands of small cases: the driver's memory as the run grows, and the time of a sweep of gates.

The run is made by the real stages in one process, without Ray and with a stub for the members; every case has a t1c
of its own and shares its other images. The sweep is the real command on the finished folder.

    python -m benchmarks.pseudo_scale [CASES]
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil

from benchmarks._record import record
from benchmarks.resume import measure
from goat_ray.pseudolabel.config import PseudoLabelConfig
from tests import chaos
from tests.cohorts import phantom, write_case, write_tiny_ensemble
from tests.inline import pseudo_label_inline

CASES = int(sys.argv[1]) if sys.argv[1:] else 5000
LABELLED = 20


class Memory:
    """A reporter that notes the resident memory of this process as cases end."""

    def __init__(self) -> None:
        self.mb: list[float] = []

    def start(self, total: int, already_done: int, what: str, run_id: str) -> None:
        """See `Reporter`."""
        self.mb = []

    def case_ended(self, case_id: str, failure: object) -> None:
        """See `Reporter`."""
        self.mb.append(psutil.Process().memory_info().rss / 2**20)


def write_cohort(folder: Path, n: int, name: str, *, labelled: bool) -> None:
    """Cases that differ in one voxel of t1c."""
    model = write_case(folder.parent / f"model-{name}", "model")
    t1c = nibabel.load(model / "model-t1c.nii.gz")
    data = np.asarray(t1c.dataobj).copy()
    places = np.argwhere(data > 0)
    for number in range(n):
        case_id = f"{name}-{number:06d}"
        (folder / case_id).mkdir(parents=True)
        for path in model.glob("*-t[12][nfw].nii.gz"):
            os.link(path, folder / case_id / path.name.replace("model", case_id))
        changed = data.copy()
        changed[tuple(places[number % len(places)])] += 1 + number // len(places)
        nibabel.save(nibabel.Nifti1Image(changed, t1c.affine), folder / case_id / f"{case_id}-t1c.nii.gz")
        if labelled:
            labels = nibabel.Nifti1Image(phantom(1).labels, t1c.affine)
            nibabel.save(labels, folder / case_id / f"{case_id}-seg.nii.gz")


def main() -> None:
    """Label a cohort, label it again, and sweep its gates."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_cohort(root / "cohort", CASES, "hospital", labelled=False)
        write_cohort(root / "labelled", LABELLED, "expert", labelled=True)
        ensemble = write_tiny_ensemble(root / "ensemble")
        places = {what: str(root / what) for what in ("cohort", "labelled", "out")}
        config = PseudoLabelConfig(**places, ensemble=str(ensemble), threads=1)
        chaos.PAUSE_S = 0
        memory = Memory()
        started = time.monotonic()
        summary = pseudo_label_inline(config, worker=chaos.StubPredict, reporter=memory)
        elapsed_s, after_mb = time.monotonic() - started, psutil.Process().memory_info().rss / 2**20
        started = time.monotonic()
        again = pseudo_label_inline(config, worker=chaos.StubPredict)
        again_s = time.monotonic() - started
        command = [str(Path(sys.executable).with_name("goat-ray")), "pseudo-label", config.cohort, "--dry-run"]
        command += ["--labelled", config.labelled, "--ensemble", str(ensemble), "--out", config.out]
        sweeps = [measure([*command, "--gates", "strict"]) for _ in range(3)]
    payload = {
        "cases": CASES,
        "kept": dict(summary.kept),
        "ms_per_case": 1000 * elapsed_s / CASES,
        "memory_mb": {"after_a_tenth": memory.mb[CASES // 10], "after_all": memory.mb[-1], "after_export": after_mb},
        "again": {"changed": again.changed, "elapsed_s": again_s},
        "sweep": sweeps,
    }
    record("pseudo_scale", payload, ("ray", "pyarrow", "pandas"))
    print(payload)


if __name__ == "__main__":
    main()
