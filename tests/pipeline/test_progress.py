"""What is shown while a run goes on."""

import io
import logging

import pytest
from rich.console import Console

from goat_ray.errors import Category, Failure
from goat_ray.pipeline.progress import BarReporter, LogReporter

FAILURE = Failure(Category.EMPTY_IMAGE, "t1c is zero", "export it again", "read")


def test_a_log_gets_the_failures_and_the_end_but_no_line_per_case(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "goat_ray")
    reporter = LogReporter()
    reporter.start(3, already_done=2, what="cases")
    reporter.case_ended("case-1", None)
    reporter.case_ended("case-2", FAILURE)
    reporter.case_ended("case-3", None)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "3 cases to do, 2 already done"
    assert lines[1] == "case case-2 failed in read: empty_image: t1c is zero"
    assert lines[2].startswith("3/3 cases, 1 failed, ")
    assert len(lines) == 3


def test_a_bar_shows_nothing_before_there_is_work() -> None:
    screen = io.StringIO()
    with BarReporter(Console(file=screen, force_terminal=True, width=100)):
        pass
    assert "cases" not in screen.getvalue()


def test_a_bar_counts_cases_and_names_the_failed_ones() -> None:
    screen = io.StringIO()
    with BarReporter(Console(file=screen, force_terminal=True, width=100, no_color=True)) as reporter:
        reporter.start(2, already_done=1, what="cases")
        reporter.case_ended("case-1", FAILURE)
        reporter.case_ended("case-2", None)
    shown = screen.getvalue()
    assert "case-1: empty_image: t1c is zero" in shown
    assert "cases (1 already done)" in shown
    assert "2/2" in shown


def test_a_bar_takes_an_id_for_text_and_not_for_markup() -> None:
    screen = io.StringIO()
    with BarReporter(Console(file=screen, force_terminal=True, width=100, no_color=True)) as reporter:
        reporter.start(1, already_done=0, what="cases")
        reporter.case_ended("a[/b][bold]", FAILURE)
    assert "a[/b][bold]: empty_image" in screen.getvalue()


def test_the_number_of_failed_cases_stands_beside_the_bar() -> None:
    screen = io.StringIO()
    with BarReporter(Console(file=screen, force_terminal=True, width=100, no_color=True)) as reporter:
        reporter.start(1, already_done=0, what="cases")
        reporter.case_ended("case-1", FAILURE)
    shown = screen.getvalue()
    assert "1 failed" in shown
