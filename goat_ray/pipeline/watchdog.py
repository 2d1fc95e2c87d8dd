"""A worker that cannot go on with a case says so in the run folder and ends; another worker takes its place."""

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from goat_ray.commits import Suspect, write_suspect
from goat_ray.config import S3Config
from goat_ray.errors import Category, StorageError
from goat_ray.storage import RunStore

_EXIT_CODE = 70
_LAST_RESORT_S = 60.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every stage has to know of the run around it.

    Attributes:
        root: the run folder.
        s3: how S3 is reached.
        case_timeout_s: the longest time that a stage may take over a case; no limit when None.
    """

    root: str
    s3: S3Config
    case_timeout_s: float | None


@contextmanager
def watched(surroundings: Surroundings, case_id: str, stage: str) -> Iterator[None]:
    """End this process if the block takes longer than a stage may take over a case."""
    limit_s = surroundings.case_timeout_s
    if limit_s is None:
        yield
        return
    message = f"stage {stage} did not finish within {limit_s:g} s (case_timeout_s)"
    suspect = Suspect(case_id, Category.TIMED_OUT, message, stage)
    timer = threading.Timer(limit_s, abandon, (surroundings, suspect))
    timer.daemon = True
    timer.start()
    # A thread needs the interpreter's lock, which a call that hangs may hold for ever; this needs nothing.
    faulthandler.dump_traceback_later(limit_s + _LAST_RESORT_S, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def abandon(surroundings: Surroundings, suspect: Suspect) -> None:
    """Leave word of a case and end this process, whatever state it is in."""
    with suppress(StorageError):
        write_suspect(RunStore(surroundings.root), suspect)
    # Not `sys.exit`: Ray 2.60 never replaces an actor that ends in this way.
    os._exit(_EXIT_CODE)
