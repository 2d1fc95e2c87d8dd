"""The commands `goat-ray ensemble …`."""

from pathlib import Path
from typing import Annotated

import typer

from goat_ray import console
from goat_ray.errors import ConfigError
from goat_ray.options import names, pairs
from goat_ray.running import BAD_USAGE

ensemble_app = typer.Typer(help="Import, inspect and verify ensembles.", no_args_is_help=True)


@ensemble_app.command("import")
def import_(
    sources: Annotated[list[str], typer.Argument(help="nnU-Net result folders, or CODE=folder.")],
    out: Annotated[Path, typer.Option(help="The manifest to write; members go beside it.")],
    name: Annotated[str | None, typer.Option(help="The ensemble's name; the manifest's by default.")] = None,
    checkpoint: Annotated[str, typer.Option(help="final or best.")] = "final",
    folds: Annotated[str | None, typer.Option(help="Comma-separated; `all` if present, else every fold.")] = None,
    channels: Annotated[str | None, typer.Option(help="Input modalities in order, if the names are unclear.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="What a label is here, e.g. core=TC; repeat.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the model card.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace members that exist with other content.")] = False,
) -> None:
    """Turn trained nnU-Net result folders into members that load without pickle."""
    from goat_ray.members.importing import ImportOptions, import_results

    if checkpoint not in ("final", "best"):
        raise ConfigError(f"--checkpoint {checkpoint}: expected final or best")
    options = ImportOptions(
        checkpoint="best" if checkpoint == "best" else "final",
        folds=names(folds),
        channels=names(channels),
        labels=pairs("--label", label),
        licence=licence,
        overwrite=overwrite,
    )
    ensemble = import_results(sources, out, name=name, options=options)
    console.out.print(f"{len(ensemble.members)} member(s) imported into {out}", markup=False)
    console.show_members(ensemble)


@ensemble_app.command()
def inspect(ensemble: Annotated[str, typer.Argument(help="ensemble.yaml")]) -> None:
    """Show the members: parameters, patch, windows per typical case, channels, labels, memory."""
    from goat_ray.members.ensemble import load_ensemble

    console.show_members(load_ensemble(ensemble))


@ensemble_app.command()
def verify(ensemble: Annotated[str, typer.Argument(help="ensemble.yaml")]) -> None:
    """Hash every file again, load every member strictly and run it once on a small patch."""
    from goat_ray.members.inspection import verify as verify_members

    outcomes = verify_members(ensemble)
    console.show_table("Verified", ("member", "outcome"), [(one.code, one.problem or "ok") for one in outcomes])
    if any(one.problem for one in outcomes):
        raise typer.Exit(BAD_USAGE)
