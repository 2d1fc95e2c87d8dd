"""One machine outgrown: the same results on one node, on three, and with members divided between types of GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from goat_ray.config import RunConfig
from tests.conftest import ROOT
from tests.nodes import MEMBERS, TYPES
from tests.pipeline.test_predict import outputs


@pytest.fixture(scope="module")
def runs(cohort: Path, ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    config = RunConfig(
        cohort=str(cohort), ensemble=str(ensemble), out=str(folder / "run"), threads=1, limit=3, members=MEMBERS
    )
    (folder / "config.json").write_text(config.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "tests.nodes", folder],
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_labels_and_tables_are_the_same_on_one_node_and_on_three(runs: Path) -> None:
    one = outputs(str(runs / "one"))
    assert len([key for key in one if key.startswith("labels/")]) == 3
    assert outputs(str(runs / "three")) == one


def test_members_on_different_gpus_give_the_same_bits(runs: Path) -> None:
    assert outputs(str(runs / "divided")) == outputs(str(runs / "one"))


def test_each_pool_works_on_a_gpu_of_its_type(runs: Path) -> None:
    nodes = json.loads((runs / "nodes.json").read_text())
    notes = [json.loads(path.read_text()) for path in (runs / "notes").iterdir()]
    assert len(notes) == 3 * len(MEMBERS)
    for note in notes:
        assert note["node"] == nodes[dict(zip(MEMBERS, TYPES, strict=True))[note["members"][0]]]
        assert note["gpus"] == "0"
