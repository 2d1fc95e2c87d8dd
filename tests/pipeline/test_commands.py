"""Whole commands in this process: what they print, and their exit codes."""

import re
from pathlib import Path

import nibabel
import pytest
from typer.testing import CliRunner, Result

from goat_ray import cli
from goat_ray.config import RunConfig
from goat_ray.pipeline import predict
from goat_ray.pipeline.job import Again, RunSummary
from goat_ray.pipeline.progress import Reporter
from tests.cohorts import phantom, write_case
from tests.inline import predict_inline


def goat_ray(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_evaluate_shows_means_and_who_is_in_them_and_exits_3_when_a_case_could_not_be_scored(
    ray_cluster: None, tmp_path: Path
) -> None:
    head = phantom(1)
    for folder, names in (("labels", ("one", "two")), ("references", ("one", "two", "three"))):
        (tmp_path / folder).mkdir()
        for name in names:
            image = nibabel.Nifti1Image(head.labels, head.affine)
            nibabel.save(image, tmp_path / folder / f"{name}.nii.gz")
    arguments = ["--references", tmp_path / "references", "--spec", "brats2023-gli", "--out", tmp_path / "run"]
    done = goat_ray("evaluate", tmp_path / "labels", *arguments, "--exports")
    assert done.exit_code == 3, done.output
    assert "\x1b" not in done.output
    assert re.search(r"three\tmissing_prediction\t.+\t.+", done.stdout)
    assert re.search(r"brats2023-gli\tWT\t3\t2\t0\t0\t0\.6667\t0\.6667\t0\.6667\t124\.6667", done.stdout)
    assert "1 case(s) without prediction are in the means" in done.stdout
    assert (tmp_path / "run" / "exports" / "all_scores.csv").is_file()


def test_a_clean_run_exits_0(ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ray(config: RunConfig, reporter: Reporter, *, overwrite: bool, again: Again) -> RunSummary:
        return predict_inline(config, again, overwrite=overwrite)

    monkeypatch.setattr(predict, "predict_cohort", without_ray)
    write_case(tmp_path / "cohort", "case-1")
    done = goat_ray("predict", tmp_path / "cohort", "--ensemble", ensemble, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
