"""One Ray, one ensemble and one undisturbed run for all pipeline tests."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from goat_ray.config import RunConfig
from tests.cohorts import write_case, write_tiny_ensemble


@pytest.fixture(scope="session")
def ray_cluster(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local Ray with four logical processors, whose workers know the S3 server and a cache of their own."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of two tiny members."""
    return write_tiny_ensemble(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five healthy cases."""
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(1, 6):
        write_case(folder, f"BraTS-GoAT-0000{number}", seed=number)
    return folder


@pytest.fixture
def config(cohort: Path, ensemble: Path, tmp_path: Path) -> RunConfig:
    """The plainest run over the healthy cases, into a folder of its own."""
    return RunConfig(cohort=str(cohort), ensemble=str(ensemble), out=str(tmp_path / "run"), threads=1, workers=1)
