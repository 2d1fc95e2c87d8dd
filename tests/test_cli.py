"""The command line: exit codes, messages and plain output."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import pytest
from typer.testing import CliRunner

from goat_ray import cli
from tests.cohorts import phantom, write_case, write_tiny_ensemble
from tests.members.results import nnunet_network, small_dataset, small_plans, write_results_folder

Done = subprocess.CompletedProcess[str]
GOAT_RAY = Path(sys.executable).with_name("goat-ray")


def goat_ray(*arguments: object) -> Done:
    return subprocess.run([GOAT_RAY, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The same in this process, which has imported everything already."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["goat-ray", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        stdout, stderr = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(str(code)), stdout, stderr)

    return run


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_ensemble(tmp_path_factory.mktemp("ensemble"))


def test_a_run_with_a_failed_case_tells_the_whole_story_in_plain_lines_and_exits_3(
    ensemble: Path, tmp_path: Path
) -> None:
    write_case(tmp_path / "cohort", "case-1")
    (write_case(tmp_path / "cohort", "case-2") / "case-2-t2w.nii.gz").write_text("no image")
    done = goat_ray("predict", tmp_path / "cohort", "--ensemble", ensemble, "--out", tmp_path / "run")
    assert done.returncode == 3, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "2/2 cases, 1 failed" in done.stderr
    assert re.search(r"case-2\tunreadable_file\t.+t2w.+\t.+", done.stdout)
    assert re.search(r"discovered\tok\tfailed\tskipped\tseconds\n2\t1\t1\t0\t", done.stdout)
    assert (tmp_path / "run" / "labels" / "case-1.nii.gz").is_file()


def test_a_program_gets_events_on_stdout_and_nothing_else(tmp_path: Path) -> None:
    head = phantom(1)
    for folder, names in (("labels", ("one", "two")), ("references", ("one", "two", "three"))):
        (tmp_path / folder).mkdir()
        for name in names:
            nibabel.save(nibabel.Nifti1Image(head.labels, head.affine), tmp_path / folder / f"{name}.nii.gz")
    arguments = [tmp_path / "labels", "--references", tmp_path / "references", "--spec", "brats2023-gli"]
    done = goat_ray("evaluate", *arguments, "--out", tmp_path / "run", "--json")
    assert done.returncode == 3, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    start, *cases, end = [event for event in events if event["event"] != "progress"]
    assert (start["event"], start["to_do"], start["already_done"]) == ("start", 3, 0)
    outcomes = {case["case_id"]: (case["outcome"], case["category"], case["stage"]) for case in cases}
    assert outcomes == {
        "one": ("ok", None, None),
        "two": ("ok", None, None),
        "three": ("failed", "missing_prediction", "discover"),
    }
    assert (end["event"], end["state"], end["exit_code"]) == ("end", "finished", 3)
    assert (end["discovered"], end["ok"], end["failed"], end["skipped"]) == (3, 2, 1, 0)
    assert end["run_id"] == start["run_id"]
    assert "case=three stage=discover failed: missing_prediction" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "cohort", "--ensemble", "missing.yaml", "--out", "run"], "missing.yaml"),
        (["predict", "nowhere", "--ensemble", "ENSEMBLE", "--out", "run"], "nowhere"),
        (["predict", "empty", "--ensemble", "ENSEMBLE", "--out", "run"], "empty"),
        (["predict", "cohort", "--ensemble", "ENSEMBLE", "--out", "run", "--members", "Label"], "Labels"),
        (["predict", "cohort", "--ensemble", "ENSEMBLE", "--out", "run", "--decode", "best"], "majority"),
        (["predict", "cohort", "--ensemble", "ENSEMBLE", "--out", "run", "--precision", "half"], "bfloat16"),
        (["predict", "cohort", "--ensemble", "ENSEMBLE"], "out: field required"),
        (["predict", "cohort", "--ensemble", "ENSEMBLE", "--out", "/proc/run"], "/proc/run"),
        (["predict", "ftp://host/cohort", "--ensemble", "ENSEMBLE", "--out", "run"], "ftp://"),
        (["predict", "cohort", "--no-such-flag"], "no-such-flag"),
        (["predict", "cohort", "--ensemble", "ENSEMBLE", "--out", "run", "--spec", "brats2023"], "brats2023-gli"),
        (["evaluate", "cohort", "--references", "cohort", "--out", "run"], "spec: field required"),
        (["evaluate", "nowhere", "--references", "cohort", "--out", "run", "--spec", "goat2025"], "nowhere"),
        (["evaluate", "cohort", "--references", "empty", "--out", "run", "--spec", "goat2026"], "brats2026-goat"),
        (["evaluate", "empty", "--references", "empty", "--out", "run", "--spec", "goat2025"], "empty"),
        (["ensemble", "import", "nowhere", "--out", "e.yaml"], "nowhere"),
        (["ensemble", "inspect", "missing.yaml"], "missing.yaml"),
    ],
)
def test_a_request_that_cannot_be_met_exits_2_before_any_work(
    arguments: list[str],
    words: str,
    ensemble: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: Callable[..., Done],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_case(tmp_path / "cohort", "case-1")
    done = here(*[str(ensemble) if part == "ENSEMBLE" else part for part in arguments])
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["key", "missing", "hash", "shapes"])
def test_a_damaged_ensemble_exits_2_before_any_work(damage: str, tmp_path: Path, here: Callable[..., Done]) -> None:
    import hashlib

    from safetensors.torch import load_file, save_file

    manifest = write_tiny_ensemble(tmp_path / "ensemble")
    weights = manifest.parent / "members" / "Labels" / "weights.safetensors"
    if damage == "key":
        manifest.write_text(manifest.read_text() + "wieght: 1\n")
    elif damage == "missing":
        weights.unlink()
    elif damage == "hash":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    else:
        before = hashlib.sha256(weights.read_bytes()).hexdigest()
        state = load_file(weights)
        name = "decoder.seg_layers.1.bias"
        save_file({**state, name: state[name][:2].clone()}, weights)
        after = hashlib.sha256(weights.read_bytes()).hexdigest()
        manifest.write_text(manifest.read_text().replace(before, after))
    write_case(tmp_path / "cohort", "case-1")
    done = here("predict", tmp_path / "cohort", "--ensemble", manifest, "--out", tmp_path / "run")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
    expected = {"key": "wieght", "missing": "weights.safetensors", "hash": "sha256", "shapes": "seg_layers.1.bias"}
    assert expected[damage] in done.stderr


def test_import_inspect_and_verify_show_the_members(tmp_path: Path, here: Callable[..., Done]) -> None:
    plans = small_plans()
    state = nnunet_network(plans, 4, 4, deep_supervision=False).state_dict()
    folder = write_results_folder(tmp_path, plans, small_dataset(), state)
    manifest = tmp_path / "ensemble.yaml"
    imported = here("ensemble", "import", folder, "--out", manifest)
    assert imported.returncode == 0, imported.stderr
    inspected = here("ensemble", "inspect", manifest)
    header, member = inspected.stdout.splitlines()[:2]
    row = dict(zip(header.split("\t"), member.split("\t"), strict=True))
    assert row["member"] == "ResNetM"
    assert row["patch"] == "16×16×8"
    assert row["channels"] == "t1c t1n t2f t2w"
    assert int(row["parameters"].replace(",", "")) == sum(
        parameter.numel() for parameter in nnunet_network(plans, 4, 4, deep_supervision=False).parameters()
    )
    verified = here("ensemble", "verify", manifest)
    assert (verified.returncode, "ResNetM\tok" in verified.stdout) == (0, True)
    weights = tmp_path / "members" / "ResNetM" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert here("ensemble", "verify", manifest).returncode == 2


@pytest.mark.parametrize(("flags", "wanted"), [([], False), (["--save-probabilities"], True)])
def test_probabilities_are_saved_when_asked_for(
    flags: list[str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(cli, "_predict", lambda config, **_: asked.append(config.save_probabilities))
    monkeypatch.setattr(cli, "exit_with", lambda _: None)
    done = CliRunner().invoke(cli.app, ["predict", "scans", "--ensemble", "e.yaml", "--out", "run", *flags])
    assert (done.exit_code, asked) == (0, [wanted])


def test_the_version_is_shown() -> None:
    done = goat_ray("--version")
    assert re.fullmatch(r"goat-ray \d+\.\d+\.\d+\n", done.stdout)
