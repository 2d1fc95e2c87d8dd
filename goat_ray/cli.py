"""The `goat-ray` command: thin typer commands over the package's functions.

Exit codes: 0 all cases ok; 1 the run failed; 2 bad usage or preflight; 3 finished, some cases failed.
"""

import atexit
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from goat_ray import __version__, console
from goat_ray.cli_check import MeasureCommand, check
from goat_ray.cli_ensemble import ensemble_app
from goat_ray.cli_pseudolabel import pseudo_label
from goat_ray.cli_submit import submit
from goat_ray.errors import ConfigError, EnsembleError, GoatRayError
from goat_ray.options import (
    Address,
    Channels,
    Cohort,
    ConfigFile,
    Device,
    Json,
    Limit,
    Overwrite,
    Placement,
    References,
    RetryCommand,
    RetryFailed,
    RunFolder,
    Set,
    SetS3,
    Sites,
    Suffix,
    Threads,
    Verify,
    Workers,
    names,
    pairs,
    settings,
)
from goat_ray.running import (
    BAD_USAGE,
    RUN_FAILED,
    again_of,
    carried_out,
    exit_with,
    fail,
    use_s3_of,
)

if TYPE_CHECKING:
    from goat_ray.config import RunConfig
    from goat_ray.pipeline.job import Again, RunSummary

_SPEC_HELP = "brats2023-{gli,men,met,ssa,ped}, goat2025[-{gli,men,met,ped,ssa}], brats2026-goat or a YAML file"

app = typer.Typer(
    help="Cohort-scale ensemble segmentation of multi-modal brain-tumour MRI. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(ensemble_app, name="ensemble")


def main() -> None:
    """Run the command line; every expected error becomes one message and an exit code."""
    # Else the interpreter ends with a search through everything that torch and Ray have made, most of a second.
    atexit.register(gc.freeze)
    try:
        app()
    except (ConfigError, EnsembleError) as error:
        fail(error, BAD_USAGE)
    except GoatRayError as error:
        fail(error, RUN_FAILED)
    except Exception as error:
        console.tell_failure(f"unexpected {error!r}", RUN_FAILED)
        raise


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"goat-ray {__version__}")
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every step.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
) -> None:
    """Set up what all commands share."""
    console.set_up_logging(verbose)
    console.speak_json(False)


app.command(cls=MeasureCommand)(check)


