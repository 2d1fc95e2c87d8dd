"""How a command carries out a job, and what it exits with."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from goat_ray import console
from goat_ray.errors import GoatRayError
from goat_ray.options import categories, settings

if TYPE_CHECKING:
    from goat_ray.pipeline.job import Again
    from goat_ray.pipeline.progress import Reporter

ALL_OK, RUN_FAILED, BAD_USAGE, SOME_CASES_FAILED = range(4)


class Summary(Protocol):
    """What a job's summary tells of its end: why it was stopped, if it was, and how many cases failed."""

    @property
    def stopped(self) -> str:
        """Empty where it was not."""

    @property
    def failed(self) -> int:
        """Failed cases."""


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
    show(summary)
    if summary.stopped:
        raise GoatRayError(f"{summary.stopped}. Tables are written, and the same command goes on with what is left")
    return summary


def exit_with(summary: Summary) -> None:
    """Leave with the code for a run that ended."""
    if summary.failed:
        raise typer.Exit(SOME_CASES_FAILED)


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
