"""Stopping a run before its end: what is in work may finish, the rest stays for another call."""

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from goat_ray.errors import Failure
from goat_ray.pipeline.rows import Row

_LOGGER = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MAIN = threading.main_thread()
_POLL_S = 0.5
_FEWEST_TRIED = 20


class _Interrupt(Exception):  # noqa: N818 - no error: it ends a wait
    """Raised in the main thread to end its waiting for a row."""


class Stop:
    """Whether the run is to stop, why, and when it no longer waits for what is in work.

    Attributes:
        reason: why; empty as long as nobody asked.
        grace_s: how long what is in work may go on after that.
    """

    def __init__(self, grace_s: float) -> None:
        self.reason = ""
        self.grace_s = grace_s
        self._deadline: float | None = None
        self._asked = threading.Event()
        self._waiting = False
        self._handled = False

    @property
    def asked(self) -> bool:
        """Whether no further case is to be started."""
        return self._asked.is_set()

    @property
    def over(self) -> bool:
        """Whether the time of grace has passed too."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def ask(self, reason: str) -> None:
        """Start no further case; asked a second time, wait for none either."""
        if self.asked:
            self._deadline = 0.0
            return
        self.reason = reason
        self._deadline = time.monotonic() + self.grace_s
        self._asked.set()

    def rows(self, rows: Iterator[Row], in_work: Callable[[], set[str]]) -> Iterator[Row]:
        """`rows` to their end; after a stop was asked for, until nothing is in work or the time of grace is over.

        Args:
            rows: of any number of cases.
            in_work: closes the way in, and tells which cases are or have been in work.
        """
        ended: set[str] = set()
        finished = threading.Event()
        watch = threading.Thread(target=self._watch, args=(finished, lambda: in_work() - ended), daemon=True)
        watch.start()
        try:
            while (row := self._next(rows)) is not None:
                ended.add(row["case_id"])
                yield row
        finally:
            finished.set()
            watch.join()

    def _next(self, rows: Iterator[Row]) -> Row | None:
        try:
            self._waiting = True
            return None if self.over else next(rows, None)
        except _Interrupt:
            return None
        finally:
            self._waiting = False

    def _watch(self, finished: threading.Event, left: Callable[[], set[str]]) -> None:
        """Once a stop is asked for, end the main thread's waiting when nothing is left to wait for."""
        while not finished.is_set():
            if self._asked.wait(_POLL_S):
                if not left():
                    self._deadline = 0.0
                if self.over and self._handled:
                    signal.pthread_kill(_MAIN.ident or 0, signal.SIGINT)
                finished.wait(_POLL_S)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as the wish to stop. Only the main thread can; elsewhere nothing changes."""
        if threading.current_thread() is not _MAIN:
            yield
            return
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        self._handled = True
        try:
            yield
        finally:
            self._handled = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self.asked:
            _LOGGER.warning(
                "%s: finishing what is in work, at most %.0f s; a second signal stops at once", name, self.grace_s
            )
        self.ask(f"stopped by {name}")
        if self.over and self._waiting:
            raise _Interrupt


class StopRule:
    """Asks for a stop when so many of the cases tried have failed that the reason must be common to them."""

    def __init__(self, stop: Stop, max_rate: float) -> None:
        self._stop = stop
        self._max_rate = max_rate
        self._tried = 0
        self._failures: Counter[str] = Counter()

    def case_ended(self, failure: Failure | None) -> None:
        """Count one more case."""
        self._tried += 1
        if failure is None:
            return
        self._failures[failure.category] += 1
        failed = self._failures.total()
        if self._tried >= _FEWEST_TRIED and failed > self._max_rate * self._tried and not self._stop.asked:
            category, count = self._failures.most_common(1)[0]
            self._stop.ask(
                f"{failed} of the first {self._tried} cases tried have failed, {count} of them with {category}: "
                "something is wrong with all of them. Repair it and use --retry-failed, or allow it by "
                "--set max_failure_rate=1"
            )
