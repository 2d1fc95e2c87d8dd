"""How words on the command line become settings."""

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from goat_ray.errors import Category, ConfigError
from goat_ray.options import RetryCommand, categories, names, pairs, settings

app = typer.Typer()


@app.command(cls=RetryCommand)
def command(
    cohort: Annotated[str | None, typer.Argument()] = None,
    retry_failed: Annotated[str | None, typer.Option()] = None,
    verify: Annotated[bool, typer.Option()] = False,
) -> None:
    typer.echo(f"{cohort} {retry_failed} {verify}")


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("cohort", "cohort None False"),
        ("cohort --retry-failed", "cohort all False"),
        ("cohort --retry-failed --verify", "cohort all True"),
        ("cohort --retry-failed worker_lost", "cohort worker_lost False"),
        ("cohort --retry-failed worker_lost timed_out --verify", "cohort worker_lost,timed_out True"),
        ("--retry-failed worker_lost,timed_out cohort", "cohort worker_lost,timed_out False"),
        ("--retry-failed cohort", "cohort all False"),
        ("--retry-failed all cohort", "cohort all False"),
    ],
)
def test_retry_failed_takes_any_number_of_categories(words: str, seen: str) -> None:
    assert CliRunner().invoke(app, words.split()).stdout.strip() == seen


def test_categories_are_checked() -> None:
    assert categories(None) == ()
    assert categories("all") == tuple(Category)
    assert categories("worker_lost, timed_out") == (Category.WORKER_LOST, Category.TIMED_OUT)
    with pytest.raises(ConfigError, match="no failure category 'worker_lots'"):
        categories("worker_lots")


def test_settings_have_yaml_values_and_dots_lead_into_groups() -> None:
    given = ["case_timeout_s=600", "s3.anonymous=true", "s3.region=eu-central-1", "members=[A, B]"]
    assert settings(given) == {
        "case_timeout_s": 600,
        "s3": {"anonymous": True, "region": "eu-central-1"},
        "members": ["A", "B"],
    }
    assert settings(None) == {}


@pytest.mark.parametrize(
    "items",
    [
        ["case_timeout_s"],
        ["=3"],
        ["a="],
        ["a=[1"],
        ["a=!!bool maybe"],
        ["a=&a [*a]"],
        ["a=1", "a.b=1"],
        ["a=1", "a.b.c=1"],
    ],
)
def test_a_setting_of_another_form_is_refused(items: list[str]) -> None:
    with pytest.raises(ConfigError, match="--set"):
        settings(items)


def test_names_and_pairs() -> None:
    assert names("a, b,,c") == ("a", "b", "c")
    assert names(None) is None
    assert pairs("--suffix", ["t1ce=t1c"]) == {"t1ce": "t1c"}
    with pytest.raises(ConfigError, match="--suffix t1ce: expected"):
        pairs("--suffix", ["t1ce"])
