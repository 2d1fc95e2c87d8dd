"""What a program is told while a run is going on: one JSON object a line. The README lists every event and its fields.

Names of events and fields are kept; new ones may be added.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

from goat_ray.errors import Failure
from goat_ray.pipeline.progress import SECONDS_BETWEEN_LINES
from goat_ray.pipeline.tally import Tally


class Events:
    """A reporter that writes events; `end` or `error` is the last, and the others of them are not written any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tally = Tally(0)
        self._began = self._last_progress = time.monotonic()
        self._closed = False

    def start(self, total: int, already_done: int, what: str, run_id: str) -> None:
        """A run begins, or goes on; see `Reporter`. A command may do several, one after the other."""
        self._tally = Tally(total)
        self._last_progress = time.monotonic()
        self._write("start", run_id=run_id, what=what, to_do=total, already_done=already_done)

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """See `Reporter`."""
        self._tally.count(failure)
        self._write(
            "case",
            case_id=case_id,
            outcome="failed" if failure else "ok",
            category=failure and str(failure.category),
            stage=failure and failure.stage,
            message=failure and failure.message,
        )
        now = time.monotonic()
        if now - self._last_progress >= SECONDS_BETWEEN_LINES:
            self._last_progress = now
            self._progress()

    def end(self, stopped: str, facts: Mapping[str, Any], exit_code: int) -> None:
        """The command has come to its end.

        Args:
            stopped: why, if that was before everything was done.
            facts: what its summary tells.
            exit_code: what it exits with.
        """
        state = "stopped" if stopped else "finished"
        elapsed_s = round(time.monotonic() - self._began, 1)
        self._write("end", state=state, message=stopped or None, **facts, elapsed_s=elapsed_s, exit_code=exit_code)
        self._closed = True

    def error(self, message: str, exit_code: int) -> None:
        """The command failed."""
        self._write("error", message=message, exit_code=exit_code)
        self._closed = True

    def _progress(self) -> None:
        tally = self._tally
        rates = {"cases_per_h": tally.cases_per_h, "eta_s": tally.eta_s}
        rounded = {name: None if value is None else round(value, 1) for name, value in rates.items()}
        self._write("progress", done=tally.done, failed=tally.failed, remaining=tally.remaining, **rounded)

    def _write(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - plain values
        if self._closed:
            return
        time_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self._stream.write(json.dumps({"event": event, "time_utc": time_utc, **fields}, allow_nan=False) + "\n")
            self._stream.flush()
        except OSError:  # nobody reads any more, which is no reason to end the run, nor to exit with another code
            self._closed = True
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
