"""What a cohort will take on the Ray at hand, found out by really predicting a few of its cases."""

import csv
import io
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from goat_ray.cases import Case, FailedCase
from goat_ray.config import RunConfig
from goat_ray.costs import COLUMNS, Costs
from goat_ray.errors import ConfigError, GoatRayError
from goat_ray.filesystems import is_s3
from goat_ray.labels import MODALITIES
from goat_ray.ledger import read_timings
from goat_ray.members.ensemble import load_ensemble
from goat_ray.pipeline.cluster import ray_session, this_cluster
from goat_ray.pipeline.hardware import Cluster
from goat_ray.pipeline.job import RunSummary
from goat_ray.pipeline.placement import Placement
from goat_ray.pipeline.predict import place_members, predict_cohort
from goat_ray.pipeline.progress import Reporter
from goat_ray.preflight import Runnable
from goat_ray.storage import RunStore, absolute, join
from goat_ray.tables import read_table

_MANIFEST = "cohort.csv"
_LABELS = "labels/"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a few cases took, one predict worker at work, and what that makes of all.

    Attributes:
        case_ids: the cases that were predicted.
        failures: those that could not be.
        costs: of a case, by stage.
        placement: how the whole run would be divided here.
        cluster: what there is.
        cases: how many the whole run would have.
        label_bytes: of a label map, on average.
        output_bytes: of everything that a case leaves, on average.
        device_peak_bytes: most memory of the GPU that a worker has held; None on CPUs.
    """

    case_ids: tuple[str, ...]
    failures: tuple[FailedCase, ...]
    costs: Costs
    placement: Placement
    cluster: Cluster
    cases: int
    label_bytes: float
    output_bytes: float
    device_peak_bytes: int | None = None

    @property
    def predict_s(self) -> float:
        """Seconds that a case holds its worker's device."""
        return self.costs.stages["predict"].wall_median_s

    @property
    def node_cpus(self) -> float:
        """Processors of the node that has fewest of them, among those where predict workers go."""
        usable = self.cluster.usable
        return min(node.cpus for node in [node for node in usable if node.gpus] or usable)

    @property
    def cpus(self) -> float:
        """Processors of all nodes; without end where more nodes may come."""
        may_grow = self.cluster.most_gpus > self.cluster.gpus()
        return math.inf if may_grow else sum(node.cpus for node in self.cluster.usable)

    @property
    def time_s(self) -> float:
        """About how long the whole run would take."""
        return self.costs.time_s(self.cases, self.placement.workers, self.cpus)

    @property
    def waits_for_cpus(self) -> bool:
        """Whether the processors, and not the predict workers, set the pace."""
        return self.time_s > self.costs.time_s(self.cases, self.placement.workers, math.inf)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "cases": list(self.case_ids),
            "failures": [{"case_id": one.case_id, **one.failure.to_dict()} for one in self.failures],
            "device": self.placement.device,
            "device_peak_bytes": self.device_peak_bytes,
            "costs": self.costs.to_dict(),
            "node_cpus": self.node_cpus,
            "workers_fed_by_node": self.costs.workers_fed(self.node_cpus),
            "placement": self.placement.explain(),
            "workers": self.placement.workers,
            "estimate": {
                "time_s": round(self.time_s, 1),
                "waits_for_cpus": self.waits_for_cpus,
                "label_bytes": round(self.cases * self.label_bytes),
                "output_bytes": round(self.cases * self.output_bytes),
            },
        }


def measure_cohort(config: RunConfig, runnable: Sequence[Runnable], number: int, reporter: Reporter) -> Measured:
    """Predict some of the cases that would run into a folder that is removed again.

    Args:
        config: as of the whole run; its run folder is not touched.
        runnable: what the whole run would have to do.
        number: how many cases are predicted; they are spread over the sizes of all.
        reporter: told of every case as it ends.

    Raises:
        ConfigError: the run could not be started as configured.
        EnsembleError: a member cannot be used.
        GoatRayError: no case could be predicted, or the run broke or was stopped.
    """
    chosen = [one.case for one in spread(runnable, number)]
    ensemble = load_ensemble(config.ensemble, config.members)
    with ray_session(config.address), _scratch(config) as folder:
        placement = place_members(config, ensemble)
        RunStore(folder).write(_MANIFEST, _manifest(chosen))
        summary = predict_cohort(_small(config, folder, placement), reporter)
        return _measured(summary, placement, this_cluster(with_gpus=False), len(runnable))


def spread(runnable: Sequence[Runnable], number: int) -> list[Runnable]:
    """So many cases, at even distances by the size of their images: the middle one of as many equal groups."""
    by_size = sorted(runnable, key=lambda one: (one.image_bytes, one.case.case_id))
    number = min(number, len(by_size))
    return [by_size[(2 * place + 1) * len(by_size) // (2 * number)] for place in range(number)]


def _small(config: RunConfig, folder: str, placement: Placement) -> RunConfig:
    """The run over the chosen cases, with one worker in each pool."""
    found_already = dict.fromkeys(("sites", "references", "suffixes", "channels", "limit"))
    places = {"cohort": join(folder, _MANIFEST), "out": join(folder, "run")}
    pools = tuple(pool.model_copy(update={"workers": 1}) for pool in config.pools)
    workers = {"workers": len(placement.pools), "threads": placement.threads, "pools": pools}
    return config.model_copy(update={**found_already, **places, **workers})


def _manifest(cases: Sequence[Case]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("case_id", *MODALITIES, "reference", "site", "cohort"))
    for case in cases:
        images = (case.images[modality] for modality in MODALITIES)
        table.writerow((case.case_id, *images, case.reference, case.site, case.cohort))
    return text.getvalue().encode()


def _measured(summary: RunSummary, placement: Placement, cluster: Cluster, cases: int) -> Measured:
    if summary.stopped:
        raise GoatRayError(f"{summary.stopped}; nothing was measured")
    if not summary.ok:
        first = summary.failures[0]
        raise GoatRayError(
            f"none of the {summary.failed} case(s) tried could be predicted; {first.case_id}: "
            f"{first.failure.category}: {first.failure.message} {first.failure.hint}"
        )
    store, done = RunStore(summary.out), summary.ledger.commits
    outputs = [(key, output.size) for commit in done.values() for key, output in commit.outputs.items()]
    peaks = [timings.device_peak_bytes or 0 for timings in read_timings(store, done)]
    return Measured(
        case_ids=tuple(sorted(done)),
        failures=summary.failures,
        costs=Costs.of(read_table(store, "timings", COLUMNS)),
        placement=placement,
        cluster=cluster,
        cases=cases,
        label_bytes=sum(size for key, size in outputs if key.startswith(_LABELS)) / len(done),
        output_bytes=sum(size for _, size in outputs) / len(done),
        device_peak_bytes=max(peaks) or None,
    )


@contextmanager
def _scratch(config: RunConfig) -> Iterator[str]:
    """A folder that every worker can write to, removed at the end.

    Raises:
        ConfigError: workers may be on other machines, and nothing says what these can write to.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        with tempfile.TemporaryDirectory(prefix="goat-ray-check-") as folder:
            yield folder
        return
    if not config.out:
        raise ConfigError(
            f"the workers of the Ray cluster at {address} need a place to write to: give --out as for the run; "
            "what is measured goes beside it and is removed again"
        )
    folder = f"{absolute(config.out)}-measured-{uuid4().hex[:8]}"
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: str) -> None:
    if not is_s3(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    store = RunStore(folder)
    for key in store.list():
        store.delete(key)
