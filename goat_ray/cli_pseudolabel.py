"""The command `goat-ray pseudo-label`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from goat_ray import console
from goat_ray.errors import ConfigError
from goat_ray.options import (
    Address,
    Channels,
    ConfigFile,
    Device,
    Json,
    Placement,
    RetryFailed,
    Set,
    Sites,
    Suffix,
    Threads,
    Verify,
    Workers,
    names,
    pairs,
    settings,
)
from goat_ray.running import again_of, carried_out, exit_with

if TYPE_CHECKING:
    from goat_ray.pseudolabel.config import PseudoLabelConfig

_COHORT_HELP = "Unlabelled scans: folder, s3:// prefix, nnU-Net raw folder or CSV/parquet manifest."


def pseudo_label(
    cohort: Annotated[str | None, typer.Argument(help=_COHORT_HELP)] = None,
    ensemble: Annotated[str | None, typer.Option(help="ensemble.yaml with the teachers.")] = None,
    labelled: Annotated[str | None, typer.Option(help="Scans with expert label maps, in the same forms.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Run folder or s3:// prefix, resumed if it exists; the dataset goes into it.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset's name; Dataset603_BraTS by default.")] = None,
    form: Annotated[str | None, typer.Option(help="copy (default), or in-place: dataset.json names files.")] = None,
    members: Annotated[str | None, typer.Option(help="Teachers: comma-separated member codes; all by default.")] = None,
    gates: Annotated[str | None, typer.Option(help="none (default), or strict: published gates.")] = None,
    gate: Annotated[
        list[str] | None, typer.Option(help="One gate, e.g. dice_wt_min=0.9 or site_cap=200; repeat.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show how many cases each gate would keep, of those predicted.")
    ] = False,
    config: ConfigFile = None,
    sites: Sites = None,
    suffix: Suffix = None,
    channels: Channels = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Folds of the labelled cases; 5 by default.")] = None,
    device: Device = None,
    workers: Workers = None,
    threads: Threads = None,
    placement: Placement = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N unlabelled cases.")] = None,
    address: Address = None,
    set_: Set = None,
    retry_failed: RetryFailed = None,
    verify: Verify = False,
    overwrite: Annotated[bool, typer.Option(help="Discard the runs that are in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Predict unlabelled scans, keep what passes the gates, and write it with labelled ones as an nnU-Net dataset."""
    from goat_ray.config import load_config
    from goat_ray.pseudolabel.config import PseudoLabelConfig

    chosen: dict[str, Any] = {"preset": gates} if gates else {}
    flags: dict[str, Any] = {
        "cohort": cohort,
        "ensemble": ensemble,
        "labelled": labelled,
        "out": out,
        "dataset": dataset,
        "form": form,
        "members": names(members),
        "gates": {**chosen, **(settings(gate) if gate else {})} or None,
        "sites": sites,
        "suffixes": pairs("--suffix", suffix),
        "channels": names(channels),
        "folds": folds,
        "device": device,
        "workers": workers,
        "threads": threads,
        "placement": placement,
        "limit": limit,
        "address": address,
        **settings(set_),
    }
    settled = load_config(PseudoLabelConfig, config, flags)
    if dry_run:
        if as_json:
            raise ConfigError("--json tells how a run goes on, and --dry-run starts none; leave one of them out")
        _show_sweep(settled)
        return
    from goat_ray.pipeline.pseudolabel import pseudo_label_cohort

    again = again_of(retry_failed, verify)
    exit_with(
        carried_out(
            lambda reporter: pseudo_label_cohort(settled, reporter, overwrite=overwrite, again=again),
            console.show_pseudo_labels,
        )
    )


def _show_sweep(config: "PseudoLabelConfig") -> None:
    from goat_ray.filesystems import use_s3
    from goat_ray.pseudolabel.stored import SWEEP_KEY, sweep_run

    use_s3(config.s3)
    console.show_sweep(sweep_run(config.out, config.gates), f"{config.out}/{SWEEP_KEY}")
