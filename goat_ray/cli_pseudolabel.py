"""The command `goat-ray pseudo-label`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from goat_ray import console
from goat_ray.options import names, pairs, settings
from goat_ray.running import RETRY_HELP, SET_HELP, again_of, carried_out, exit_with

if TYPE_CHECKING:
    from goat_ray.config import PseudoLabelConfig

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
    config: Annotated[str | None, typer.Option(help="YAML file with any of these settings; flags override it.")] = None,
    sites: Annotated[str | None, typer.Option(help="CSV or parquet: case_id, site, cohort.")] = None,
    suffix: Annotated[list[str] | None, typer.Option(help="Older file suffix, e.g. t1ce=t1c; repeat.")] = None,
    channels: Annotated[str | None, typer.Option(help="Modalities of _0000, _0001, … for nnU-Net raw.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Folds of the labelled cases; 5 by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; a GPU where there is one by default.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Predict workers.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of one worker.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N unlabelled cases.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; embedded Ray by default.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    retry_failed: Annotated[str | None, typer.Option(help=RETRY_HELP, metavar="[CATEGORY…]")] = None,
    verify: Annotated[bool, typer.Option(help="Compare what is done with its hashes before resuming.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Discard the runs that are in --out.")] = False,
) -> None:
    """Predict unlabelled scans, keep what passes the gates, and write it with labelled ones as an nnU-Net dataset."""
    from goat_ray.config import PseudoLabelConfig, load_config

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
        "limit": limit,
        "address": address,
        **settings(set_),
    }
    settled = load_config(PseudoLabelConfig, config, flags)
    if dry_run:
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
