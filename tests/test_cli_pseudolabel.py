"""The command `pseudo-label`: what its flags mean, what it shows, and what it exits with."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from goat_ray import cli
from goat_ray.pipeline import pseudolabel
from goat_ray.pipeline.job import Again, RunSummary
from goat_ray.pipeline.pseudolabel import PseudoLabelSummary
from goat_ray.pseudolabel.config import PseudoLabelConfig
from tests.cohorts import write_case, write_tiny_ensemble
from tests.inline import pseudo_label_inline
from tests.pipeline.test_pseudolabel import write_labelled

FLAGS = ["scans", "--ensemble", "e.yaml", "--labelled", "experts", "--out", "out"]


def run_of(**counts: int) -> RunSummary:
    values = {"discovered": 0, "ok": 0, "failed": 0, "skipped": 0, "already_done": 0, **counts}
    return RunSummary(run_id="r", out="out", failures=(), warnings=(), elapsed_s=1.0, **values)  # type: ignore[arg-type]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[PseudoLabelConfig]:
    """The configurations that the command carries out; one of two labelled cases fails in each."""
    seen: list[PseudoLabelConfig] = []

    def carry_out(config: PseudoLabelConfig, _reporter: object, *, overwrite: bool, again: Again) -> Any:
        seen.append(config)
        inspected, predicted = run_of(discovered=2, ok=1, failed=1), run_of(discovered=3, ok=3)
        kept, refused = {"human": 1, "pseudo": 2}, {"gate": 1}
        return PseudoLabelSummary(inspected, predicted, "out/Dataset603_BraTS", kept, refused, changed=7)

    monkeypatch.setattr(pseudolabel, "pseudo_label_cohort", carry_out)
    return seen


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["pseudo-label", *arguments], catch_exceptions=False)


def test_without_gates_everything_is_kept_as_the_winners_did(called: list[PseudoLabelConfig]) -> None:
    invoke(*FLAGS, "--members", "ResNetM,ResNetL,ResNetXL")
    (config,) = called
    assert config.gates.model_dump(exclude_none=True) == {"preset": "none"}
    assert (config.postprocess.method, config.postprocess.wt_min) == ("minimum", 10)
    assert (config.dataset, config.form, config.folds) == ("Dataset603_BraTS", "copy", 5)
    assert config.members == ("ResNetM", "ResNetL", "ResNetXL")


def test_gates_are_set_one_by_one_on_top_of_a_preset(called: list[PseudoLabelConfig]) -> None:
    invoke(*FLAGS, "--gates", "strict", "--gate", "dice_wt_min=0.9", "--gate", "site_cap=200", "--form", "in-place")
    (config,) = called
    assert config.gates.model_dump(exclude_none=True) == {"preset": "strict", "dice_wt_min": 0.9, "site_cap": 200}
    assert config.form == "in-place"


def test_the_end_tells_what_was_kept_and_refused_and_failures_exit_3(called: list[PseudoLabelConfig]) -> None:
    done = invoke(*FLAGS)
    assert done.exit_code == 3
    assert "human\tin the dataset\t1" in done.stdout
    assert "pseudo\tin the dataset\t2" in done.stdout
    assert "pseudo\trefused: gate\t1" in done.stdout
    assert "out/Dataset603_BraTS (7 file(s) written or deleted)" in done.stdout


@pytest.mark.parametrize("flags", [["--gate", "dice_wt_min=2"], ["--gate", "dice=0.5"], ["--gates", "lax"]])
def test_a_gate_that_is_none_is_refused(called: list[PseudoLabelConfig], flags: list[str]) -> None:
    with pytest.raises(cli.ConfigError, match="gates"):
        invoke(*FLAGS, *flags)
    assert not called


def test_a_dry_run_shows_what_gates_would_keep(tmp_path: Path) -> None:
    for seed, case_id in enumerate(("a-1", "a-2")):
        write_labelled(tmp_path / "labelled", case_id, seed)
    write_case(tmp_path / "cohort", "new", 9)
    places = {name: str(tmp_path / name) for name in ("cohort", "labelled", "out")}
    ensemble = str(write_tiny_ensemble(tmp_path / "ensemble"))
    pseudo_label_inline(PseudoLabelConfig(**places, ensemble=ensemble, folds=2, device="cpu"))
    flags = [places["cohort"], "--labelled", places["labelled"], "--ensemble", ensemble, "--out", places["out"]]
    done = invoke(*flags, "--gate", "wt_volume_ml_min=1000000", "--dry-run")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "gate\tall\tno site"
    assert "no gate\t1/1\t1/1" in lines
    assert "all gates as set\t0/1\t0/1" in lines
    assert "wt_volume_ml >= 1e+06\t0/1\t0/1" in lines
    assert (tmp_path / "out" / "Dataset603_BraTS" / "labelsTr" / "new.nii.gz").exists()
