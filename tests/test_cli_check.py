"""The command `check`: what it shows, and what it exits with."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from goat_ray import cli, console_check
from goat_ray.cases import Case, FailedCase
from goat_ray.cli_check import _with_number
from goat_ray.errors import Category, Failure
from goat_ray.pipeline import measure
from goat_ray.pipeline.hardware import Cluster, Node
from goat_ray.pipeline.placement import Placement, Pool
from goat_ray.preflight import CheckConfig, GridKind, Preflight, Runnable
from goat_ray.runs import open_run
from goat_ray.storage import RunStore
from tests.cohorts import write_case
from tests.pipeline.test_measure import measured_of

pytest_plugins = ("tests.s3_server",)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two healthy cases of the north and an empty file of the south."""
    folder = tmp_path / "cohort"
    for number in (1, 2, 3):
        write_case(folder, f"case-{number}")
    (folder / "case-3" / "case-3-t2w.nii.gz").write_bytes(b"")
    (folder / "sites.csv").write_text("case_id,site\ncase-1,north\ncase-2,north\ncase-3,south\n")
    return folder


def check(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["check", *map(str, arguments)], catch_exceptions=False)


def test_a_broken_case_is_told_with_what_to_do_and_exits_3(cohort: Path) -> None:
    done = check(cohort, "--sites", cohort / "sites.csv")
    assert done.exit_code == 3
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["case", "category", "what was found", "what to do"]
    assert lines[1][:2] == ["case-3", "unreadable_file"]
    assert "t2w" in lines[1][2]
    assert lines[1][3]
    assert ["north", "2", "0"] in lines
    assert ["south", "0", "1"] in lines
    assert ["30×34×28", "1×1×1", "2"] in lines
    size = sum(path.stat().st_size for path in cohort.glob("case-[12]/*"))
    assert ["3", "2", "1", "0", "0", f"{size / 1e3:.1f} kB"] in lines


def test_a_healthy_cohort_exits_0(cohort: Path) -> None:
    assert check(cohort, "--limit", 2).exit_code == 0


def test_a_cohort_of_which_nothing_can_run_exits_2(cohort: Path) -> None:
    for path in cohort.glob("*/*-t1c.nii.gz"):
        path.write_bytes(b"no image")
    done = check(cohort)
    assert done.exit_code == 2
    assert done.stdout.count("unreadable_file") == 3


def test_a_program_gets_one_object(cohort: Path) -> None:
    done = check(cohort, "--json")
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert (told["discovered"], told["would_run"], told["would_fail"]) == (3, 2, 1)
    assert [(one["case_id"], one["category"]) for one in told["failures"]] == [("case-3", "unreadable_file")]
    assert (told["run"], told["measured"], told["exit_code"], done.exit_code) == (None, None, 3, 3)


def test_a_cohort_on_s3_is_reached_as_set(cohort: Path, s3_bucket: str, s3_endpoint: str) -> None:
    import boto3

    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    for path in cohort.glob("case-1/*"):
        s3.upload_file(str(path), s3_bucket.removeprefix("s3://"), f"{path.parent.name}/{path.name}")
    done = check(s3_bucket, "--set", f"s3.endpoint_url={s3_endpoint}", "--json")
    assert json.loads(done.stdout)["would_run"] == 1


def test_settings_come_from_the_file_of_a_run(cohort: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"cohort: {cohort}\nensemble: e.yaml\nout: {tmp_path}/run\nlimit: 1\n")
    assert json.loads(check("--config", config, "--json").stdout)["skipped"] == 2
    assert json.loads(check("--config", config, "--limit", 3, "--json").stdout)["skipped"] == 0


