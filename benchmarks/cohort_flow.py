"""The published winner's flow against `goat-ray predict`: same real-size cases, same members, one machine.

Theirs is `_peer_flow`: a program per member, sums of probabilities on disk. Ours runs with its defaults, with
`precision: bfloat16`, and with nnU-Net's own blending, which tells what of a difference is rounding. Labels are
compared first; a difference that nothing explains, or a missed target, exits with 1. With `--full-size` the members
have the winner's networks and windows, for one case: there the convolutions are nearly everything, and targets are not
judged.

    python -m benchmarks.cohort_flow [--quick | --full-size] [--cases 3] [--repeats 1]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks._agreement import agreement
from benchmarks._full_size import full_size_recipes, write_full_size_ensemble
from benchmarks._nnunet import environment, export_member, link_cases
from benchmarks._processes import Watched, run_watched
from benchmarks._record import record
from benchmarks.cpu_cost import REAL_SHAPE, phantoms
from goat_ray.cases import discover
from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE, write_demo_cohort
from goat_ray.demo.recipes import RECIPES
from goat_ray.members.ensemble import load_ensemble

QUICK_MEMBERS = ("ResNetL", "UMamba")
OURS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "nnunet": {"blending": "nnunet", "windows_per_batch": 1},
}
"""Settings of each of our runs beside the defaults; the last is for its labels only."""

LEAST_EQUAL = {"float32": 0.9999, "nnunet": 1.0 - 1e-6}
TARGETS = {"float32 wall": 4.0, "bfloat16 wall": 8.0, "written": 1000.0, "disk": 50.0}
"""How many times as much theirs takes, at least."""


class Flows:
    """Both flows on one cohort; `folder` holds everything."""

    def __init__(self, folder: Path, cases: int, codes: Sequence[str] | None, *, full_size: bool) -> None:
        self.forms = {name: OURS[name] for name in ("float32", "bfloat16")} if full_size else OURS
        self.folder, self.cohort = folder, folder / "cohort"
        write_demo_cohort(self.cohort, phantoms(cases, first_seed=100), REAL_SHAPE)
        self.cases = discover(str(self.cohort)).cases
        recipes = {recipe.code: recipe for recipe in (full_size_recipes() if full_size else RECIPES)}
        self.ensemble = EMBEDDED_ENSEMBLE
        if full_size:
            self.ensemble = write_full_size_ensemble([*recipes.values()], folder / "full_size")
        members = load_ensemble(self.ensemble, codes).members
        self.codes = [member.code for member in members]
        self.members = []
        for number, member in enumerate(members, start=1):
            images = link_cases(self.cases, member.card.channels, folder / "raw" / member.code)
            exported = export_member(member, recipes[member.code], number, folder / "results")
            self.members.append({**asdict(exported), "images": str(images)})

    def theirs(self, place: Path) -> tuple[Watched, dict[str, float]]:
        """Run their flow in a folder; what it took, and seconds of its steps."""
        (work := place / "work").mkdir(parents=True)
        plan = {
            "members": self.members,
            "cases": [{"id": case.case_id, "t1c": str(case.images["t1c"])} for case in self.cases],
            "work": str(work),
            "out": str(place / "labels"),
            "seconds": str(self.folder / "steps.json"),
            "log": str(self.folder / "nnunet.log"),
        }
        (self.folder / "plan.json").write_text(json.dumps(plan))
        command = [sys.executable, "-m", "benchmarks._peer_flow", self.folder / "plan.json"]
        watched = run_watched(command, place, environment(self.folder / "results", self.folder))
        if watched.exit_code:
            sys.exit((self.folder / "nnunet.log").read_text()[-3000:])
        return watched, json.loads((self.folder / "steps.json").read_text())

    def ours(self, place: Path, settings: dict[str, Any]) -> tuple[Watched, dict[str, float]]:
        """Run `goat-ray predict` into a folder; what it took, and seconds of all cases by step."""
        (config := self.folder / "run.yaml").write_text(yaml.safe_dump({"spec": "none", **settings}))
        command: list[str | Path] = [Path(sys.executable).with_name("goat-ray"), "predict", self.cohort]
        command += ["--ensemble", self.ensemble, "--out", place, "--config", config]
        command += ["--members", ",".join(self.codes)]
        watched = run_watched(command, place, environment(self.folder / "results", self.folder))
        if watched.exit_code:
            sys.exit(f"goat-ray ended with {watched.exit_code}")
        return watched, steps_of(place)

    def labels(self, place: Path) -> list[NDArray[np.uint8]]:
        """The label maps (x, y, z) that a flow left, in the order of the cases."""
        files = [place / "labels" / f"{case.case_id}.nii.gz" for case in self.cases]
        return [np.asarray(nibabel.load(file).dataobj).astype(np.uint8) for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--quick", action="store_true", help="one case, two members, targets not judged")
    form.add_argument("--full-size", action="store_true", help="one case, members of full size, targets not judged")
    parser.add_argument("--cases", type=int, default=3, help="real-size phantoms, five at most")
    parser.add_argument("--repeats", type=int, default=1, help="of both flows, in turns")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = 1 if arguments.quick or arguments.full_size else arguments.cases
        codes = QUICK_MEMBERS if arguments.quick else None
        flows = Flows(Path(folder), cases, codes, full_size=arguments.full_size)
        rounds = [one_round(flows, Path(folder) / f"round{number}") for number in range(arguments.repeats)]
        payload = {
            "cases": cases,
            "shape_xyz": REAL_SHAPE,
            "members": flows.codes,
            "cores": os.cpu_count(),
            "load_average_before": rounds[0]["load"],
            "targets": {} if arguments.full_size else TARGETS,
            "labels": rounds[0]["labels"],
            "ratios": {name: spread([one["ratios"][name] for one in rounds]) for name in rounds[0]["ratios"]},
            "rounds": rounds,
        }
    payload["missed"] = missed(payload)
    print(json.dumps({name: payload[name] for name in ("labels", "ratios", "missed")}, indent=1))
    name = "cohort_flow_full_size" if arguments.full_size else "cohort_flow"
    record(name, payload, ("nnunetv2", "numpy", "ray", "torch"), is_quick=arguments.quick)
    sys.exit(bool(payload["missed"]) and not arguments.quick)


def one_round(flows: Flows, place: Path) -> dict[str, Any]:
    """Every flow once: labels compared, then what each took."""
    load = [round(value, 2) for value in os.getloadavg()]
    peer, peer_steps = flows.theirs(place / "theirs")
    print("theirs", shown(peer), peer_steps, flush=True)
    reference = flows.labels(place / "theirs")
    took, steps, labels = {"theirs": peer}, {"theirs": peer_steps}, {}
    for name, settings in flows.forms.items():
        took[name], steps[name] = flows.ours(place / name, settings)
        labels[name] = agreement(flows.labels(place / name), reference)
        print(name, shown(took[name]), labels[name], flush=True)
    ratios = {
        **{f"{name} wall": peer.wall_s / took[name].wall_s for name in flows.forms},
        **{f"{name} CPU": peer.cpu_s / took[name].cpu_s for name in flows.forms},
        "written": peer.written_bytes / took["float32"].written_bytes,
        "disk": peer.peak_disk_bytes / took["float32"].peak_disk_bytes,
        "memory": peer.peak_memory_bytes / took["float32"].peak_memory_bytes,
        "processes": peer.processes / took["float32"].processes,
    }
    told = {name: {**shown(watched), "steps_s": steps[name]} for name, watched in took.items()}
    return {"load": load, "labels": labels, "ratios": ratios, "flows": told}


def steps_of(run: Path) -> dict[str, float]:
    """Seconds of each step of a run of ours, all cases together."""
    seconds: dict[str, float] = {}
    for file in (run / "timings").rglob("*.json"):
        for step, spent in json.loads(file.read_text())["seconds"].items():
            seconds[step] = round(seconds.get(step, 0.0) + spent, 2)
    return seconds


def shown(watched: Watched) -> dict[str, Any]:
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(watched).items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


def missed(payload: dict[str, Any]) -> list[str]:
    """Each target that is not met, in words."""
    labels, ratios = payload["labels"], payload["ratios"]
    told = [
        f"{name}: {labels[name]['differing_vox']} voxels differ"
        for name, least in LEAST_EQUAL.items()
        if name in labels and labels[name]["equal_share"] < least
    ]
    return told + [
        f"{name}: {ratios[name]['median']} times instead of {least}"
        for name, least in payload["targets"].items()
        if ratios[name]["median"] < least
    ]


if __name__ == "__main__":
    main()
