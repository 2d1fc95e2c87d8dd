"""How the command line's words become settings: lists, pairs, and options whose values may be left out."""

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from goat_ray.errors import Category, ConfigError

RETRY_FLAG = "--retry-failed"
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
