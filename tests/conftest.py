"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

pytest_plugins = ("tests.s3_server",)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The private test material; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("GOAT_RAY_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cohort").is_dir():
        pytest.skip("GOAT_RAY_DATA names no test material")
    return folder
