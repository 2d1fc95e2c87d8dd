"""The lines that programs read."""

import io
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from goat_ray.errors import Category, Failure
from goat_ray.pipeline import events as module
from goat_ray.pipeline.events import Events

FAILURE = Failure(Category.EMPTY_IMAGE, "t1c is zero", "export it again", "read")


class Stream(io.StringIO):
    """A stream that knows what would be lost if the process ended."""

    flushed = 0

    def flush(self) -> None:
        self.flushed = len(self.getvalue())


@pytest.fixture
def stream() -> Stream:
    return Stream()


def lines(stream: Stream) -> list[dict[str, Any]]:
    assert stream.flushed == len(stream.getvalue())
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_event_is_one_line_that_is_there_at_once(stream: Stream) -> None:
    events = Events(stream)
    events.start(2, already_done=1, what="cases", run_id="abc")
    assert [line["event"] for line in lines(stream)] == ["start"]
    events.case_ended("case-1", FAILURE)
    events.case_ended("case-2", None)
    events.end("", {"ok": 1, "failed": 1}, 3)
    told = lines(stream)
    assert all(line.pop("time_utc").endswith("+00:00") for line in told)
    assert told.pop().pop("elapsed_s") >= 0
    assert told == [
        {"event": "start", "run_id": "abc", "what": "cases", "to_do": 2, "already_done": 1},
        {
            "event": "case",
            "case_id": "case-1",
            "outcome": "failed",
            "category": "empty_image",
            "stage": "read",
            "message": "t1c is zero",
        },
        {"event": "case", "case_id": "case-2", "outcome": "ok", "category": None, "stage": None, "message": None},
    ]


def test_progress_comes_at_most_every_ten_seconds(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    events = Events(stream)
    events.start(100, already_done=0, what="cases", run_id="abc")
    for second in range(1, 26):
        now[0] = float(second)
        events.case_ended(f"case-{second}", FAILURE if second == 3 else None)
    progress = [line for line in lines(stream) if line["event"] == "progress"]
    assert [(line["done"], line["failed"], line["remaining"]) for line in progress] == [(10, 1, 90), (20, 1, 80)]
    assert all(line["cases_per_h"] > 0 and math.isfinite(line["eta_s"]) for line in progress)


def test_a_rate_that_is_not_known_yet_is_null(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    events = Events(stream)
    events.start(2, already_done=0, what="cases", run_id="abc")
    now[0] = 60.0
    events.case_ended("case-1", Failure(Category.MISSING_MODALITY, "no t1n", "", "discover"))
    told = lines(stream)[-1]
    assert (told["event"], told["cases_per_h"], told["eta_s"]) == ("progress", None, None)


def test_nothing_comes_after_the_end(stream: Stream) -> None:
    events = Events(stream)
    events.end("stopped by SIGINT", {"out": "run"}, 1)
    events.error("stopped by SIGINT. Tables are written", 1)
    (told,) = lines(stream)
    assert (told["event"], told["state"], told["message"]) == ("end", "stopped", "stopped by SIGINT")
    assert (told["out"], told["exit_code"]) == ("run", 1)


def test_an_error_is_the_last_line_too(stream: Stream) -> None:
    events = Events(stream)
    events.error("no Ray cluster could be reached", 1)
    events.end("", {}, 0)
    (told,) = lines(stream)
    assert (told["event"], told["message"], told["exit_code"]) == ("error", "no Ray cluster could be reached", 1)


@pytest.mark.parametrize("case_id", ["two\nlines", 'quoted"', "caf\u00e9", "\udcff"])
def test_whatever_an_id_holds_the_line_is_ascii_and_one(case_id: str, stream: Stream) -> None:
    Events(stream).case_ended(case_id, None)
    (told,) = lines(stream)
    assert told["case_id"] == case_id
    assert stream.getvalue().isascii()


def test_a_reader_that_goes_away_neither_ends_the_run_nor_changes_its_exit_code() -> None:
    script = (
        "import sys; from goat_ray.pipeline.events import Events; events = Events(sys.stdout); input();"
        "[events.case_ended(f'case-{n}', None) for n in range(9)]; print('work is done', file=sys.stderr); sys.exit(3)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate("go\n", timeout=60)
    assert (process.returncode, said) == (3, "work is done\n")
