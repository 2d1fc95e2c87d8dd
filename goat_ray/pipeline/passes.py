"""Passes over the cases that have not ended yet, each more careful than the last, until none is left."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from goat_ray.cases import Case
from goat_ray.errors import Failure, GoatRayError
from goat_ray.pipeline.rows import NOT_STARTED, Row, decode_failure
from goat_ray.pipeline.stopping import Stop
from goat_ray.pipeline.suspicion import Suspicion

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Care:
    """How much a pass risks: a careful one queues no case behind another, a lonely one takes one case at a time."""

    careful: bool = False
    alone: bool = False

    def slots(self, wanted: int) -> int:
        """How many cases may be in work at a time, of the number wanted."""
        return 1 if self.alone else wanted


Stream = Callable[[Sequence[Case], Care], Iterator[Row]]
"""Makes rows of cases, in any order; a case that is lost with its worker yields none."""


def run_passes(
    stream: Stream,
    cases: Sequence[Case],
    attempts: int,
    suspicion: Suspicion,
    stop: Stop,
    case_ended: Callable[[str, Failure | None], None],
) -> list[Case]:
    """Run passes over the cases until each has ended, has lost `attempts` workers, or a stop is asked for.

    Cases that nothing is held against go first and together. One that lost a worker goes again without a case
    queued behind it, and the last time alone: what is lost then was lost by itself.

    Args:
        stream: makes rows of cases.
        cases: what to do.
        attempts: how many workers a case may be lost with.
        suspicion: what is held against cases.
        stop: asked between cases.
        case_ended: told of every case as it ends.

    Returns:
        The cases that lost too many workers.

    Raises:
        GoatRayError: a stage met something that is no case's fault, or Ray itself failed.
    """
    waiting = {case.case_id: case for case in cases}
    while not stop.asked:
        group, care = _next_group(waiting, attempts, suspicion)
        if not group:
            break
        if care.careful:
            _LOGGER.warning("%d case(s) lost their worker; trying them again", len(group))
        for row in stream(group, care):
            if row["fatal"] == NOT_STARTED:
                continue
            if row["fatal"]:
                raise GoatRayError(f"unexpected error in {row['fatal']}")
            if waiting.pop(row["case_id"], None):
                case_ended(row["case_id"], decode_failure(row["error"]) if row["error"] else None)
        if not stop.asked:
            suspicion.accuse(case for case in group if case.case_id in waiting)
    return [case for case in waiting.values() if suspicion.losses(case.case_id) >= attempts]


def _next_group(waiting: dict[str, Case], attempts: int, suspicion: Suspicion) -> tuple[list[Case], Care]:
    """The cases that have lost the fewest workers, and how to treat them."""
    losses = {case_id: suspicion.losses(case_id) for case_id in waiting}
    fewest = min((lost for lost in losses.values() if lost < attempts), default=None)
    if fewest is None:
        return [], Care()
    alone = 0 < fewest == attempts - 1
    return [case for case_id, case in waiting.items() if losses[case_id] == fewest], Care(fewest > 0, alone)
