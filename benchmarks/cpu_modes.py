"""What a CPU can do faster: memory kept, kernels, batches, bfloat16, compiled networks; and threads.

Every mode runs in a process of its own, first once cold, then for the figures. Labels are compared with those of the
plain form: InstanceNorm in float32, one window at a time. The thread settings are those of workers side by side.

    python -m benchmarks.cpu_modes [--quick] [--members ResNetM,ResNetL] [--threads 2]
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks._agreement import agreement
from benchmarks._record import record
from goat_ray.demo.cohort import EMBEDDED_ENSEMBLE
from goat_ray.demo.phantoms import BENCHMARK_SEEDS, SITES, TUMOURS, make_phantom
from goat_ray.errors import EnsembleError
from goat_ray.labels import LabelMap
from goat_ray.pipeline.memory import KEPT_MEMORY

REAL_SHAPE = (240, 240, 155)
MEMBERS = ("ResNetM", "ResNetL")
"""One of two windows a case and one of a single one. U-Mamba's scan is a loop that takes minutes to compile."""

FIRST_SEED = 300


@dataclass(frozen=True, slots=True)
class Mode:
    """A form of the networks, and the windows that pass them together."""

    norm: str = "group"
    dtype: str = "float32"
    batch: int = 1
    is_compiled: bool = False
    is_channels_last: bool = False
    keeps_memory: bool = True

    @property
    def name(self) -> str:
        """How the result calls it."""
        form = " compiled" * self.is_compiled + " channels last" * self.is_channels_last
        return f"{self.dtype} {self.norm} batch {self.batch}{form}{', memory kept' * self.keeps_memory}"


PLAIN = Mode("instance", keeps_memory=False)
DEFAULT = Mode()
BFLOAT16 = Mode(dtype="bfloat16")
MODES = (
    PLAIN,
    replace(PLAIN, keeps_memory=True),
    replace(DEFAULT, keeps_memory=False),
    DEFAULT,
    replace(DEFAULT, batch=4),
    replace(DEFAULT, is_compiled=True),
    replace(DEFAULT, is_compiled=True, is_channels_last=True),
    BFLOAT16,
    replace(BFLOAT16, batch=4),
    replace(BFLOAT16, is_channels_last=True),
    replace(BFLOAT16, is_compiled=True),
    replace(BFLOAT16, is_compiled=True, is_channels_last=True),
)


@dataclass(frozen=True, slots=True)
class Workers:
    """Processes side by side, each with its threads and OpenMP's way to wait (None: its own)."""

    processes: int
    threads: int
    wait_policy: str | None = "passive"
    interop: int | None = None


