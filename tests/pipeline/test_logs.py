"""Which case a log line is of."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import torch

from goat_ray.members.recovery import Ladder, Rung
from goat_ray.pipeline.logs import PACKAGE, CaseFormatter, of_case, set_up_worker
from goat_ray.pipeline.rows import reference_row, run_stage
from tests.pipeline.test_rows import CASE, HERE

LOGGER = logging.getLogger("goat_ray.somewhere.deep")


@contextmanager
def worker() -> Iterator[logging.Logger]:
    """The package's logger as in a process where nobody has set up any logging; pytest does so before every test."""
    logger = logging.getLogger(PACKAGE)
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [], False
    try:
        yield logger
    finally:
        logger.handlers, _, logger.propagate = before
        logger.setLevel(before[1])


def test_a_line_that_is_logged_in_a_stage_names_the_case_and_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    tries = []

    def work(rung: Rung) -> str:
        tries.append(rung)
        if len(tries) == 1:
            raise MemoryError
        return "done"

    def stage(*_: object) -> dict[str, object]:
        Ladder("ResNetM", Rung(2, torch.device("cpu"))).run(work)
        return {}

    with worker():
        assert not run_stage("predict", stage, {}, reference_row(CASE), HERE)["error"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "WARNING case=case-1 stage=predict ResNetM ran out of memory; trying batches of 1" in line


def test_a_worker_is_set_up_once_however_many_stages_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    def stage(*_: object) -> dict[str, object]:
        LOGGER.info("here")
        return {}

    with worker() as logger:
        for _ in range(3):
            run_stage("read", stage, {}, reference_row(CASE), HERE)
        assert len(logger.handlers) == 1
    assert capsys.readouterr().err.count("INFO case=case-1 stage=read here\n") == 3


def test_a_process_whose_log_goes_somewhere_is_left_as_it_is() -> None:
    with worker() as logger:
        logger.addHandler(theirs := logging.StreamHandler(sys.stderr))
        set_up_worker()
        assert logger.handlers == [theirs]


def formatted(message: str) -> str:
    return CaseFormatter("%H").format(logging.makeLogRecord({"msg": message, "levelname": "INFO"}))


def test_a_place_ends_with_its_block_even_if_that_fails() -> None:
    with suppress(KeyError), of_case("outer", "read"), of_case("inner"):
        assert " case=inner inside" in formatted("inside")
        assert "stage=" not in formatted("inside")
        raise KeyError
    assert "case=" not in formatted("after")


def test_an_id_that_breaks_lines_cannot_forge_one() -> None:
    with of_case("x\n10:00:00 INFO case=y"):
        assert "\n" not in formatted("said")
        assert formatted("said").count("case=y'") == 1
