"""How many cases of a run have ended, and how fast: what every form of progress tells."""

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from goat_ray.errors import Failure

_RECENT_S = 600.0


class Tally:
    """A count of cases as they end.

    Attributes:
        total: cases that will end.
        done: cases that have ended, failed ones among them.
        failed: of those.
    """

    def __init__(self, total: int, what: str = "cases", now: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = self.failed = 0
        self._what = what
        self._now = now
        self._ends = deque([now()])

    def count(self, failure: Failure | None) -> None:
        """One more case has ended."""
        self.done += 1
        self.failed += failure is not None
        if failure is not None and failure.stage == "discover":
            return  # told at once, all of them: they say nothing of how fast work is
        self._ends.append(self._now())
        while self._ends[1] < self._ends[-1] - _RECENT_S:
            self._ends.popleft()

    @property
    def remaining(self) -> int:
        """Cases that have not ended."""
        return self.total - self.done

    @property
    def cases_per_h(self) -> float | None:
        """Over the last ten minutes of work; None before there is any."""
        ended = len(self._ends) - 1
        return 3600 * ended / max(self._ends[-1] - self._ends[0], 1e-3) if ended else None

    @property
    def eta_s(self) -> float | None:
        """About how long the rest takes at this rate; None where there is none yet."""
        if not (rate := self.cases_per_h):
            return None
        return max(0.0, 3600 * self.remaining / rate - (self._now() - self._ends[-1]))

    def __str__(self) -> str:
        counts = f"{self.done}/{counted(self.total, self._what)}, {self.failed} failed, {self.remaining} left"
        rate, eta_s = self.cases_per_h, self.eta_s
        if rate is None or eta_s is None:
            return counts
        return f"{counts}, {rate:.{0 if rate >= 10 else 1}f} cases/h, ETA {timedelta(seconds=round(eta_s))}"


def counted(number: int, what: str) -> str:
    """So many of them: `what` is in the plural, and comes out in the singular where it must."""
    return f"{number} {what.removesuffix('s') if number == 1 else what}"
