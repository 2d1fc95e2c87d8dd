"""Passes: who is tried again, how carefully, how often, and what ends them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from goat_ray.cases import Case
from goat_ray.commits import Suspect, write_suspect
from goat_ray.errors import Category, Failure, GoatRayError
from goat_ray.pipeline.passes import Care, run_passes
from goat_ray.pipeline.rows import NOT_STARTED, Row, encode_failure
from goat_ray.pipeline.stopping import Stop
from goat_ray.pipeline.suspicion import Suspicion
from goat_ray.storage import RunStore

CASES = [Case(f"case-{number}", {}) for number in range(6)]
POISON = "case-3"


def row(case: Case, error: str = "", fatal: str = "") -> Row:
    return {"case_id": case.case_id, "error": error, "fatal": fatal}


class Cluster:
    """Yields rows as Ray would: a case of `deadly` takes its worker along, and the case queued behind it too."""

    def __init__(self, deadly: Callable[[str, int], bool]) -> None:
        self.passes: list[tuple[list[str], Care]] = []
        self.tries: Counter[str] = Counter()
        self._deadly = deadly

    def __call__(self, cases: Sequence[Case], care: Care) -> Iterator[Row]:
        self.passes.append(([case.case_id for case in cases], care))
        queue = list(cases)
        while queue:
            case = queue.pop(0)
            self.tries[case.case_id] += 1
            if self._deadly(case.case_id, self.tries[case.case_id]):
                if queue and not care.careful:
                    queue.pop(0)
                continue
            yield row(case)


def run(store: RunStore, cluster: Cluster, attempts: int = 3) -> tuple[list[str], list[str]]:
    ended: list[str] = []
    lost = run_passes(
        cluster, CASES, attempts, Suspicion(store), Stop(0), lambda case_id, _failure: ended.append(case_id)
    )
    return sorted(ended), [case.case_id for case in lost]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def test_a_deadly_case_is_tried_three_times_and_its_neighbours_are_done(store: RunStore) -> None:
    cluster = Cluster(lambda case_id, _: case_id == POISON)
    ended, lost = run(store, cluster)
    assert (len(ended), lost) == (5, [POISON])
    assert cluster.tries[POISON] == 3
    assert cluster.passes == [
        ([case.case_id for case in CASES], Care()),
        ([POISON, "case-4"], Care(careful=True)),
        ([POISON], Care(careful=True, alone=True)),
    ]


def test_a_case_that_lost_its_worker_by_chance_is_done_in_the_next_pass(store: RunStore) -> None:
    cluster = Cluster(lambda case_id, tries: case_id == POISON and tries == 1)
    ended, lost = run(store, cluster)
    assert (len(ended), lost, cluster.tries[POISON]) == (6, [], 2)


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_a_case_is_never_tried_more_often_than_allowed(store: RunStore, attempts: int) -> None:
    cluster = Cluster(lambda case_id, _: case_id == POISON)
    _, lost = run(store, cluster, attempts)
    assert lost == [POISON] if attempts > 1 else POISON in lost
    assert cluster.tries[POISON] == attempts


def test_losses_count_over_drivers_that_died(store: RunStore) -> None:
    for _ in range(2):
        write_suspect(store, Suspect(POISON, Category.WORKER_LOST, "", "unknown"))
    cluster = Cluster(lambda case_id, _: case_id == POISON)
    ended, lost = run(store, cluster)
    assert (len(ended), lost, cluster.tries[POISON]) == (5, [POISON], 1)
    assert cluster.passes[-1] == ([POISON], Care(careful=True, alone=True))


def test_a_failed_case_has_ended(store: RunStore) -> None:
    failure = Failure(Category.EMPTY_IMAGE, "it is zero", "", "read")
    told: list[tuple[str, Failure | None]] = []
    stream = lambda cases, _care: (row(case, encode_failure(failure)) for case in cases)  # noqa: E731
    lost = run_passes(stream, CASES[:1], 3, Suspicion(store), Stop(0), lambda *end: told.append(end))
    assert (lost, told) == ([], [("case-0", failure)])


def test_anything_unexpected_stops_the_run(store: RunStore) -> None:
    stream = lambda cases, _care: (row(case, fatal="stage read: a bug") for case in cases)  # noqa: E731
    with pytest.raises(GoatRayError, match="a bug"):
        run_passes(stream, CASES, 3, Suspicion(store), Stop(0), lambda *_: None)


def test_after_a_stop_nobody_is_accused_and_nobody_is_lost(store: RunStore) -> None:
    stop = Stop(0)

    def stream(cases: Sequence[Case], _care: Care) -> Iterator[Row]:
        yield row(cases[0])
        stop.ask("enough")
        yield row(cases[1], fatal=NOT_STARTED)

    suspicion = Suspicion(store)
    ended: list[str] = []
    assert run_passes(stream, CASES, 1, suspicion, stop, lambda case_id, _: ended.append(case_id)) == []
    assert ended == ["case-0"]
    assert store.list("suspects") == {}


def test_what_a_worker_says_of_its_end_is_what_its_case_fails_of(store: RunStore) -> None:
    def deadly(case_id: str, _tries: int) -> bool:
        if case_id == POISON:
            write_suspect(store, Suspect(case_id, Category.TIMED_OUT, "stage predict did not finish", "predict"))
        return case_id == POISON

    run(store, Cluster(deadly))
    suspicion = Suspicion(store)
    assert suspicion.losses(POISON) == 3
    failure = suspicion.failure(POISON)
    assert (failure.category, failure.stage, failure.attempts) == (Category.TIMED_OUT, "predict", 3)
    assert failure.message.startswith("stage predict did not finish")
    assert "case_timeout_s" in failure.hint


def test_a_case_without_a_word_fails_as_worker_lost(store: RunStore) -> None:
    run(store, Cluster(lambda case_id, _: case_id == POISON))
    failure = Suspicion(store).failure(POISON)
    assert (failure.category, failure.attempts) == (Category.WORKER_LOST, 3)
    assert "out-of-memory killer" in failure.hint


def test_who_has_ended_is_no_longer_suspected(store: RunStore) -> None:
    for case_id in ("case-1", "case-2"):
        write_suspect(store, Suspect(case_id, Category.WORKER_LOST, "", "unknown"))
    suspicion = Suspicion(store)
    suspicion.acquit(["case-1", "case-5"])
    assert (suspicion.losses("case-1"), suspicion.losses("case-2")) == (0, 1)
    assert (Suspicion(store).losses("case-1"), Suspicion(store).losses("case-2")) == (0, 1)
