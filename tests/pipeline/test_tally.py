"""Counts, rates and what is left."""

import pytest

from goat_ray.errors import Category, Failure
from goat_ray.pipeline.tally import Tally, counted

FAILURE = Failure(Category.EMPTY_IMAGE, "t1c is zero", "export it again", "read")
FOUND_EARLY = Failure(Category.MISSING_MODALITY, "no t1n", "add it", "discover")


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ended(tally: Tally, clock: Clock, *after_s: float) -> None:
    for seconds in after_s:
        clock.s += seconds
        tally.count(None)


def test_before_the_first_case_there_are_counts_and_no_rate(clock: Clock) -> None:
    tally = Tally(3, "cases", clock)
    assert str(tally) == "0/3 cases, 0 failed, 3 left"
    assert (tally.cases_per_h, tally.eta_s) == (None, None)


def test_the_line_has_done_failed_left_rate_and_time_of_the_rest(clock: Clock) -> None:
    tally = Tally(10, "labelled cases", clock)
    ended(tally, clock, 30, 30)
    clock.s += 30
    tally.count(FAILURE)
    assert str(tally) == "3/10 labelled cases, 1 failed, 7 left, 120 cases/h, ETA 0:03:30"


def test_a_slow_run_has_a_rate_with_a_decimal(clock: Clock) -> None:
    tally = Tally(2, "cases", clock)
    ended(tally, clock, 1500)
    assert "2.4 cases/h, ETA 0:25:00" in str(tally)


def test_the_time_of_the_rest_runs_down_while_no_case_ends_and_stops_at_zero(clock: Clock) -> None:
    tally = Tally(2, "cases", clock)
    ended(tally, clock, 60)
    left = [tally.eta_s]
    for _ in range(2):
        clock.s += 40
        left.append(tally.eta_s)
    assert left == [60, 20, 0]


def test_cases_that_discovery_failed_are_no_work_and_say_nothing_of_the_rate(clock: Clock) -> None:
    tally = Tally(1000, "cases", clock)
    for _ in range(500):
        tally.count(FOUND_EARLY)
    assert (tally.done, tally.failed, tally.remaining, tally.cases_per_h) == (500, 500, 500, None)
    ended(tally, clock, 36)
    assert tally.cases_per_h == 100


def test_the_rate_is_that_of_the_last_ten_minutes_and_older_ends_are_forgotten(clock: Clock) -> None:
    tally = Tally(5000, "cases", clock)
    ended(tally, clock, *[1.0] * 2000)
    ended(tally, clock, *[100.0] * 10)
    assert tally.cases_per_h == 36
    assert len(tally._ends) < 20


@pytest.mark.parametrize(
    ("number", "what", "words"),
    [
        (0, "cases", "0 cases"),
        (1, "cases", "1 case"),
        (1, "labelled cases", "1 labelled case"),
        (2, "cases", "2 cases"),
    ],
)
def test_one_case_is_no_cases(number: int, what: str, words: str) -> None:
    assert counted(number, what) == words
