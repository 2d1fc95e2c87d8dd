"""The command `goat-ray submit`: a job's command, carried out by a Ray cluster elsewhere."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from goat_ray import console
from goat_ray.errors import ConfigError
from goat_ray.options import Set, settings
from goat_ray.running import RUN_FAILED, SOME_CASES_FAILED

if TYPE_CHECKING:
    from goat_ray.config import JobConfig
    from goat_ray.pipeline.submission import Submission

_READ_BY_WORKERS = ("cohort", "ensemble", "labels", "labelled", "references")
_LISTS = (".csv", ".parquet")
_MARGIN_S = 30.0
_INTERRUPTED = 130  # as shells have it: the job's own codes say how it ended, and this one has not


class JobName(StrEnum):
    """The jobs that can be submitted: the scripts in `jobs/`."""

    PREDICT = "predict"
    EVALUATE = "evaluate"
    PSEUDO_LABEL = "pseudo-label"


def submit(
    job: Annotated[JobName, typer.Argument(help="What to run: jobs/JOB.py of the working folder.")],
    config: Annotated[Path, typer.Option(help="YAML file with the job's settings, in the working folder.")],
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's Jobs API, http://HOST:8265.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After `--`: more of the job's own options, e.g. --retry-failed.")
    ] = None,
    working_dir: Annotated[Path, typer.Option(help="Uploaded, and where the job runs: a checkout.")] = Path(),
    set_: Set = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return as soon as the cluster has the job.")] = False,
) -> None:
    """Run a job on a Ray cluster: show its log, and exit with its code. Ctrl-C ends the showing, not the job."""
    from goat_ray.pipeline import submission

    settled = _checked(job, config, set_)
    command = _command(job, config, working_dir, set_ or [], arguments or [])
    accepted = submission.submit(address, command, str(working_dir), settled.grace_s + _MARGIN_S)
    _note(f"{accepted.job_id} is submitted. How far it is: {shlex.join(['goat-ray', 'status', settled.out])}")
    _note(f"Whether it runs: {accepted.command('status')}")
    if not no_wait:
        raise typer.Exit(_followed(accepted))


def _note(text: str) -> None:
    console.err.print(text, markup=False, soft_wrap=True)


def _followed(accepted: "Submission") -> int:
    """The exit code of the job, once it has ended; or that of having been interrupted here."""
    try:
        ended = accepted.follow(_show)
    except KeyboardInterrupt:
        _note(f"\n{accepted.job_id} goes on; only its log is no longer shown.")
        _note(f"Follow it: {accepted.command('logs')} --follow")
        _note(f"Stop it:   {accepted.command('stop')}")
        return _INTERRUPTED
    if ended.exit_code in range(SOME_CASES_FAILED + 1):
        return ended.exit_code or 0
    console.show_error(f"{accepted.job_id} broke off: {ended.words or f'exit code {ended.exit_code}'}")
    return RUN_FAILED


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _checked(job: JobName, config: Path, set_: list[str] | None) -> "JobConfig":
    """The job's settings, which every machine of a cluster must be able to follow.

    Raises:
        ConfigError: a setting is wrong, or names what lies on this machine only.
    """
    from goat_ray.config import EvaluateConfig, RunConfig, load_config
    from goat_ray.pseudolabel.config import PseudoLabelConfig

    models: dict[JobName, type[JobConfig]] = {
        JobName.PREDICT: RunConfig,
        JobName.EVALUATE: EvaluateConfig,
        JobName.PSEUDO_LABEL: PseudoLabelConfig,
    }
    settled = load_config(models[job], str(config), settings(set_))
    for key in ("out", *_READ_BY_WORKERS):
        place: str | None = getattr(settled, key, None)
        is_list = key != "out" and str(place).endswith(_LISTS)
        if place and not is_list and "://" not in place and not Path(place).is_absolute():
            raise ConfigError(
                f"{config}: {key}: {place} would be looked for in the job's own copy of the working folder; "
                "give an s3:// prefix, or a path from the root on that every machine of the cluster mounts"
            )
    return settled


def _command(job: JobName, config: Path, working_dir: Path, set_: list[str], arguments: list[str]) -> list[str]:
    """What the job runs, in its copy of the working folder.

    Raises:
        ConfigError: the script or the settings are not in the working folder.
    """
    script = Path("jobs") / f"{job.replace('-', '_')}.py"
    if not (working_dir / script).is_file():
        raise ConfigError(f"--working-dir {working_dir}: it has no {script}; give a checkout of this repository")
    try:
        inside = config.resolve().relative_to(working_dir.resolve())
    except ValueError:
        raise ConfigError(f"--config {config}: it must lie in --working-dir {working_dir}, which is uploaded") from None
    given = [word for item in set_ for word in ("--set", item)]
    return ["python", script.as_posix(), "--config", inside.as_posix(), *given, *arguments]