def test_a_run_folder_tells_how_far_its_run_is(cohort: Path, tmp_path: Path) -> None:
    assert json.loads(check(cohort, "--out", tmp_path / "run", "--json").stdout)["run"] is None
    store = RunStore(str(tmp_path / "run"))
    open_run(store, {"decode": "majority"}, {"kind": "predict", "expected": 3, "state": "running"})
    assert json.loads(check(cohort, "--out", tmp_path / "run", "--json").stdout)["run"]["remaining"] == 3
    assert "predict" in check(cohort, "--out", tmp_path / "run").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "cohort: field required"),
        (["nowhere"], "nowhere"),
        (["COHORT", "--measure"], "--ensemble"),
        (["COHORT", "--spec", "goat2026"], "goat2025"),
        (["COHORT", "--out", "ftp://host/run"], "ftp://"),
        (["COHORT", "--set", "threds=3"], "threads"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments: list[str], words: str, cohort: Path) -> None:
    with pytest.raises(cli.ConfigError, match=words):
        check(*[cohort if argument == "COHORT" else argument for argument in arguments])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["a", "--measure"], ["a", "--measure=3"]),
        (["--measure", "a"], ["--measure=3", "a"]),
        (["--measure", "5", "a"], ["--measure", "5", "a"]),
        (["--measure", "--json"], ["--measure=3", "--json"]),
        (["--measure=7"], ["--measure=7"]),
    ],
)
def test_measure_takes_a_number_or_three(given: list[str], meant: list[str]) -> None:
    assert _with_number(given) == meant


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Instead of predicting, note how many cases there are, and how many of them were to be measured."""
    seen: list[tuple[int, int]] = []

    def measure_cohort(_config: CheckConfig, runnable: tuple[Runnable, ...], number: int, _reporter: object) -> Any:
        print("a library's words")  # noqa: T201
        seen.append((len(runnable), number))
        return measured_of(failures=(FailedCase("case-9", Failure(Category.EMPTY_IMAGE, "zero", "", "read")),))

    monkeypatch.setattr(measure, "measure_cohort", measure_cohort)
    return seen


def test_what_was_measured_is_told_and_its_failures_exit_3(cohort: Path, asked: list[tuple[int, int]]) -> None:
    done = check(cohort, "--limit", 2, "--measure", "--ensemble", "e.yaml")
    assert asked == [(2, 3)]
    assert done.exit_code == 3
    lines = done.stdout.splitlines()
    assert "case-9\tempty_image\tzero\t" in lines
    assert "read\t2.00\t1.00\t0.10" in lines
    assert "together\t\t\t1.09" in lines
    assert "device: A100, 10.00 s a case (median of 3)" in lines
    assert "2 per GPU: all stages take 1.09 CPU seconds for each second of predict, rounded up" in done.stdout
    assert "; the 16 CPUs of a node keep 13 GPU(s) busy, one CPU left to Ray" in done.stdout
    assert "torch held 5.0 GB at most" in done.stdout
    assert "1000 case(s) take about 0:20:50 with 8 worker(s), by predict's seconds ÷ workers" in done.stdout
    assert "labels 50.0 MB, everything written 200.0 MB" in done.stdout
    assert "a library's words" not in done.stdout


def test_what_was_measured_is_in_the_object_for_programs(cohort: Path, asked: list[tuple[int, int]]) -> None:
    done = check(cohort, "--limit", 2, "--measure", 1, "--ensemble", "e.yaml", "--json")
    assert asked == [(2, 1)]
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["measured"] == json.loads(json.dumps(measured_of().to_dict())) | {
        "failures": [
            {
                "case_id": "case-9",
                "category": "empty_image",
                "message": "zero",
                "hint": "",
                "stage": "read",
                "attempts": 1,
            }
        ]
    }


def test_nothing_is_measured_where_nothing_can_run(cohort: Path, asked: list[tuple[int, int]]) -> None:
    for path in cohort.glob("*/*-t1c.nii.gz"):
        path.write_bytes(b"no image")
    assert check(cohort, "--measure", "--ensemble", "e.yaml").exit_code == 2
    assert not asked


def test_without_a_gpu_nothing_is_said_of_any(capsys: pytest.CaptureFixture[str]) -> None:
    placement = Placement("cpu", 2, (Pool(("A",), workers=2, cpus=1.5),), "as on CPUs")
    console_check.show_measured(measured_of(placement=placement, cluster=Cluster((Node(4.0),)), device_peak_bytes=None))
    shown = capsys.readouterr().out
    assert "device: CPU, 10.00 s a case" in shown
    assert "cores: 2 per worker: all stages take 1.09 CPU seconds for each second of predict, rounded up\n" in shown
    assert "GPU" not in shown
    assert "about 1:23:20 with 2 worker(s), by predict's seconds ÷ workers" in shown


def test_of_very_many_grids_and_sites_the_first_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    runnable = tuple(
        Runnable(Case(f"c{number}", {}, site=f"s{number:02}"), GridKind((9, 9, 9 + number), (1, 1, 1)), 1)
        for number in range(35)
    )
    console_check.show_check(Preflight("c", runnable, ()), None)
    lines = capsys.readouterr().out.splitlines()
    assert "and 5 more sites\t\t" in lines
    assert "and 25 more grids\t\t25" in lines


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (3.2e13, "32.0 TB")]
)
def test_sizes_are_told_in_the_largest_unit_that_fits(number: float, text: str) -> None:
    assert console_check.bytes_text(number) == text


def test_headers_are_checked_without_ray_and_torch(cohort: Path) -> None:
    blocked = "import sys; sys.modules['torch'] = sys.modules['ray'] = None; "
    call = f"sys.argv = ['goat-ray', 'check', {str(cohort)!r}, '--json']; from goat_ray.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", blocked + call], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["would_run"] == 2
