"""What a case costs, from the table `timings`: seconds of each stage, and the processors that keep a worker busy.

A stage is a step whose processor time was measured; the others are parts of one.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ("step", "seconds", "cpu_seconds")
"""Columns of `timings` that costs are made of."""

PREDICT = "predict"
_ORDER = ("read", PREDICT, "finish", "commit")
_DIGITS = 4
_KEPT_FREE = 1.0  # of a node: the driver, Ray itself and the repartition task


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage takes of a case: wall seconds, and CPU seconds over all threads."""

    cases: int
    wall_median_s: float
    wall_mean_s: float
    cpu_median_s: float
    cpu_mean_s: float


@dataclass(frozen=True, slots=True)
class Costs:
    """What a case costs, by stage in the order of the pipeline."""

    stages: Mapping[str, StageCost]

    @property
    def cores(self) -> dict[str, float]:
        """Processors that each stage takes for one predict worker: its CPU seconds a wall second of predict.

        Medians of both, so that a first case that warms up does not count. Nothing where nothing was predicted.
        """
        predict = self.stages.get(PREDICT)
        if predict is None or not predict.wall_median_s:
            return {}
        return {name: stage.cpu_median_s / predict.wall_median_s for name, stage in self.stages.items()}

    @property
    def cores_per_worker(self) -> int | None:
        """Whole processors with which the other stages keep up with one predict worker; None where there is none."""
        cores = self.cores
        return math.ceil(round(sum(cores.values()), _DIGITS)) if cores else None

    def workers_fed(self, cpus: float) -> int:
        """Predict workers that a node's processors keep busy, one of them left to the driver and to Ray."""
        together = sum(self.cores.values())
        return int(round((cpus - _KEPT_FREE) / together, _DIGITS)) if together else 0

    def time_s(self, cases: int, workers: int, cpus: float) -> float:
        """About how long so many cases take: as long as predict on its workers, or as the processors if longer."""
        predict_s = self.stages[PREDICT].wall_median_s / workers
        cpu_s = sum(stage.cpu_median_s for stage in self.stages.values()) / cpus
        return cases * max(predict_s, cpu_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "stages": {
                name: {key: round(value, _DIGITS) for key, value in asdict(stage).items()}
                for name, stage in self.stages.items()
            },
            "cores": {name: round(cores, _DIGITS) for name, cores in self.cores.items()},
            "cores_per_worker": self.cores_per_worker,
        }

    @classmethod
    def of(cls, timings: pa.Table) -> Self:
        """The costs that the rows of `timings` amount to; see `COLUMNS`."""
        measured = timings.filter(pc.is_valid(timings["cpu_seconds"]))
        found = measured["step"].unique().to_pylist()
        names = [*(name for name in _ORDER if name in found), *sorted({*found} - {*_ORDER})]
        return cls({name: _cost(measured.filter(pc.equal(measured["step"], name))) for name in names})


def _cost(rows: pa.Table) -> StageCost:
    wall, cpu = rows["seconds"].to_numpy(), rows["cpu_seconds"].to_numpy()
    numbers = (np.median(wall), np.mean(wall), np.median(cpu), np.mean(cpu))
    return StageCost(len(rows), *map(float, numbers))
