"""The published winner's data flow, told anew from its description: one program per member, sums kept on disk.

For each member in turn `nnUNetv2_predict --save_probabilities` over the whole cohort; every archive of probabilities
is divided by the number of members and added to an archive of sums. Then `> 0.5` class by class, and the
ratio-adaptive rule with one mask of the whole volume per component. Run by `cohort_flow`, with a plan as JSON.

    python -m benchmarks._peer_flow PLAN
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from benchmarks.postprocess_speed import per_component


def main(plan: dict[str, Any]) -> None:
    """Predict, add up, decode, postprocess; leaves labels, and seconds of each step."""
    work, out = Path(plan["work"]), Path(plan["out"])
    seconds: dict[str, float] = {}
    for place, member in enumerate(plan["members"]):
        predicted = work / f"member_{place}"
        timed(seconds, "predict", lambda m=member, p=predicted: predict(m, p, plan))
        for case in plan["cases"]:
            share = predicted / f"{case['id']}.npz"
            total = work / f"{case['id']}_sum.npz"
            timed(seconds, "accumulate", lambda m=member, s=share, t=total: accumulate(m, s, t, len(plan["members"])))
    out.mkdir()
    for case in plan["cases"]:
        raw, label = work / f"{case['id']}_raw.nii.gz", out / f"{case['id']}.nii.gz"
        timed(seconds, "decode", lambda c=case, r=raw: decode(work / f"{c['id']}_sum.npz", c["t1c"], r))
        timed(seconds, "postprocess", lambda r=raw, to=label: postprocess(r, to))
    shutil.rmtree(work)
    Path(plan["seconds"]).write_text(json.dumps({step: round(spent, 2) for step, spent in seconds.items()}))


def predict(member: dict[str, Any], folder: Path, plan: dict[str, Any]) -> None:
    """One member over the whole cohort."""
    command = [Path(sys.executable).with_name("nnUNetv2_predict"), "-i", member["images"], "-o", folder]
    command += ["-d", member["dataset"], "-p", member["plans"], "-tr", "nnUNetTrainer", "-c", "3d_fullres", "-f", "all"]
    command += ["--save_probabilities", "--disable_tta", "--disable_progress_bar", "-device", "cpu"]
    with Path(plan["log"]).open("a", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)


def accumulate(member: dict[str, Any], share: Path, total: Path, count: int) -> None:
    """Add a member's part of the mean to the sums so far."""
    heads = np.load(share)["probabilities"].astype(np.float32)
    part = (classes(heads) if member["regions"] else heads) / count
    if total.exists():
        part = np.load(total)["probabilities"] + part
    np.savez(total, probabilities=part)


def classes(heads: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class probabilities of nested region heads (WT, TC, ET): the winner's members had none, ours have one."""
    wt, tc, et = np.maximum.accumulate(heads[::-1])[::-1]
    return np.stack((1 - wt, tc - et, wt - tc, et))


def decode(total: Path, t1c: str, label: Path) -> None:
    """The class that has more than half; (z, y, x) becomes (x, y, z) with t1c's place in space."""
    probabilities = np.load(total)["probabilities"]
    labels = np.zeros(probabilities.shape[1:], np.uint8)
    for value, probability in enumerate(probabilities):
        labels[probability > 0.5] = value
    image = nibabel.load(t1c)
    nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), image.affine, image.header, dtype=np.uint8), label)


def postprocess(raw: Path, label: Path) -> None:
    """The ratio-adaptive rule, a component at a time."""
    image = nibabel.load(raw)
    edited = per_component(np.asarray(image.dataobj).astype(np.uint8))
    nibabel.save(nibabel.Nifti1Image(edited, image.affine), label)


def timed(seconds: dict[str, float], step: str, work: Callable[[], None]) -> None:
    started = time.perf_counter()
    work()
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - started


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
