"""What a user sees while a run is going on: a progress bar on a terminal, plain lines in a log."""

import logging
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from goat_ray.errors import Failure

_LOGGER = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 10.0


class Reporter(Protocol):
    """Told of every case as it ends."""

    def start(self, total: int, already_done: int, what: str) -> None:
        """`total` cases will end now; `already_done` were found committed; `what` they are called."""

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """One more case was committed, or failed."""


class Silent:
    """Tells nothing; for library use."""

    def start(self, total: int, already_done: int, what: str) -> None:
        """See `Reporter`."""

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """See `Reporter`."""


class LogReporter:
    """One line for each failure, and one for progress at most every ten seconds."""

    def __init__(self) -> None:
        self._total = self._done = self._failed = 0
        self._started = self._last_line = time.monotonic()

    def start(self, total: int, already_done: int, what: str) -> None:
        """See `Reporter`."""
        self._total, self._done, self._failed = total, 0, 0
        self._started = self._last_line = time.monotonic()
        _LOGGER.info("%d %s to do, %d already done", total, what, already_done)

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """See `Reporter`."""
        self._done += 1
        if failure is not None:
            self._failed += 1
            _LOGGER.warning("case %s failed in %s: %s: %s", case_id, failure.stage, failure.category, failure.message)
        now = time.monotonic()
        if self._done == self._total or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._tell(now - self._started)

    def _tell(self, elapsed_s: float) -> None:
        per_hour = 3600 * self._done / max(elapsed_s, 1e-9)
        left_s = (self._total - self._done) * elapsed_s / self._done
        _LOGGER.info(
            "%d/%d cases, %d failed, %.0f cases/h, about %.0f s left",
            self._done,
            self._total,
            self._failed,
            per_hour,
            left_s,
        )


class BarReporter:
    """A progress bar, with failures printed above it; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._failed = 0
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("cases", total=None, failed="")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, total: int, already_done: int, what: str) -> None:
        """See `Reporter`."""
        note = f"{what} ({already_done} already done)" if already_done else what
        self._failed = 0
        self._progress.reset(self._task, total=total, description=note, failed="")
        self._progress.start()

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """See `Reporter`."""
        if failure is not None:
            self._failed += 1
            self._progress.console.print(
                Text.assemble(("failed ", "red"), f"{case_id}: {failure.category}: {failure.message}"),
                highlight=False,
                soft_wrap=True,
            )
        self._progress.update(self._task, advance=1, failed=f"[red]{self._failed} failed[/]" if self._failed else "")
