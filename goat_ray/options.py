"""How the command line's words become settings: lists, pairs, and options whose values may be left out."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from goat_ray import console
from goat_ray.errors import Category, ConfigError

RETRY_FLAG = "--retry-failed"

# Options that several commands have alike; a parameter's name is the option's, where none is given here.
Address = Annotated[str | None, typer.Option(help="Ray cluster; embedded Ray by default.")]
Channels = Annotated[str | None, typer.Option(help="Modalities of _0000, _0001, … for nnU-Net raw.")]
Cohort = Annotated[str | None, typer.Argument(help="Folder, s3:// prefix, nnU-Net raw folder or CSV/parquet manifest.")]
ConfigFile = Annotated[str | None, typer.Option(help="YAML file with any of these settings; flags override it.")]
Device = Annotated[str | None, typer.Option(help="cuda or cpu; a GPU where there is one by default.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="For programs: one JSON object a line on stdout, and no bars and tables.",
        callback=console.speak_json,  # commands need not look at it
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N cases.")]
Overwrite = Annotated[bool, typer.Option(help="Discard the run that is in --out.")]
Placement = Annotated[
    str | None,
    typer.Option(help="resident: every member in every worker; shard: divided. As memory allows by default."),
]
References = Annotated[str | None, typer.Option(help="Expert label maps; by default those beside the images, if any.")]
RetryFailed = Annotated[
    str | None,
    typer.Option(
        help="Try the cases again that failed before: those of the categories named, or all.", metavar="[CATEGORY…]"
    ),
]
RunFolder = Annotated[str | None, typer.Option(help="Run folder or s3:// prefix; resumed if it exists.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key of the YAML file, e.g. case_timeout_s=600 or s3.profile=lab; repeat."),
]
SetS3 = Annotated[list[str] | None, typer.Option("--set", help="How S3 is reached, e.g. s3.profile=lab.")]
Sites = Annotated[str | None, typer.Option(help="CSV or parquet: case_id, site, cohort.")]
Suffix = Annotated[list[str] | None, typer.Option(help="Older file suffix, e.g. t1ce=t1c; repeat.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of one worker.")]
Verify = Annotated[bool, typer.Option(help="Compare what is done with its hashes before resuming.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Predict workers.")]

_ALL = "all"


class RetryCommand(TyperCommand):
    """A command whose `--retry-failed` takes any number of categories, or none for all of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own copy of click is private
        """See click."""
        return super().parse_args(ctx, _with_values(args))


def _with_values(args: Iterable[str]) -> list[str]:
    """Give `--retry-failed` one value: the categories that follow it, or the word for all."""
    words, spelled = list(args), []
    while words:
        word = words.pop(0)
        spelled.append(word)
        if word == RETRY_FLAG:
            values = []
            while words and all(part in {*Category, _ALL} for part in words[0].split(",")):
                values.append(words.pop(0))
            spelled.append(",".join(values) or _ALL)
    return spelled


def categories(text: str | None) -> tuple[Category, ...]:
    """The failure categories that `--retry-failed` asks for.

    Raises:
        ConfigError: there is no such category.
    """
    wanted = names(text) or ()
    if _ALL in wanted:
        return tuple(Category)
    unknown = [name for name in wanted if name not in set(Category)]
    if unknown:
        raise ConfigError(f"{RETRY_FLAG}: no failure category {unknown[0]!r}; there are {', '.join(Category)}")
    return tuple(Category(name) for name in wanted)


def names(text: str | None) -> tuple[str, ...] | None:
    """The parts of a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else None


def pairs(option: str, items: list[str] | None) -> dict[str, str] | None:
    """`NAME=MEANING` items of an option that repeats.

    Raises:
        ConfigError: an item has another form.
    """
    if not items:
        return None
    parts = [item.partition("=") for item in items]
    for left, _, right in parts:
        if not (left and right):
            raise ConfigError(f"{option} {left}: expected NAME=VALUE")
    return {left: right for left, _, right in parts}


def settings(items: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE` items of `--set`, values as in YAML, dots leading into groups: `s3.region=eu-central-1`.

    Raises:
        ConfigError: an item has another form.
    """
    import yaml

    from goat_ray.config import parse_yaml

    tree: dict[str, Any] = {}
    for key, text in (pairs("--set", items) or {}).items():
        *groups, leaf = key.split(".")
        try:
            place = tree
            for group in groups:
                place = place.setdefault(group, {})
            place[leaf] = parse_yaml(text.encode())
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"--set {key}: {text!r} is no YAML value") from error
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"--set {key}: a part of it was set to a value before") from error
    return tree
