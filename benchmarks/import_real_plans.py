"""Imports a full-size random-weight checkpoint of every published plans file, loads it and runs it once.

Run from the repository root: `OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.import_real_plans`. Plans are read
from `GOAT_RAY_DATA/plans`; up to 1 GB of the temporary folder is used at a time.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from benchmarks._record import record
from goat_ray.members.ensemble import load_network
from goat_ray.members.importing import import_results
from goat_ray.members.inspection import describe, smallest_input
from tests.members.results import nnunet_network, write_results_folder

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GOAT_RAY_DATA", ROOT.parent / "shared" / "data"))
LOADS = 5

# One published model comes without its dataset.json; it has one channel (T1c) and one label.
ONE_CHANNEL = {"channel_names": {"0": "t1c"}, "labels": {"background": 0, "GTV": 1}, "numTraining": 500}


def main() -> None:
    plans = DATA / "plans"
    rows = [measure(path, path.parent.name) for path in sorted(plans.glob("real/*/plans.json"))]
    rows += [measure(path, path.stem) for path in sorted(plans.glob("generated/*Plans.json"))]
    record(
        "import_real_plans",
        {
            "what": "random weights in nnU-Net's checkpoint container -> import -> load -> one forward pass",
            "n": len(rows),
            "loads_per_network": LOADS,
            "load_s": "median of load_network(): file mapped, strict, page cache warm, hashing not included",
            "max_load_s": max(row["load_s"] for row in rows),
            "all_equal_nnunet": all(row["equals_nnunet"] for row in rows),
            "rows": rows,
        },
        packages=("torch", "nnunetv2", "dynamic-network-architectures", "safetensors"),
    )


def measure(path: Path, name: str) -> dict[str, Any]:
    plans, described = json.loads(path.read_text()), path.parent / "dataset.json"
    dataset = json.loads(described.read_text()) if described.exists() else ONE_CHANNEL
    heads = LabelManager(dataset["labels"], dataset.get("regions_class_order")).num_segmentation_heads
    torch.manual_seed(0)
    original = nnunet_network(plans, len(dataset["channel_names"]), heads, deep_supervision=True).eval()
    with tempfile.TemporaryDirectory() as folder:
        results = write_results_folder(Path(folder), plans, dataset, original.state_dict())
        started = time.perf_counter()
        member = import_results([str(results)], Path(folder) / "ensemble.yaml").members[0]
        import_s = time.perf_counter() - started
        load_s = [seconds_to_load(member) for _ in range(LOADS)]
        network = load_network(member)
        image = torch.randn(1, len(dataset["channel_names"]), *smallest_input(member.architecture))
        with torch.inference_mode():
            started = time.perf_counter()
            logits = network(image)
            forward_s = time.perf_counter() - started
            equal = torch.equal(logits, original(image)[0])
        checkpoint_mb = (results / "fold_all" / "checkpoint_final.pth").stat().st_size / 1e6
        weights_mb = member.weights.stat().st_size / 1e6
    summary = describe(member)
    parameters = sum(parameter.numel() for parameter in original.parameters())
    if summary.parameters != parameters:
        raise SystemExit(f"{name}: {summary.parameters} parameters, nnU-Net's network has {parameters}")
    row = {
        "plans": name,
        "format": "new" if "architecture" in plans["configurations"]["3d_fullres"] else "old",
        "code": summary.code,
        "network": summary.network,
        "parameters": summary.parameters,
        "patch_size": summary.patch_size,
        "windows": summary.windows,
        "channels": summary.channels,
        "labels": summary.labels,
        "usable": summary.problem is None,
        "checkpoint_mb": round(checkpoint_mb),
        "weights_mb": round(weights_mb),
        "import_s": round(import_s, 2),
        "load_s": round(median(load_s), 3),
        "forward_patch": image.shape[2:],
        "forward_s": round(forward_s, 2),
        "equals_nnunet": equal,
    }
    print(name, summary.parameters, row["load_s"], "s", "equal" if equal else "DIFFERENT", flush=True)
    return row


def seconds_to_load(member: Any) -> float:
    started = time.perf_counter()
    load_network(member)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
