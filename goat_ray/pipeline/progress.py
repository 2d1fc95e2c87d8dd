"""What a person sees while a run is going on: a progress bar on a terminal, plain lines in a log."""

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from goat_ray.errors import Failure
from goat_ray.pipeline.logs import of_case
from goat_ray.pipeline.tally import Tally, counted

_LOGGER = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 10.0


class Reporter(Protocol):
    """Told of every case as it ends."""

    def start(self, total: int, already_done: int, what: str, run_id: str) -> None:
        """`total` cases will end now; `already_done` were found committed; `what` they are called, in the plural."""

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """One more case was committed, or failed."""


class Silent:
    """Tells nothing; for library use."""

    def start(self, total: int, already_done: int, what: str, run_id: str) -> None:
        """See `Reporter`."""

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """See `Reporter`."""


class Several:
    """Tells several reporters."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def start(self, total: int, already_done: int, what: str, run_id: str) -> None:
        """See `Reporter`."""
        for reporter in self._reporters:
            reporter.start(total, already_done, what, run_id)

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """See `Reporter`."""
        for reporter in self._reporters:
            reporter.case_ended(case_id, failure)


class LogReporter:
    """One line for each failure, and one for progress at most every ten seconds."""

    def __init__(self) -> None:
        self._tally = Tally(0)
        self._last_line = time.monotonic()

    def start(self, total: int, already_done: int, what: str, run_id: str) -> None:
        """See `Reporter`."""
        self._tally = Tally(total, what)
        self._last_line = time.monotonic()
        _LOGGER.info("%s", _beginning(total, already_done, what))

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """See `Reporter`."""
        self._tally.count(failure)
        if failure is not None:
            with of_case(case_id, failure.stage):
                _LOGGER.warning("failed: %s: %s", failure.category, failure.message)
        now = time.monotonic()
        if not self._tally.remaining or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            _LOGGER.info("%s", self._tally)


class BarReporter:
    """A progress bar, with failures printed above it; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._tally = Tally(0)
        self._progress = Progress(
            _Live(lambda: str(self._tally)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, total: int, already_done: int, what: str, run_id: str) -> None:
        """See `Reporter`."""
        self._tally = Tally(total, what)
        self._progress.console.print(_beginning(total, already_done, what), highlight=False, soft_wrap=True)
        self._progress.reset(self._task, total=total)
        self._progress.start()

    def case_ended(self, case_id: str, failure: Failure | None) -> None:
        """See `Reporter`."""
        self._tally.count(failure)
        if failure is not None:
            self._progress.console.print(
                Text.assemble(("failed ", "red"), f"{case_id}: {failure.category}: {failure.message}"),
                highlight=False,
                soft_wrap=True,
            )
        self._progress.update(self._task, advance=1, refresh=failure is not None)


class _Live(ProgressColumn):
    """A text that is asked for whenever the bar is drawn."""

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__(Column(no_wrap=True))
        self._text = text

    def render(self, _task: Task) -> Text:
        """See rich."""
        return Text(self._text())


def _beginning(total: int, already_done: int, what: str) -> str:
    return f"{counted(total, what)} to do, {already_done} already done"
