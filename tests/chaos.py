"""Runs that are disturbed on purpose, and what must be true of them afterwards.

`python -m tests.chaos CONFIG.json` is a driver: it carries out a prediction with members that cost nothing.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from goat_ray.cases import Case
from goat_ray.config import RunConfig
from goat_ray.labels import REGIONS
from goat_ray.pipeline import predict
from goat_ray.pipeline.dataset import Stages
from goat_ray.pipeline.job import RunSummary
from goat_ray.pipeline.rows import Row
from goat_ray.pipeline.stages import Predict, PredictSettings, Read
from goat_ray.storage import RunStore, list_files, read_bytes
from tests.cohorts import write_case

POISON = "case-zz-poison"  # last in order, so that a limit leaves it out
PAUSE_S = float(os.environ.get("CHAOS_PAUSE_S", "0.2"))
READ_PAUSE_S = float(os.environ.get("CHAOS_READ_PAUSE_S", "0"))
STABLE_TABLES = ("cases", "regions", "lesions", "components", "failures")


class StubRead(Read):
    """Reading that takes its time and tells of each case."""

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        log(self.surroundings.root, "read", case.case_id)
        time.sleep(READ_PAUSE_S)
        return super()._work(case, row, context)


class ThresholdPredict(Predict):
    """A worker without members: a threshold makes the labels."""

    def __init__(self, settings: PredictSettings) -> None:
        self._settings = settings

    def _work(self, _case: Case, row: Row, context: dict[str, Any]) -> Row:
        context["confidence"] = {"entropy": 0.5, "margin": 0.5, **dict.fromkeys(REGIONS, 0.9)}
        context["agreement"] = {}
        context["members"] = ["Stub"]
        return {"labels": np.digitize(row["image_0"][0], (1.0, 1.5, 2.0)).astype(np.uint8)}


class StubPredict(ThresholdPredict):
    """The same, which takes its time and tells of each case; the poisonous one ends the process."""

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        log(self._settings.surroundings.root, "predict", case.case_id)
        if case.case_id == POISON:
            log(self._settings.surroundings.root, "kill", case.case_id)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PAUSE_S)
        return super()._work(case, row, context)


def journal(root: str) -> Path:
    """Where all processes of this machine note what happens to the run in `root`."""
    return Path(tempfile.gettempdir()) / f"goat-ray-chaos-{hashlib.sha256(root.encode()).hexdigest()[:16]}.log"


def journals() -> list[Path]:
    """Every journal that is there."""
    return list(Path(tempfile.gettempdir()).glob("goat-ray-chaos-*.log"))


def log(root: str, event: str, what: str) -> None:
    """Add one line to the journal; short appends are atomic."""
    with journal(root).open("a") as file:
        file.write(f"{time.time():.6f} {event} {what}\n")


def events(root: str) -> list[tuple[float, str, str]]:
    """Every line of the journal, in order of time."""
    lines = (line.split(maxsplit=2) for line in journal(root).read_text().splitlines())
    return sorted((float(moment), event, what) for moment, event, what in lines)


def predicted_without_need(root: str) -> list[str]:
    """Cases that were predicted again although nothing was killed in between."""
    kills = [moment for moment, event, _ in events(root) if event == "kill"]
    times = defaultdict(list)
    for moment, event, what in events(root):
        if event == "predict":
            times[what].append(moment)
    return [
        case_id
        for case_id, moments in times.items()
        for one, next_one in pairwise(moments)
        if not any(one < kill <= next_one for kill in kills)
    ]


def write_cohort(folder: Path, healthy: int, corrupt: int) -> None:
    """Healthy cases of a few different phantoms, corrupt ones whose t1c breaks off, and the poisonous one."""
    names = [f"case-{number:03d}" for number in range(healthy)]
    broken = [f"case-broken-{number}" for number in range(corrupt)]
    models = [write_case(folder / "models", f"model-{seed}", seed=seed) for seed in range(min(healthy, 4))]
    for number, name in enumerate([*names, *broken, POISON]):
        model = models[number % len(models)]
        (folder / name).mkdir()
        for path in model.iterdir():
            shutil.copyfile(path, folder / name / path.name.replace(model.name, name))
    for name in broken:
        path = folder / name / f"{name}-t1c.nii.gz"
        path.write_bytes(path.read_bytes()[:3000])
    shutil.rmtree(folder / "models")


def upload(folder: Path, uri: str) -> None:
    """Copy a folder's files to S3."""
    store = RunStore(uri)
    for key in list_files(str(folder)):
        store.write(key, read_bytes(str(folder / key)))


def lasting(root: str) -> dict[str, bytes]:
    """Everything in a run folder that must not depend on what happened to the run."""
    store = RunStore(root)
    keys = [key for folder in ("labels", "thumbnails", "commits", "errors") for key in store.list(folder)]
    return {key: store.read(key) for key in [*keys, *(f"tables/{name}.parquet" for name in STABLE_TABLES)]}


def carry_out(config: RunConfig) -> RunSummary:
    """`predict_cohort` with workers that cost nothing."""
    genuine = predict.stages_of

    def stubs(prediction: predict.Prediction, device: str, threads: int) -> Stages:
        stages = genuine(prediction, device, threads, StubPredict)
        read = stages.read
        return replace(stages, read=StubRead(read.preprocessings, read.thumbnails, read.surroundings))

    predict.stages_of = stubs  # type: ignore[assignment]
    try:
        return predict.predict_cohort(config)
    finally:
        predict.stages_of = genuine


def stage_workers(ancestor: int) -> list[psutil.Process]:
    """Processes below `ancestor` that run a stage of the pipeline right now."""
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            name = process.cmdline()[0]
        except (psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
            continue
        if name.startswith("ray::") and any(stage in name for stage in ("Map", "_case")):
            found.append(process)
    return found


@contextmanager
def killer(root: str, seed: int, times: int, pause_s: float, ancestor: int | None = None) -> Iterator[list[str]]:
    """Kills random workers from the first prediction on, until it has done so `times` times; tells whom."""
    rng, killed, over = random.Random(seed), list[str](), threading.Event()

    def work() -> None:
        while len(killed) < times and not over.wait(pause_s):
            workers = stage_workers(ancestor or os.getpid())
            if not workers or not journal(root).exists():
                continue
            victim = rng.choice(workers)
            try:
                name = victim.cmdline()[0]
                victim.kill()
            except (psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
                continue
            killed.append(name)
            log(root, "kill", name)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    summary = carry_out(RunConfig.model_validate_json(Path(sys.argv[1]).read_text()))
    sys.exit(1 if summary.stopped else 3 if summary.failed else 0)
