"""Two writers of one case, in every order that their steps can take."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from goat_ray.commits import Commit, Output, commit_key, label_key, read_commit, write_commit
from goat_ray.errors import MissingFile, StorageError
from goat_ray.ledger import read_ledger
from goat_ray.storage import FileStat, RunStore
from tests.test_commits import commit_of

CASE = "case-1"


@dataclass
class MemoryStore:
    """A run folder in memory; `step` is called before every operation."""

    root: str = "memory"
    step: Callable[[], None] = lambda: None
    files: dict[str, bytes] = field(default_factory=dict)

    def read(self, key: str) -> bytes:
        self.step()
        if key not in self.files:
            raise MissingFile(key)
        return self.files[key]

    find = RunStore.find

    def write(self, key: str, data: bytes) -> None:
        self.step()
        self.files[key] = data

    def create(self, key: str, data: bytes) -> bool:
        self.step()
        return self.files.setdefault(key, data) == data

    def list(self, prefix: str = "") -> dict[str, FileStat]:
        return {key: FileStat(len(data), "", 0) for key, data in self.files.items() if key.startswith(prefix)}

    def size(self, key: str) -> int | None:
        self.step()
        return len(self.files[key]) if key in self.files else None

    def delete(self, key: str) -> None:
        self.step()
        self.files.pop(key, None)


class Schedule:
    """Lets two threads take their steps in a given order; when it is used up, or a turn is never taken, freely."""

    def __init__(self, order: tuple[int, ...]) -> None:
        self._order = list(order)
        self._finished: set[int] = set()
        self._turn = threading.Condition()

    def step_of(self, writer: int) -> Callable[[], None]:
        def step() -> None:
            with self._turn:
                self._turn.wait_for(lambda: self._next() in (writer, None), timeout=5)
                if self._next() == writer:
                    self._order.pop(0)
                self._turn.notify_all()

        return step

    def finish(self, writer: int) -> None:
        with self._turn:
            self._finished.add(writer)
            self._turn.notify_all()

    def _next(self) -> int | None:
        while self._order and self._order[0] in self._finished:
            self._order.pop(0)
        return self._order[0] if self._order else None


def race(order: tuple[int, ...], contents: tuple[bytes, bytes]) -> tuple[dict[str, bytes], list[str]]:
    """Two writers commit one case; the files left, and how each writer ended."""
    files: dict[str, bytes] = {}
    schedule, ends = Schedule(order), ["", ""]

    def write(writer: int) -> None:
        data = contents[writer]
        store = MemoryStore(step=schedule.step_of(writer), files=files)
        try:
            write_commit(store, commit_of(CASE, data), {label_key(CASE): data})  # type: ignore[arg-type]
            ends[writer] = "ok"
        except StorageError:
            ends[writer] = "refused"
        finally:
            schedule.finish(writer)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return files, ends


ORDERS = [tuple(int(step in chosen) for step in range(12)) for chosen in itertools.combinations(range(12), 6)]


def test_no_commit_ever_vouches_for_the_labels_of_another() -> None:
    ways = set()
    for order in ORDERS[::3]:
        files, ends = race(order, (b"label A", b"label B"))
        commit = Commit.from_json(files[commit_key(CASE)])
        label = files.get(label_key(CASE))
        assert label is None or commit.outputs == {label_key(CASE): Output.of(label)}, order
        assert "ok" in ends, order
        ways.add((*ends, label))
    assert {("ok", "refused", b"label A"), ("refused", "ok", b"label B")} <= ways


def test_writers_of_equal_bytes_both_succeed() -> None:
    for order in ORDERS[::9]:
        files, ends = race(order, (b"label", b"label"))
        assert ends == ["ok", "ok"]
        assert files[label_key(CASE)] == b"label"


@pytest.mark.parametrize("late", [b"another", b"other-1"])
def test_a_writer_that_comes_late_leaves_the_first_result_alone(tmp_path, late: bytes) -> None:
    store = RunStore(str(tmp_path))
    write_commit(store, commit_of(CASE, b"label-1"), {label_key(CASE): b"label-1"})
    with pytest.raises(StorageError, match="theirs is kept"):
        write_commit(store, commit_of(CASE, late), {label_key(CASE): late})
    assert store.read(label_key(CASE)) == b"label-1"
    assert list(read_ledger(store, "run").commits) == [CASE]
    commit = read_commit(store, commit_key(CASE))
    assert commit is not None
    assert commit.outputs[label_key(CASE)] == Output.of(b"label-1")
