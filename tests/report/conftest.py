"""Two scored runs, one without references, and their pages."""

from pathlib import Path

import pandas as pd
import pytest

from goat_ray.config import RunConfig
from goat_ray.report.page import write_report
from tests.cohorts import write_case, write_tiny_ensemble
from tests.inline import predict_inline
from tests.report.runs import make_run, twin


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("one"), 0.7)


@pytest.fixture(scope="session")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("other"), 0.95)


@pytest.fixture(scope="session")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report([str(run)], str(out))
    return out


@pytest.fixture(scope="session")
def numbers(page: Path) -> pd.DataFrame:
    return twin(page)


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_ensemble(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture(scope="session")
def predicted(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `predict` over three phantoms without references, one of them broken."""
    folder = tmp_path_factory.mktemp("predicted")
    for number in (1, 2, 3):
        write_case(folder / "cohort", f"case-{number}", seed=number)
    (folder / "cohort" / "case-3" / "case-3-t1c.nii.gz").write_bytes(b"broken")
    predict_inline(RunConfig(cohort=str(folder / "cohort"), ensemble=str(ensemble), out=str(folder / "run")))
    return folder / "run"


@pytest.fixture(scope="session")
def predicted_page(predicted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted-report") / "report.html"
    write_report([str(predicted)], str(out))
    return out
