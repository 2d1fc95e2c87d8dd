"""The demo command, on two of its cases: a whole one and the one that is broken on purpose."""

from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from goat_ray import cli
from goat_ray.demo import cohort
from goat_ray.errors import GoatRayError
from goat_ray.pipeline.job import RunSummary
from tests.browser import CHROMIUM, SIGHTS, check, check_print
from tests.cohorts import embedded_with_small_windows

WHOLE, BROKEN = cohort.DEMO_CASES[0], cohort.DEMO_CASES[-1]

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_the_demo_loses_exactly_its_broken_case_and_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BROKEN.case_id == cohort.BROKEN_CASE
    write = partial(cohort.write_demo_cohort, cases=(WHOLE, BROKEN), shape=(32, 36, 30))
    monkeypatch.setattr(cohort, "write_demo_cohort", write)
    monkeypatch.setattr(cohort, "EMBEDDED_ENSEMBLE", embedded_with_small_windows(tmp_path / "ensemble"))
    done = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert cohort.BROKEN_CASE in done.output
    assert f"goat-ray predict COHORT --ensemble {tmp_path / 'ensemble'}" in done.output
    cases = pq.read_table(tmp_path / "run" / "tables" / "cases.parquet").to_pylist()
    assert {row["case_id"]: row["status"] for row in cases} == {WHOLE.case_id: "ok", BROKEN.case_id: "failed"}
    assert [row["site"] for row in cases] == [WHOLE.site, BROKEN.site]
    assert cases[0]["members"] == ["ResNetM", "ResNetL", "ResNetXL", "FinetuneM", "FinetuneL", "FinetuneXL", "UMamba"]
    if CHROMIUM:
        for width, scheme in SIGHTS:
            assert check(tmp_path / "report.html", tmp_path, width, scheme) == 1
        check_print(tmp_path / "report.html", tmp_path)


def test_a_demo_that_ends_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = partial(cohort.write_demo_cohort, cases=(BROKEN,), shape=(32, 36, 30))
    monkeypatch.setattr(cohort, "write_demo_cohort", write)
    nothing_failed = RunSummary("id", str(tmp_path), 1, 1, 0, 0, 0, (), (), 1.0)
    monkeypatch.setattr(cli, "_predict", lambda *_, **__: nothing_failed)
    with pytest.raises(GoatRayError, match="exactly its broken case"):
        CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path)], catch_exceptions=False)
