"""The entrypoints of `ray job submit` and their example settings."""

import logging
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from goat_ray.config import EvaluateConfig, RunConfig, load_config
from goat_ray.pseudolabel.config import PseudoLabelConfig
from tests.conftest import ROOT

JOBS = ROOT / "jobs"
SCRIPTS = ("predict", "evaluate", "pseudo_label", "report")
EXAMPLES = [
    ("predict.yaml", RunConfig),
    ("evaluate.yaml", EvaluateConfig),
    ("pseudo_label.yaml", PseudoLabelConfig),
]


@pytest.fixture(autouse=True)
def own_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sends its log to a stderr that is gone after the test."""
    monkeypatch.setattr(logging.getLogger("goat_ray"), "handlers", [])


def uncommented(text: str) -> str:
    """The example with every key switched on that it only shows."""
    return re.sub(r"^# ((?:  )*[a-z_0-9]+:)", r"\1", text, flags=re.MULTILINE)


def keys(model: type[BaseModel]) -> set[str]:
    nested = [field.annotation for field in model.model_fields.values()]
    groups = [kind for kind in nested if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return set(model.model_fields).union(*(keys(group) for group in groups))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_a_few_lines_around_the_command(name: str) -> None:
    assert len((JOBS / f"{name}.py").read_text().splitlines()) < 30


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_ends_with_the_command_s_exit_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, nothing = str(JOBS / f"{name}.py"), str(tmp_path / "nothing")
    words = [nothing, "--out", "x.html"] if name == "report" else ["--config", nothing]
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert ended.value.code == 2
    assert nothing in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "report"])
def test_a_script_never_starts_a_ray_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr("goat_ray.cli.main", lambda: called.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", [name, "--limit", "3"])
    runpy.run_path(str(JOBS / f"{name}.py"), run_name="__main__")
    assert called == [[name.replace("_", "-"), "--address", "auto", "--limit", "3"]]


@pytest.mark.parametrize(("name", "model"), EXAMPLES)
def test_an_example_is_valid_as_it_stands(name: str, model: type[BaseModel]) -> None:
    assert load_config(model, str(JOBS / name), {})


@pytest.mark.parametrize(("name", "model"), EXAMPLES)
def test_an_example_shows_every_key_and_each_with_a_valid_value(
    name: str, model: type[BaseModel], tmp_path: Path
) -> None:
    whole = tmp_path / name
    whole.write_text(uncommented((JOBS / name).read_text()))
    assert load_config(model, str(whole), {})
    shown = yaml.safe_load(whole.read_text())
    groups = [value for value in shown.values() if isinstance(value, dict)]
    assert {*shown, *(key for group in groups for key in group)} >= keys(model)


@pytest.mark.parametrize(("name", "model"), EXAMPLES)
def test_what_an_example_calls_default_is_the_default(name: str, model: type[BaseModel], tmp_path: Path) -> None:
    """Keys that are switched off show their default, unless that is nothing, or the line says it is an example."""
    shown = yaml.safe_load(uncommented((JOBS / name).read_text()))
    for key, field in model.model_fields.items():
        default = field.default.model_dump() if isinstance(field.default, BaseModel) else field.default
        if not field.is_required() and default is not None:
            assert same(shown[key], default), key


def same(shown: Any, default: Any) -> bool:
    """Whether each default that is something is shown."""
    if not isinstance(default, dict):
        return bool(shown == (list(default) if isinstance(default, tuple) else default))
    return all(shown[key] == value for key, value in default.items() if value is not None)
