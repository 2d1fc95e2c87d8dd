"""How a command carries out a job, and what it exits with."""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

import typer

from goat_ray import console
from goat_ray.errors import GoatRayError
from goat_ray.options import categories, settings

if TYPE_CHECKING:
    from goat_ray.pipeline.job import Again
    from goat_ray.pipeline.progress import Reporter

ALL_OK, RUN_FAILED, BAD_USAGE, SOME_CASES_FAILED = range(4)


class Summary(Protocol):
    """What a job's summary tells of its end, whatever the job was."""

    @property
    def stopped(self) -> str:
        """Why it was stopped; empty where it was not."""

    @property
    def failed(self) -> int:
        """Failed cases."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What else a user should know."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Where it stands, in plain values."""


S = TypeVar("S", bound=Summary)


def carried_out(work: Callable[["Reporter"], S], show: Callable[[S], None]) -> S:
    """The summary of a job, shown.

    Raises:
        GoatRayError: the job broke, or was stopped.
    """
    try:
        with console.reporter() as reporter:
            summary = work(reporter)
    except KeyboardInterrupt as error:
        raise GoatRayError("interrupted; the same command goes on from what is committed") from error
    console.show_end(summary, show, exit_code_of(summary))
    if summary.stopped:
        raise GoatRayError(f"{summary.stopped}. Tables are written, and the same command goes on with what is left")
    return summary


def exit_code_of(summary: Summary) -> int:
    """The code for a run that ended."""
    if summary.stopped:
        return RUN_FAILED
    return SOME_CASES_FAILED if summary.failed else ALL_OK


def exit_with(summary: Summary) -> None:
    """Leave with the code for a run that ended."""
    raise typer.Exit(exit_code_of(summary))


def fail(error: Exception, exit_code: int) -> NoReturn:
    """Leave with an expected error, told to whoever listens."""
    console.show_error(str(error))
    console.tell_failure(str(error), exit_code)
    sys.exit(exit_code)


def again_of(retry_failed: str | None, verify: bool) -> "Again":
    """What of an earlier call's work is looked at again, from the flags."""
    from goat_ray.pipeline.job import Again

    return Again(categories(retry_failed), verify)


def use_s3_of(set_: list[str] | None) -> None:
    """Reach S3 as `--set s3.…` says."""
    from goat_ray.config import S3Config, validated
    from goat_ray.filesystems import use_s3

    given: dict[str, Any] = settings(set_)
    use_s3(validated(S3Config, given.get("s3", {}), "command line"))
