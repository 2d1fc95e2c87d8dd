"""The image's recipe, as far as it can be checked where no container engine is."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import ROOT

RECIPE = (ROOT / "Dockerfile").read_text()
STEPS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", RECIPE, flags=re.MULTILINE)).splitlines()
    if line.strip()
]
RUNS = [words for verb, words in STEPS if verb == "RUN"]


def values(verb: str) -> list[str]:
    return [words for found, words in STEPS if found == verb]


def test_the_base_is_pinned_to_the_last_number() -> None:
    arguments = dict(words.split("=", 1) for words in values("ARG") if "=" in words)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", arguments["PYTHON_IMAGE"])
    assert {words.split(" AS ")[0] for words in values("FROM")} == {"${PYTHON_IMAGE}"}


def test_it_does_not_run_as_root() -> None:
    verbs = [verb for verb, _ in STEPS]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", values("USER")[-1])
    assert "RUN" not in verbs[len(verbs) - verbs[::-1].index("USER") :]


def test_nothing_comes_from_the_network_but_packages() -> None:
    assert not values("ADD")
    assert not [words for words in RUNS if re.search(r"\b(curl|git clone)\b|\bwget http", words)]


def test_no_package_lists_and_no_caches_stay() -> None:
    (with_apt,) = (words for words in RUNS if "apt-get" in words)
    assert "--no-install-recommends" in with_apt
    assert "rm -rf /var/lib/apt/lists/*" in with_apt
    assert "PIP_NO_CACHE_DIR=1" in " ".join(values("ENV"))


def test_versions_are_those_that_the_suite_runs_with() -> None:
    assert all("--constraint constraints.txt" in words for words in RUNS if "--requirement" in words)
    pinned = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pinned["ray"] == version("ray")
    assert {"torch", "boto3"} <= pinned.keys()


def test_a_login_shell_finds_ray(tmp_path: Path) -> None:
    """The cluster launcher uses login shells, and Debian's reset PATH."""
    (line, file) = re.search(r"echo '([^']+)' > (/etc/profile\.d/\S+\.sh)", RECIPE).groups()
    (tmp_path / "profile").write_text(f"PATH=/usr/bin:/bin\n{line}\n")
    command = ["bash", "-c", f". {shlex.quote(str(tmp_path / 'profile'))}; echo $PATH"]
    found = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.defpath}).stdout
    assert found.startswith("/opt/venv/bin:")
    assert file.startswith("/etc/profile.d/")


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for words in values("COPY"):
        *sources, _ = (word for word in words.split() if not word.startswith("--"))
        for source in [] if "--from=" in words else sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in rules
    assert rules[0] == "*"


def test_the_package_s_own_files_suffice_to_build_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = ["pyproject.toml", project["readme"], *project["license-files"], "goat_ray"]
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert [name for name in needed if not any(fnmatch(name, pattern) for pattern in sent)] == []


def test_hadolint_has_nothing_to_say() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    found = str(beside) if beside.exists() else shutil.which("hadolint")
    if not found:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([found, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
