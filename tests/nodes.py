"""Clusters of several nodes on one machine, with GPUs that are only counted.

`python -m tests.nodes FOLDER` makes the runs in it that `tests.pipeline.test_nodes` looks at: a Ray of its own, as one
process has one Ray at a time.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from goat_ray.cases import Case
from goat_ray.config import PoolConfig, RunConfig
from goat_ray.pipeline import predict
from goat_ray.pipeline.rows import Row
from goat_ray.pipeline.stages import Predict, PredictSettings

MEMBERS, TYPES = ("Labels", "Regions"), ("SMALL", "LARGE")


class CountedGpu(Predict):
    """A worker that is given a GPU, computes on the CPU instead, and notes where it was."""

    def __init__(self, settings: PredictSettings) -> None:
        super().__init__(replace(settings, device="cpu"))

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        done = super()._work(case, row, context)
        note = {
            "case": case.case_id,
            "members": self._settings.shard.held,
            "node": ray.get_runtime_context().get_node_id(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        notes = Path(self._settings.surroundings.root).parent / "notes"
        notes.mkdir(exist_ok=True)
        (notes / f"{case.case_id}-{'-'.join(self._settings.shard.held or ())}.json").write_text(json.dumps(note))
        return done


def main() -> None:
    """One node, then three, then members by type of GPU."""
    folder = Path(sys.argv[1])
    config = RunConfig.model_validate_json((folder / "config.json").read_text())
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    predict.predict_cohort(config.model_copy(update={"out": str(folder / "one"), "workers": 1}))
    nodes = [cluster.add_node(num_cpus=3, num_gpus=1, resources={f"accelerator_type:{kind}": 1}) for kind in TYPES]
    cluster.wait_for_nodes()
    three = {"out": str(folder / "three"), "workers": 3, "device": "cpu"}
    predict.predict_cohort(config.model_copy(update=three))
    genuine = predict.stages_of
    predict.stages_of = lambda *arguments: replace(genuine(*arguments), worker=CountedGpu)  # type: ignore[assignment]
    pools = [PoolConfig(members=(code,), accelerator_type=kind) for code, kind in zip(MEMBERS, TYPES, strict=True)]
    divided = {"out": str(folder / "divided"), "device": "cuda", "pools": tuple(pools)}
    predict.predict_cohort(config.model_copy(update=divided))
    places = dict(zip(TYPES, (node.node_id for node in nodes), strict=True))
    (folder / "nodes.json").write_text(json.dumps(places))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
