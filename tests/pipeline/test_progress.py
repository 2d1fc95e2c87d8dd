"""What is shown while a run goes on."""

import io
import logging
import re
import time

import pytest
from rich.console import Console

from goat_ray.errors import Category, Failure
from goat_ray.pipeline.logs import CaseFormatter, CurrentStderr
from goat_ray.pipeline.progress import BarReporter, LogReporter, Several

FAILURE = Failure(Category.EMPTY_IMAGE, "t1c is zero", "export it again", "read")


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, no_color=True)


def shown_on(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_the_failures_and_the_end_but_no_line_per_case(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "goat_ray")
    reporter = LogReporter()
    reporter.start(3, already_done=2, what="cases", run_id="abc")
    reporter.case_ended("case-1", None)
    reporter.case_ended("case-2", FAILURE)
    reporter.case_ended("case-3", None)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "3 cases to do, 2 already done"
    assert lines[1] == "failed: empty_image: t1c is zero"
    assert lines[2].startswith("3/3 cases, 1 failed, 0 left, ")
    assert len(lines) == 3


def test_a_line_of_a_failure_names_the_case_and_its_stage_as_the_workers_lines_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.handler.setFormatter(CaseFormatter("%H"))
    reporter = LogReporter()
    reporter.start(9, already_done=0, what="cases", run_id="abc")
    reporter.case_ended("case-2", FAILURE)
    assert "WARNING case=case-2 stage=read failed: empty_image: t1c is zero\n" in caplog.text


def test_a_single_case_is_not_called_cases(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "goat_ray")
    reporter = LogReporter()
    reporter.start(1, already_done=0, what="cases", run_id="abc")
    reporter.case_ended("case-1", None)
    first, last = (record.getMessage() for record in caplog.records)
    assert first == "1 case to do, 0 already done"
    assert last.startswith("1/1 case, 0 failed, 0 left, ")


def test_a_bar_shows_nothing_before_there_is_work() -> None:
    screen = terminal()
    with BarReporter(screen):
        pass
    assert "case" not in shown_on(screen)


def test_a_bar_tells_done_failed_left_rate_and_time_and_names_the_failed_cases() -> None:
    screen = terminal()
    with BarReporter(screen) as reporter:
        reporter.start(2, already_done=1, what="cases", run_id="abc")
        reporter.case_ended("case-1", FAILURE)
        reporter.case_ended("case-2", None)
    shown = shown_on(screen)
    assert "2 cases to do, 1 already done" in shown
    assert "failed case-1: empty_image: t1c is zero" in shown
    last = shown.rpartition("2/2 cases")[2]
    assert last.startswith(", 1 failed, 0 left, ")
    assert "cases/h, ETA 0:00:00" in last


def test_a_bar_says_that_none_failed() -> None:
    screen = terminal()
    with BarReporter(screen) as reporter:
        reporter.start(1, already_done=0, what="cases", run_id="abc")
        reporter.case_ended("case-1", None)
    assert "1/1 case, 0 failed, 0 left" in shown_on(screen)


def test_the_line_of_a_large_cohort_fits_a_small_terminal() -> None:
    screen = terminal(width=80)
    with BarReporter(screen) as reporter:
        reporter.start(10000, already_done=0, what="cases", run_id="abc")
        time.sleep(0.1)  # a rate of five digits
        reporter.case_ended("case-1", None)
    assert re.search(r"1/10000 cases, .+ ETA [\d:]+ .+ [\d:]+\n", shown_on(screen))


def test_a_log_line_stays_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal()
    monkeypatch.setattr("sys.stderr", screen.file)
    logger = logging.getLogger("goat_ray.test_progress")
    logger.addHandler(handler := CurrentStderr(CaseFormatter("%H")))
    try:
        with BarReporter(screen) as reporter:
            reporter.start(1, already_done=0, what="cases", run_id="abc")
            logger.warning("a worker was lost")
            assert "a worker was lost\n" in shown_on(screen)
            assert "0/1 case" in shown_on(screen).rpartition("a worker was lost")[2]
    finally:
        logger.removeHandler(handler)


def test_a_bar_takes_an_id_for_text_and_not_for_markup() -> None:
    screen = terminal()
    with BarReporter(screen) as reporter:
        reporter.start(1, already_done=0, what="cases", run_id="abc")
        reporter.case_ended("a[/b][bold]", FAILURE)
    assert "a[/b][bold]: empty_image" in shown_on(screen)


def test_several_reporters_are_told_the_same() -> None:
    screens = [terminal(), terminal()]
    with BarReporter(screens[0]) as one, BarReporter(screens[1]) as other:
        both = Several(one, other)
        both.start(1, already_done=0, what="cases", run_id="abc")
        both.case_ended("case-1", None)
    assert all("1/1 case" in shown_on(screen) for screen in screens)
