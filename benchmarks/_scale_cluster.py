"""A cluster of logical nodes on one machine, and stages that cost next to nothing but carry rows of real size.

`python -m benchmarks._scale_cluster FOLDER` carries out the run whose settings lie in the folder.
"""

import csv
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from ray.cluster_utils import Cluster

from goat_ray.cases import Case
from goat_ray.config import RunConfig
from goat_ray.pipeline import predict
from goat_ray.pipeline.files import box_of
from goat_ray.pipeline.job import NOTHING_AGAIN, carry_out
from goat_ray.pipeline.rows import Row
from goat_ray.pipeline.stages import Finish, PredictSettings, Read
from tests.chaos import ThresholdPredict

CROP = (139, 169, 135)
"""Voxels of the median crop of BraTS-GoAT."""
_NO_GREY = np.zeros((0, 0, 0), np.uint8)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated."""

    nodes: int
    gpus_per_node: int
    cpus_per_node: int
    predict_s: float


class WideRead(Read):
    """Reads a tiny case and sends it on in a crop of real size, with the volume that thumbnails are drawn from."""

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        image = super()._work(case, row, context)["image_0"]
        wide = np.zeros((len(image), *CROP), np.float32)
        wide[(slice(None), *map(slice, image.shape[1:]))] = image
        return {"image_0": wide, "grey": np.zeros(CROP, np.uint8)}


class SleepyPredict(ThresholdPredict):
    """A threshold for members; it sleeps as long as they would compute, and notes when."""

    def __init__(self, settings: PredictSettings) -> None:
        super().__init__(settings)
        root = Path(settings.surroundings.root).parent
        self._predict_s = Plan(**json.loads((root / "plan.json").read_text())).predict_s
        self._notes = (root / "notes" / f"{os.getpid()}.csv").open("a", buffering=1)

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        began = time.time()
        shape = box_of(context).shape
        tiny = {"image_0": row["image_0"][(slice(None), *map(slice, shape))]}
        labels = np.zeros(CROP, np.uint8)
        labels[tuple(map(slice, shape))] = super()._work(case, tiny, context)["labels"]
        time.sleep(max(0.0, began + self._predict_s - time.time()))
        self._notes.write(f"{began},{time.time()}\n")
        return {"labels": labels, "probabilities": np.zeros((0, 0, 0, 0), np.uint8)}


class NarrowFinish(Finish):
    """Finishes the tiny case that lies in the corner of the labels."""

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        labels = row["labels"][tuple(map(slice, box_of(context).shape))]
        return super()._work(case, {**row, "labels": labels, "grey": _NO_GREY}, context)


class DriverMemory:
    """A reporter that notes this process's memory, processor time and the time of day as cases end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self._process = psutil.Process()

    def start(self, total: int, already_done: int, what: str, run_id: str) -> None:
        """See `Reporter`."""

    def case_ended(self, case_id: str, failure: object) -> None:
        """See `Reporter`."""
        self.note(failure is None)

    def note(self, ok: bool = True) -> None:
        """One more line."""
        times = self._process.cpu_times()
        self._file.write(f"{time.time()},{self._process.memory_info().rss},{times.user + times.system},{int(ok)}\n")


def rows_of(path: Path) -> np.ndarray:
    """Numbers of a file of notes, a row a line."""
    with path.open() as file:
        return np.array([[float(value) for value in line] for line in csv.reader(file)])


def main() -> None:
    """Start the nodes, carry out the run, stop them."""
    folder = Path(sys.argv[1])
    plan = Plan(**json.loads((folder / "plan.json").read_text()))
    config = RunConfig.model_validate_json((folder / "config.json").read_text())
    (folder / "notes").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(plan.nodes):
        cluster.add_node(num_cpus=plan.cpus_per_node, num_gpus=plan.gpus_per_node, object_store_memory=1500 * 2**20)
    cluster.wait_for_nodes()
    genuine = predict.stages_of

    def stages_of(*arguments: Any) -> Any:
        stages = genuine(*arguments)
        read, finish = stages.read, stages.finish
        return replace(
            stages,
            read=WideRead(read.preprocessings[:1], False, read.surroundings),
            finish=NarrowFinish(finish.decode, finish.postprocess, None, finish.surroundings),
            worker=SleepyPredict,
        )

    predict.stages_of = stages_of
    memory = DriverMemory(folder / "driver.csv")
    prediction = predict.prepare(config.model_copy(update={"address": cluster.address}))
    summary = carry_out(prediction.job, predict.engine_of(prediction), memory, NOTHING_AGAIN)
    memory.note()
    (folder / "summary.json").write_text(json.dumps({**summary.counts, "elapsed_s": summary.elapsed_s}))
    cluster.shutdown()


if __name__ == "__main__":
    main()
