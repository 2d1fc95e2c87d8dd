"""A command watched from outside: what it and every process it starts take, and what lies on disk meanwhile."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from goat_ray.pipeline.memory import KEPT_MEMORY

_EVERY_S = 0.2


def as_a_worker() -> None:
    """Start this program again in the environment of a run's worker, unless it has it: glibc reads it once."""
    if not KEPT_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **KEPT_MEMORY})  # noqa: S606 - no shell is wanted


@dataclass(frozen=True, slots=True)
class Watched:
    """What a command took.

    Attributes:
        exit_code: of the command.
        wall_s: from its start to its end.
        cpu_s: user and system time of all processes, as last seen of each.
        processes: how many there were in all.
        written_bytes: what they sent to storage, what stayed in the page cache included; memory file systems are not.
        peak_disk_bytes: the most that lay in the watched folder at a time.
        peak_memory_bytes: the most that all processes shared proportionally at a time.
    """

    exit_code: int
    wall_s: float
    cpu_s: float
    processes: int
    written_bytes: int
    peak_disk_bytes: int
    peak_memory_bytes: int


def run_watched(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> Watched:
    """Run a command to its end; `folder` is where it keeps its files."""
    started = time.monotonic()
    process = subprocess.Popen(command, env=dict(environment), stdout=subprocess.DEVNULL)
    watch = _Watch(process.pid, folder)
    exit_code = process.wait()
    wall_s = time.monotonic() - started
    watch.stop()
    cpu_s, written = (sum(values) for values in zip(*watch.spent.values(), strict=True))
    return Watched(exit_code, wall_s, cpu_s, len(watch.spent), int(written), watch.peak_disk, watch.peak_memory)


class _Watch:
    def __init__(self, pid: int, folder: Path) -> None:
        self.spent: dict[tuple[int, float], tuple[float, int]] = {}
        self.peak_disk = self.peak_memory = 0
        self._root, self._folder = psutil.Process(pid), folder
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        rounds = 0
        while not self._done.wait(_EVERY_S):
            tree = self._tree()
            for process in tree:
                self._look_at(process)
            self.peak_disk = max(self.peak_disk, size_of(self._folder))
            if rounds % 10 == 0:  # costly: the kernel walks all pages
                self.peak_memory = max(self.peak_memory, sum(map(_memory, tree)))
            rounds += 1

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []

    def _look_at(self, process: psutil.Process) -> None:
        with suppress(psutil.Error), process.oneshot():
            times: Any = process.cpu_times()
            spent = times.user + times.system, process.io_counters().write_bytes
            self.spent[process.pid, process.create_time()] = spent


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, links not followed."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone by now
            total += path.lstat().st_size
    return total


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
