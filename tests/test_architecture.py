"""The rules that keep the package in layers, small and quick to import."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "goat_ray"
LAYERS = [
    {"errors"},
    {"cases", "discovery", "sheets", "storage", "filesystems", "labels", "patients", "config"},
    {"postprocess", "metrics", "imaging"},
    {"commits", "costs", "ledger", "preflight", "quality", "runs", "status", "tables"},
    {"members", "report", "pseudolabel"},
    {"demo"},
    {"pipeline"},
    {
        "cli",
        "cli_check",
        "cli_ensemble",
        "cli_pseudolabel",
        "cli_submit",
        "console",
        "console_check",
        "options",
        "running",
    },
]
OWNERS = {
    "ray": {"pipeline"},
    "torch": {"members", "demo"},
    "triton": {"members"},
    "safetensors": {"members"},
    "nnunetv2": {"members"},
    "statsmodels": {"report"},
    "sklearn": {"pseudolabel"},
    "matplotlib": {"report"},
    "pandas": {"console", "pipeline", "pseudolabel", "quality", "report"},
    "jinja2": {"report"},
    "typer": {"cli", "cli_check", "cli_ensemble", "cli_pseudolabel", "cli_submit", "options", "running"},
    "rich": {"console", "console_check", "pipeline"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def rank(room: str) -> int:
    return next(index for index, rooms in enumerate(LAYERS) if room in rooms)


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_the_layers(module: Path) -> None:
    room = room_of(module)
    if room == "__init__":
        return
    for name in imported_names(module):
        if name.startswith("goat_ray.") and name != "goat_ray.__version__":
            target = name.split(".")[1]
            assert target == room or rank(target) <= rank(room), f"{room} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_stay_in_their_room(module: Path) -> None:
    used = {name.split(".")[0] for name in imported_names(module)} & OWNERS.keys()
    for library in used:
        assert room_of(module) in OWNERS[library], f"{module} imports {library}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text())), f"{module} has no docstring"


@pytest.mark.parametrize(
    "name",
    [
        "goat_ray",
        "goat_ray.cli",
        "goat_ray.tables",
        "goat_ray.imaging.nifti",
        "goat_ray.imaging.geometry",
        "goat_ray.postprocess",
        "goat_ray.metrics.shapes",
        "goat_ray.members",
        "goat_ray.members.preprocess",
    ],
)
def test_the_core_imports_without_ray_and_torch(name: str) -> None:
    blocked = "import sys; sys.modules['torch'] = sys.modules['ray'] = sys.modules['nnunetv2'] = None; "
    done = subprocess.run([sys.executable, "-c", f"{blocked}import {name}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_is_there_well_under_a_second() -> None:
    command = [Path(sys.executable).with_name("goat-ray"), "--help"]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0
    assert min(seconds) < 1.0
