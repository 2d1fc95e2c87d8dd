"""Stopping: what may finish, how long it may take, and what a signal does."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from goat_ray.errors import Category, Failure
from goat_ray.pipeline.rows import Row
from goat_ray.pipeline.stopping import Stop, StopRule

FAILURE = Failure(Category.UNREADABLE_FILE, "denied", "", "read")


def slow_rows(stop: Stop, pause_s: float) -> Iterator[Row]:
    for number in range(100):
        time.sleep(pause_s)
        yield {"case_id": f"case-{number}"}


def send(number: signal.Signals, after_s: float) -> None:
    threading.Timer(after_s, os.kill, (os.getpid(), number)).start()


def test_rows_come_to_their_end_when_nobody_asks() -> None:
    stop = Stop(0)
    assert len(list(stop.rows(slow_rows(stop, 0), set))) == 100
    assert not stop.asked


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_is_in_work_finish_and_ends_the_waiting_then(number: signal.Signals) -> None:
    stop, started = Stop(60), time.monotonic()
    with stop.on_signals():
        send(number, 0.2)
        rows = [row["case_id"] for row in stop.rows(slow_rows(stop, 0.3), lambda: {"case-0", "case-1"})]
    assert rows[:2] == ["case-0", "case-1"]
    assert len(rows) < 10
    assert stop.reason == f"stopped by {number.name}"
    assert time.monotonic() - started < 10


def test_the_time_of_grace_has_an_end() -> None:
    stop, started = Stop(0.5), time.monotonic()
    with stop.on_signals():
        send(signal.SIGTERM, 0.1)
        assert list(stop.rows(slow_rows(stop, 30), lambda: {"case-0"})) == []
    assert 0.5 <= time.monotonic() - started < 10


def test_a_second_signal_waits_for_nothing() -> None:
    stop, started = Stop(60), time.monotonic()
    with stop.on_signals():
        send(signal.SIGINT, 0.1)
        send(signal.SIGINT, 0.6)
        assert list(stop.rows(slow_rows(stop, 30), lambda: {"case-0"})) == []
    assert time.monotonic() - started < 10


def test_a_signal_between_two_rows_does_not_break_what_goes_on_there() -> None:
    stop = Stop(0)
    with stop.on_signals():
        for _ in stop.rows(slow_rows(stop, 0), set):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            done = True
    assert done


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Stop(0).on_signals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_thread_can_run_a_job_without_handlers() -> None:
    seen: list[int] = []

    def run() -> None:
        stop = Stop(0)
        with stop.on_signals():
            seen.append(len(list(stop.rows(slow_rows(stop, 0), set))))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [100]


@pytest.mark.parametrize(("failed", "asked"), [(16, False), (17, True), (20, True)])
def test_the_rule_asks_when_more_than_its_rate_of_the_first_twenty_failed(failed: int, asked: bool) -> None:
    stop = Stop(0)
    rule = StopRule(stop, 0.8)
    for number in range(20):
        assert not stop.asked
        rule.case_ended(FAILURE if number >= 20 - failed else None)
    assert stop.asked == asked
    if asked:
        assert f"{failed} of the first 20 cases tried have failed, {failed} of them with unreadable_file" in stop.reason


def test_a_rate_of_one_never_asks() -> None:
    stop = Stop(0)
    rule = StopRule(stop, 1.0)
    for _ in range(100):
        rule.case_ended(FAILURE)
    assert not stop.asked
