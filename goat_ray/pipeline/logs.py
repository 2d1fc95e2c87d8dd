"""Log lines that name the case they are of, and the stage it was in."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

PACKAGE = "goat_ray"
_PLACE: ContextVar[str] = ContextVar("place", default="")


@contextmanager
def of_case(case_id: str, stage: str = "") -> Iterator[None]:
    """Every line that is logged within the block names this case, and the stage where there is one."""
    stage_word = f"stage={stage} " if stage else ""
    token = _PLACE.set(f"case={_one_word(case_id)} {stage_word}")
    try:
        yield
    finally:
        _PLACE.reset(token)


class CaseFormatter(logging.Formatter):
    """A plain line for each record, with the case before the message."""

    def __init__(self, date_format: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(place)s%(message)s", date_format)

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        record.place = _PLACE.get()
        return super().format(record)


class CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is now: a progress bar takes its place for a while, to keep lines above itself."""

    def __init__(self, formatter: logging.Formatter) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(formatter)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """See logging."""
        return sys.stderr


def set_up_worker() -> None:
    """Send the package's log to stderr, of which Ray keeps a file for each worker, unless it is sent somewhere."""
    logger = logging.getLogger(PACKAGE)
    if not logger.hasHandlers():
        logger.setLevel(logging.INFO)
        logger.handlers[:] = [CurrentStderr(CaseFormatter("%Y-%m-%d %H:%M:%S"))]


def _one_word(case_id: str) -> str:
    """Only ids of cases that failed as `invalid_id` can be anything else."""
    return case_id if case_id.isprintable() and " " not in case_id else ascii(case_id)