@app.command(cls=RetryCommand)
def predict(
    cohort: Cohort = None,
    ensemble: Annotated[str | None, typer.Option(help="ensemble.yaml from `goat-ray ensemble import`.")] = None,
    out: RunFolder = None,
    config: ConfigFile = None,
    sites: Sites = None,
    references: References = None,
    spec: Annotated[str | None, typer.Option(help=f"How they are scored: {_SPEC_HELP}, or none.")] = None,
    members: Annotated[str | None, typer.Option(help="Comma-separated member codes; all by default.")] = None,
    suffix: Suffix = None,
    channels: Channels = None,
    decode: Annotated[str | None, typer.Option(help="majority (default), argmax or regions.")] = None,
    postprocess: Annotated[str | None, typer.Option(help="adaptive (default), fixed, minimum or none.")] = None,
    blending: Annotated[str | None, typer.Option(help="exact (default) or nnunet.")] = None,
    mirroring: Annotated[bool | None, typer.Option(help="Average over mirrored inputs (8x the work).")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 (default), bfloat16, or float16 on a GPU.")] = None,
    save_probabilities: Annotated[
        bool | None, typer.Option("--save-probabilities", help="Also write P(ET), P(TC) and P(WT) of each case.")
    ] = None,
    device: Device = None,
    workers: Workers = None,
    threads: Threads = None,
    placement: Placement = None,
    limit: Limit = None,
    address: Address = None,
    set_: Set = None,
    retry_failed: RetryFailed = None,
    verify: Verify = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Segment a cohort: one label map per case, and parquet tables."""
    from goat_ray.config import RunConfig, load_config

    flags: dict[str, Any] = {
        "cohort": cohort,
        "ensemble": ensemble,
        "out": out,
        "sites": sites,
        "references": references,
        "spec": spec,
        "members": names(members),
        "suffixes": pairs("--suffix", suffix),
        "channels": names(channels),
        "decode": decode,
        "blending": blending,
        "mirroring": mirroring,
        "precision": precision,
        "save_probabilities": save_probabilities,
        "postprocess": {"method": postprocess} if postprocess else None,
        "device": device,
        "workers": workers,
        "threads": threads,
        "placement": placement,
        "limit": limit,
        "address": address,
        **settings(set_),
    }
    again = again_of(retry_failed, verify)
    exit_with(_predict(load_config(RunConfig, config, flags), overwrite=overwrite, again=again))


@app.command(cls=RetryCommand)
def evaluate(
    labels: Annotated[
        str | None, typer.Argument(help="Label maps: folder, s3:// prefix, run folder or CSV/parquet manifest.")
    ] = None,
    references: Annotated[str | None, typer.Option(help="Expert label maps, in the same forms.")] = None,
    out: RunFolder = None,
    spec: Annotated[str | None, typer.Option(help=f"How to score: {_SPEC_HELP}.")] = None,
    config: ConfigFile = None,
    sites: Sites = None,
    missing: Annotated[
        str | None, typer.Option(help="A case without prediction: penalise (default, as the organisers) or exclude.")
    ] = None,
    official: Annotated[
        bool | None, typer.Option("--official", help="Also the whole-volume numbers that 2025's organisers got wrong.")
    ] = None,
    exports: Annotated[
        bool | None, typer.Option("--exports", help="Also write the organisers' own file formats.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Cases scored at a time.")] = None,
    limit: Limit = None,
    address: Address = None,
    set_: Set = None,
    retry_failed: RetryFailed = None,
    verify: Verify = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Score label maps against references: lesion-wise tables for any maps, ours or a peer's."""
    from goat_ray.config import EvaluateConfig, load_config
    from goat_ray.pipeline.evaluate import evaluate_cohort

    flags: dict[str, Any] = {
        "labels": labels,
        "references": references,
        "out": out,
        "spec": spec,
        "sites": sites,
        "missing": missing,
        "official": official,
        "exports": exports,
        "workers": workers,
        "limit": limit,
        "address": address,
        **settings(set_),
    }
    evaluation, again = load_config(EvaluateConfig, config, flags), again_of(retry_failed, verify)
    exit_with(
        carried_out(
            lambda reporter: evaluate_cohort(evaluation, reporter, overwrite=overwrite, again=again),
            console.show_summary,
        )
    )


app.command("pseudo-label", cls=RetryCommand)(pseudo_label)
app.command()(submit)


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="Run folder or s3:// prefix.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    set_: SetS3 = None,
) -> None:
    """Show how far a run is, while it goes on or after: from its commits and errors alone."""
    from goat_ray.status import read_status

    use_s3_of(set_)
    found = read_status(run)
    if as_json:
        typer.echo(found.to_json())
    else:
        console.show_status(found)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders or s3:// prefixes; several over different cases.")],
    out: Annotated[str, typer.Option(help="The HTML file; numbers, failures and flags go beside it as tables.")],
    set_: SetS3 = None,
) -> None:
    """Write one self-contained HTML file: how well, where, where it fails, whether to believe it."""
    from goat_ray.report.page import write_report

    use_s3_of(set_)
    _show_files(write_report(runs, out))


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(help="The run that is compared with.")],
    run_b: Annotated[str, typer.Argument(help="The run that is compared.")],
    out: Annotated[str, typer.Option(help="The HTML file; its numbers go beside it as CSV and parquet.")],
    set_: SetS3 = None,
) -> None:
    """Write the paired differences of two runs on the cases that both have scored, as one HTML file."""
    from goat_ray.report.compare import write_comparison

    use_s3_of(set_)
    _show_files(write_comparison(run_a, run_b, out))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the phantom cohort and the run.")] = Path("demo-run"),
    overwrite: Annotated[bool, typer.Option(help="Discard an earlier demo in that folder.")] = False,
) -> None:
    """Make a small phantom cohort with one broken case and segment it with the embedded ensemble."""
    from goat_ray.config import RunConfig
    from goat_ray.demo.cohort import BROKEN_CASE, EMBEDDED_ENSEMBLE, write_demo_cohort

    cohort, run = out / "cohort", out / "run"
    console.out.print(f"making the phantom cohort in {cohort}", markup=False)
    try:
        write_demo_cohort(cohort)
    except OSError as error:
        raise ConfigError(f"{cohort} cannot be written: {error.strerror}") from error
    config = RunConfig(
        cohort=str(cohort), ensemble=str(EMBEDDED_ENSEMBLE), out=str(run), sites=str(cohort / "sites.csv")
    )
    console.out.print("segmenting it with the embedded ensemble of seven members", markup=False)
    summary = _predict(config, overwrite=overwrite)
    if [failed.case_id for failed in summary.failures] != [BROKEN_CASE]:
        raise GoatRayError(f"the demo should lose exactly its broken case {BROKEN_CASE}; see the table above")
    from goat_ray.report.page import write_report

    page, *_ = reversed(write_report([str(run)], str(out / "report.html")))
    console.out.print(
        f"{BROKEN_CASE} was broken on purpose: it became a row, the others are untouched. The report: {page}\n"
        f"Your own cohort:\n  goat-ray predict COHORT --ensemble {EMBEDDED_ENSEMBLE} --out RUN",
        markup=False,
        soft_wrap=True,
    )


def _predict(config: "RunConfig", *, overwrite: bool = False, again: "Again | None" = None) -> "RunSummary":
    from goat_ray.pipeline.job import NOTHING_AGAIN
    from goat_ray.pipeline.predict import predict_cohort

    return carried_out(
        lambda reporter: predict_cohort(config, reporter, overwrite=overwrite, again=again or NOTHING_AGAIN),
        console.show_summary,
    )


def _show_files(files: list[str]) -> None:
    for file in files:
        console.out.print(file, markup=False, soft_wrap=True)
