"""How commands end, as a program that reads their events is told; what they work on is not done here."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goat_ray import cli
from goat_ray.cases import FailedCase
from goat_ray.errors import Category, Failure, GoatRayError
from goat_ray.pipeline import evaluate, pseudolabel
from goat_ray.pipeline.job import RunSummary
from goat_ray.pipeline.progress import Reporter
from goat_ray.pipeline.pseudolabel import PseudoLabelSummary

FAILURE = Failure(Category.MISSING_PREDICTION, "no label map", "predict it", "evaluate")
EVALUATE = ("evaluate", "labels", "--references", "experts", "--spec", "goat2025", "--out", "out")
PSEUDO_LABEL = ("pseudo-label", "scans", "--ensemble", "e.yaml", "--labelled", "experts", "--out", "out")

Events = list[dict[str, Any]]


def summary(ok: int = 1, failed: int = 0, skipped: int = 0, stopped: str = "") -> RunSummary:
    failures = tuple(FailedCase(f"case-{number}", FAILURE, None, None) for number in range(failed))
    counts = (ok + failed + skipped, ok, failed, skipped, 0)
    return RunSummary("abc", "out", *counts, failures, ("mind the gap",), 1.0, stopped=stopped)


def works(outcome: RunSummary | BaseException) -> Callable[..., RunSummary]:
    """A job that ends like this after one case."""

    def work(_config: object, reporter: Reporter, **_: object) -> RunSummary:
        reporter.start(1, 0, "cases", "abc")
        reporter.case_ended("case-1", None)
        print("a library says hello")  # noqa: T201
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return work


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Events, str]]:
    """Exit code, events and stderr of a command."""

    def run(*arguments: str) -> tuple[int, Events, str]:
        monkeypatch.setattr(sys, "argv", ["goat-ray", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        stdout, stderr = capsys.readouterr()
        return int(str(end.value.code or 0)), [json.loads(line) for line in stdout.splitlines()], stderr

    return run


@pytest.mark.parametrize(
    ("outcome", "code", "state"),
    [
        (summary(), 0, "finished"),
        (summary(failed=2), 3, "finished"),
        (summary(skipped=4, stopped="stopped by SIGTERM"), 1, "stopped"),
    ],
)
def test_the_last_event_is_an_end_with_the_exit_code_of_the_process(
    outcome: RunSummary,
    code: int,
    state: str,
    run: Callable[..., tuple[int, Events, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_cohort", works(outcome))
    exit_code, events, stderr = run(*EVALUATE, "--json")
    assert exit_code == code
    assert [event["event"] for event in events] == ["start", "case", "end"]
    end = events[-1]
    assert (end["exit_code"], end["state"], end["message"]) == (code, state, outcome.stopped or None)
    counts = {name: end[name] for name in ("discovered", "ok", "failed", "skipped")}
    assert counts == {name: getattr(outcome, name) for name in counts}
    assert (end["run_id"], end["out"]) == ("abc", "out")
    assert "warning: mind the gap" in stderr


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (GoatRayError("the Ray pipeline failed"), "the Ray pipeline failed"),
        (KeyboardInterrupt(), "interrupted; the same command goes on from what is committed"),
    ],
)
def test_a_run_that_broke_ends_with_an_error(
    outcome: BaseException,
    message: str,
    run: Callable[..., tuple[int, Events, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_cohort", works(outcome))
    exit_code, events, stderr = run(*EVALUATE, "--json")
    assert exit_code == 1
    assert [event["event"] for event in events] == ["start", "case", "error"]
    assert (events[-1]["message"], events[-1]["exit_code"]) == (message, 1)
    assert f"error: {message}" in stderr


def test_a_bug_ends_with_an_error_too_and_keeps_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_cohort", works(KeyError("bug")))
    monkeypatch.setattr(sys, "argv", ["goat-ray", *EVALUATE, "--json"])
    with pytest.raises(KeyError, match="bug"):
        cli.main()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["message"], last["exit_code"]) == ("error", "unexpected KeyError('bug')", 1)


def test_a_request_that_cannot_be_met_is_one_error_with_code_2(run: Callable[..., tuple[int, Events, str]]) -> None:
    exit_code, (error,), stderr = run("predict", "nowhere", "--ensemble", "missing.yaml", "--out", "run", "--json")
    assert (exit_code, error["event"], error["exit_code"]) == (2, "error", 2)
    assert "missing.yaml" in error["message"]
    assert "missing.yaml" in stderr


def test_stdout_holds_no_table_and_nothing_that_a_library_prints(
    run: Callable[..., tuple[int, Events, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_cohort", works(summary(failed=1)))
    _, events, stderr = run(*EVALUATE, "--json")  # every line of it was an event
    assert len(events) == 3
    assert "a library says hello" in stderr
    assert "Failed cases" not in stderr


def test_people_keep_their_log_on_stderr(
    run: Callable[..., tuple[int, Events, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_cohort", works(summary()))
    _, _, stderr = run(*EVALUATE, "--json")
    assert "INFO 1 case to do, 0 already done" in stderr


def test_both_runs_of_pseudo_labels_are_counted_together(
    run: Callable[..., tuple[int, Events, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(_config: object, reporter: Reporter, **_: object) -> PseudoLabelSummary:
        reporter.start(1, 0, "labelled cases", "i")
        reporter.start(5, 0, "cases", "p")
        both = summary(ok=4, failed=1), summary(ok=2, skipped=3)
        return PseudoLabelSummary(*both, "out/Dataset603_BraTS", {"human": 4, "pseudo": 1}, {"gate": 1})

    monkeypatch.setattr(pseudolabel, "pseudo_label_cohort", work)
    exit_code, events, _ = run(*PSEUDO_LABEL, "--json")
    *starts, end = events
    assert exit_code == end["exit_code"] == 3
    assert [(start["run_id"], start["what"]) for start in starts] == [("i", "labelled cases"), ("p", "cases")]
    assert (end["discovered"], end["ok"], end["failed"], end["skipped"]) == (10, 6, 1, 3)
    assert (end["dataset"], end["kept"]) == ("out/Dataset603_BraTS", {"human": 4, "pseudo": 1})
    assert end["refused"] == {"gate": 1}


def test_a_dry_run_has_no_events(run: Callable[..., tuple[int, Events, str]]) -> None:
    exit_code, (error,), _ = run(*PSEUDO_LABEL, "--dry-run", "--json")
    assert (exit_code, error["event"]) == (2, "error")
    assert "--dry-run" in error["message"]


def test_one_command_with_json_leaves_the_next_as_it_was(
    run: Callable[..., tuple[int, Events, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(*EVALUATE[:3], str(tmp_path), "--json")
    sys.argv[1:] = ["status", str(tmp_path)]
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().out == ""


@pytest.fixture(autouse=True)
def _log_as_before() -> Any:
    """Commands send the package's log to stderr for good."""
    logger = logging.getLogger("goat_ray")
    before = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = before[0]
    logger.setLevel(before[1])