WORKERS = (
    Workers(1, 1),
    Workers(1, 2),
    Workers(1, 2, None),
    Workers(1, 2, "active"),
    Workers(1, 2, interop=1),
    Workers(2, 1),
    Workers(2, 2),
    Workers(2, 2, None),
    Workers(2, 2, "active"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one member, one case, three modes")
    parser.add_argument("--members", default=",".join(MEMBERS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(Workers(**json.loads(arguments.worker)))
        return
    codes = ("ResNetL",) if arguments.quick else tuple(arguments.members.split(","))
    cases = 1 if arguments.quick else arguments.cases
    modes = [PLAIN, DEFAULT, BFLOAT16] if arguments.quick else MODES
    load = [round(value, 2) for value in os.getloadavg()]
    rows = []
    plain: list[LabelMap] = []
    for mode in modes:
        row = measured(mode, codes, arguments.threads, cases)
        labels = row.pop("labels", None)
        plain = plain or labels
        rows.append({**row, "agreement": agreement(labels, plain) if labels else None})
        print(rows[-1], flush=True)
    threads = [side_by_side(workers) for workers in (WORKERS[:2] if arguments.quick else WORKERS)]
    payload = {
        "members": codes,
        "cases": cases,
        "shape_xyz": REAL_SHAPE,
        "threads_used": arguments.threads,
        "load_average_before": load,
        "modes": rows,
        "workers": threads,
    }
    record("cpu_modes", payload, ("numpy", "torch", "dynamic-network-architectures"), is_quick=arguments.quick)


def measured(mode: Mode, codes: tuple[str, ...], threads: int, cases: int) -> dict[str, Any]:
    """One mode in a fresh process; a compiler's processes and cache are its own too."""
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, KEPT_MEMORY if mode.keeps_memory else {}):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                return pool.submit(run, mode, codes, threads, cases).result()
            except (RuntimeError, EnsembleError) as error:  # no compiler, or a network that it does not take
                return {"mode": mode.name, "error": str(error).splitlines()[0]}


def run(mode: Mode, codes: tuple[str, ...], threads: int, cases: int) -> dict[str, Any]:
    """Members over cases: CPU and wall seconds per case, what the first call cost beyond that, peak memory, labels."""
    import torch

    from goat_ray.members.ensemble import load_ensemble
    from goat_ray.members.merge import decode

    torch.set_num_threads(threads)
    members = load_ensemble(EMBEDDED_ENSEMBLE, codes).members
    images = [head(place, members[0].preprocessing) for place in range(cases)]
    networks = [prepared(member, mode) for member in members]
    spent, labels = [], []
    with torch.inference_mode():
        for image in [images[0], *images]:
            started, cpu_started = time.perf_counter(), _cpu_s()
            total = sum(probabilities(m, n, image, mode.batch) for m, n in zip(members, networks, strict=True))
            labels.append(decode(total / len(members), "majority").numpy())
            spent.append((_cpu_s() - cpu_started, time.perf_counter() - started))
    per_case = [statistics.median(values) for values in zip(*spent[1:], strict=True)]
    return {
        "mode": mode.name,
        **asdict(mode),
        "cpu_s_per_case": round(per_case[0], 2),
        "wall_s_per_case": round(per_case[1], 2),
        "warm_up_cpu_s": round(spent[0][0] - spent[1][0], 2),
        "warm_up_wall_s": round(spent[0][1] - spent[1][1], 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "labels": labels[1:],
    }


def head(place: int, spec: Any) -> np.ndarray:
    """A real-size phantom as the members read it."""
    from goat_ray.demo.train import example_of

    tumour, site = tuple(TUMOURS)[place % len(TUMOURS)], tuple(SITES)[place % len(SITES)]
    phantom = make_phantom(BENCHMARK_SEEDS[FIRST_SEED + place], REAL_SHAPE, tumour, site)
    return example_of(phantom, spec).image


def prepared(member: Any, mode: Mode) -> Any:
    """A member's network in the form that a mode asks for."""
    import torch

    from goat_ray.members.ensemble import load_network
    from goat_ray.members.forms import compiled
    from goat_ray.members.kernels import in_bfloat16, with_group_norm

    network = load_network(member)
    if mode.norm == "group":
        network = with_group_norm(network)
    if mode.dtype == "bfloat16":
        network = in_bfloat16(network)
    if mode.is_channels_last:
        network = network.to(memory_format=torch.channels_last_3d)
        network.register_forward_pre_hook(lambda _, windows: (windows[0].to(memory_format=torch.channels_last_3d),))
    return compiled(network, torch.device("cpu")) if mode.is_compiled else network


def probabilities(member: Any, network: Any, image: np.ndarray, batch: int) -> Any:
    """Class probabilities of one member, blended as by default."""
    import torch

    from goat_ray.members.blending import blend, tile
    from goat_ray.members.merge import canonical_probabilities

    tiling = tile(image, member.channel_index, member.patch_size, "exact", torch.device("cpu"))
    logits = blend(tiling, network, heads=len(member.scheme.channels), windows_per_batch=batch)
    return canonical_probabilities(logits, member.scheme)


def side_by_side(workers: Workers) -> dict[str, Any]:
    """Processes that start together: windows of one member a minute, and CPU seconds of each window."""
    environment = {**os.environ, **KEPT_MEMORY, "OMP_NUM_THREADS": str(workers.threads)}
    environment.pop("OMP_WAIT_POLICY", None)
    if workers.wait_policy:
        environment["OMP_WAIT_POLICY"] = workers.wait_policy
    command = [sys.executable, "-m", "benchmarks.cpu_modes", "--worker", json.dumps(asdict(workers))]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(workers.processes)
    ]
    told = [json.loads(process.communicate()[0]) for process in started]
    wall_s = max(one["ended"] for one in told) - min(one["started"] for one in told)
    windows = sum(one["windows"] for one in told)
    row = {
        **asdict(workers),
        "windows_per_minute": round(60 * windows / wall_s, 2),
        "cpu_s_per_window": round(sum(one["cpu_s"] for one in told) / windows, 2),
    }
    print(row, flush=True)
    return row


def work(workers: Workers, windows: int = 3) -> None:
    """Pass random windows through the default form of one member and tell what it took, as JSON."""
    import torch

    from goat_ray.members.ensemble import load_ensemble

    torch.set_num_threads(workers.threads)
    if workers.interop:
        torch.set_num_interop_threads(workers.interop)
    member = load_ensemble(EMBEDDED_ENSEMBLE, ("ResNetL",)).members[0]
    network, window = prepared(member, DEFAULT), torch.randn(1, 4, *member.patch_size)
    with torch.inference_mode():
        network(window)
        started, cpu_started = time.time(), _cpu_s()
        for _ in range(windows):
            network(window)
    told = {"started": started, "ended": time.time(), "cpu_s": _cpu_s() - cpu_started, "windows": windows}
    print(json.dumps(told))


def _cpu_s() -> float:
    """Of this process and of those it waited for, compilers among them."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(spent.ru_utime + spent.ru_stime for spent in map(resource.getrusage, who))


if __name__ == "__main__":
    main()
