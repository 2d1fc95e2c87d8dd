"""How one mutation is run and judged: a sound result or an allowed refusal, in bounded time and memory."""

import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from goat_ray.errors import CaseError, GoatRayError

CAN_RESET_PEAK = os.access("/proc/self/clear_refs", os.W_OK)
LONGEST_S = 3.0
MOST_BYTES = 100e6
LONGEST_MESSAGE = 20_000
_HANG_S = 20


class Hang(BaseException):
    """A call took so long that it was interrupted; no `except Exception` may swallow that."""


@dataclass(frozen=True)
class Target:
    """One reader of foreign bytes.

    Attributes:
        name: what findings call it.
        intact: contents that must be accepted.
        damage: the damaged content of one mutation.
        read: gives a content to the package; fails an assertion if the result is not sound.
        refusal: the one kind of error that `read` may raise; None where it may raise none.
    """

    name: str
    intact: tuple[bytes, ...]
    damage: Callable[[Random], bytes]
    read: Callable[[bytes], None]
    refusal: type[GoatRayError] | None


@dataclass(frozen=True)
class Outcome:
    """How one mutation ended: `accepted`, or the error's category or class; CPU seconds, growth of the peak RSS."""

    verdict: str
    seconds: float
    grown_bytes: int


def try_mutation(target: Target, seed: int, index: int) -> Outcome:
    """Run one mutation; what is neither a sound result nor an allowed refusal is an `AssertionError` that names it."""
    data = target.damage(Random(f"{target.name}/{seed}/{index}"))
    where = f"targets[{target.name!r}], seed {seed}, index {index}"
    before, start, refused = peak_bytes(since_now=True), time.process_time(), None
    try:
        with _alarm(), warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(data)
    except (Exception, Hang) as error:
        if target.refusal is None or not isinstance(error, target.refusal):
            raise AssertionError(f"{where}: {type(error).__name__}: {str(error)[:500]}") from error
        refused = error
    outcome = Outcome(_verdict(refused), time.process_time() - start, peak_bytes() - before)
    assert len(str(refused)) in range(1, LONGEST_MESSAGE), f"{where}: a message of {len(str(refused))} characters"
    assert outcome.seconds < LONGEST_S, f"{where}: {outcome.seconds:.1f} s"
    assert outcome.grown_bytes < MOST_BYTES, f"{where}: {outcome.grown_bytes / 1e6:.0f} MB"
    return outcome


def peak_bytes(since_now: bool = False) -> int:
    """The most memory that this process has held: ever, or where the kernel lets us, since the last `since_now`."""
    if not CAN_RESET_PEAK:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if since_now:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _verdict(refused: BaseException | None) -> str:
    if refused is None:
        return "accepted"
    return str(refused.category) if isinstance(refused, CaseError) else type(refused).__name__


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang(f"still not done after {_HANG_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
