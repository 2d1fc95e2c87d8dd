"""The command `goat-ray check`: what would become of a cohort, before anything is started."""

import json
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from goat_ray import console, console_check
from goat_ray.errors import ConfigError, StorageError
from goat_ray.options import (
    Address,
    Channels,
    Cohort,
    ConfigFile,
    Device,
    Limit,
    References,
    Set,
    Sites,
    Suffix,
    Threads,
    Workers,
    names,
    pairs,
    settings,
)
from goat_ray.running import ALL_OK, BAD_USAGE, SOME_CASES_FAILED

if TYPE_CHECKING:
    from goat_ray.pipeline.measure import Measured
    from goat_ray.preflight import CheckConfig, Preflight
    from goat_ray.status import RunStatus

_MEASURE_FLAG, _CASES_MEASURED = "--measure", 3


class MeasureCommand(TyperCommand):
    """A command whose `--measure` takes a number, or none for the usual one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own copy of click is private
        """See click."""
        return super().parse_args(ctx, _with_number(args))


def _with_number(args: Iterable[str]) -> list[str]:
    words = list(args)
    for place, word in enumerate(words):
        if word == _MEASURE_FLAG and not "".join(words[place + 1 : place + 2]).isdecimal():
            words[place] = f"{_MEASURE_FLAG}={_CASES_MEASURED}"
    return words


def check(
    cohort: Cohort = None,
    config: ConfigFile = None,
    sites: Sites = None,
    references: References = None,
    spec: Annotated[str | None, typer.Option(help="How they would be scored, as for predict.")] = None,
    suffix: Suffix = None,
    channels: Channels = None,
    limit: Limit = None,
    out: Annotated[str | None, typer.Option(help="Run folder or s3:// prefix: also tell how far its run is.")] = None,
    measure: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="[N]",
            help="Really predict N cases (3 if not given) into a folder that is removed again; tell what they took.",
        ),
    ] = None,
    ensemble: Annotated[str | None, typer.Option(help="With --measure: ensemble.yaml.")] = None,
    device: Device = None,
    workers: Workers = None,
    threads: Threads = None,
    address: Address = None,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell which cases of a cohort would run, and which would fail and why, from their headers alone."""
    from goat_ray.config import load_config
    from goat_ray.preflight import CheckConfig, check_cohort

    flags: dict[str, Any] = {
        "cohort": cohort,
        "ensemble": ensemble,
        "out": out,
        "sites": sites,
        "references": references,
        "spec": spec,
        "suffixes": pairs("--suffix", suffix),
        "channels": names(channels),
        "limit": limit,
        "device": device,
        "workers": workers,
        "threads": threads,
        "address": address,
        **settings(set_),
    }
    settled = load_config(CheckConfig, config, flags)
    if measure and not settled.ensemble:
        raise ConfigError(f"{_MEASURE_FLAG} predicts cases: give --ensemble too")
    with console_check.header_bar() as tick:
        found = check_cohort(settled, tick)
    status = _status(settled)
    if not as_json:
        console_check.show_check(found, status)
    measured = _measured(settled, found, measure) if measure and found.runnable else None
    _tell(found, status, measured, as_json)


def _status(config: "CheckConfig") -> "RunStatus | None":
    """How far the run in the run folder is; None where there is no run yet."""
    from goat_ray.runs import RUN_KEY
    from goat_ray.status import read_status
    from goat_ray.storage import absolute, exists, join

    try:
        is_there = bool(config.out) and exists(join(absolute(config.out), RUN_KEY))
    except StorageError as error:
        raise ConfigError(str(error)) from error
    return read_status(config.out) if is_there else None


def _measured(config: "CheckConfig", found: "Preflight", number: int) -> "Measured":
    from goat_ray.pipeline.measure import measure_cohort

    with redirect_stdout(sys.stderr), console.reporter() as reporter:  # what any library prints is no result
        return measure_cohort(config, found.runnable, number, reporter)


def _tell(found: "Preflight", status: "RunStatus | None", measured: "Measured | None", as_json: bool) -> None:
    """Show what is left to be shown, and leave with the code for what was found."""
    will_fail = found.failures or (measured and measured.failures)
    code = BAD_USAGE if not found.runnable else SOME_CASES_FAILED if will_fail else ALL_OK
    if as_json:
        from dataclasses import asdict

        run = {"run": asdict(status) if status else None, "measured": measured.to_dict() if measured else None}
        typer.echo(json.dumps({**found.to_dict(), **run, "exit_code": code}, allow_nan=False))
    elif measured:
        console_check.show_measured(measured)
    raise typer.Exit(code)
