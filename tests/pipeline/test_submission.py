"""Jobs on a cluster elsewhere, with Ray's client replaced: what is handed in, followed, and told."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus
from typer.testing import CliRunner, Result

from goat_ray import cli_submit
from goat_ray.errors import ConfigError, GoatRayError
from goat_ray.pipeline import submission
from goat_ray.pipeline.submission import Ended, Submission, submit

ADDRESS = "http://head:8265"
LOG = "line 1\nline 2\nline 3\n"


class Client:
    """Ray's client of a cluster on which one job runs: its log breaks off after the given numbers of characters."""

    def __init__(self, *breaks: int, **ends: Any) -> None:
        self.breaks = list(breaks)
        self.ends = {"status": JobStatus.SUCCEEDED, "driver_exit_code": 0, "message": "", **ends}
        self.submitted: dict[str, Any] = {}
        self.asked = 0

    async def tail_job_logs(self, _job_id: str) -> AsyncIterator[str]:
        at = self.breaks.pop(0) if self.breaks else len(LOG)
        for start in range(0, at, 4):
            yield LOG[start : min(start + 4, at)]
        if at < len(LOG):
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, _job_id: str) -> SimpleNamespace:
        self.asked += 1
        status = self.ends["status"]
        return SimpleNamespace(**{**self.ends, "status": status.pop(0) if isinstance(status, list) else status})

    def submit_job(self, **words: Any) -> str:
        self.submitted = words
        return "raysubmit_1"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(submission.time, "sleep", waits.append)
    return waits


@pytest.fixture(autouse=True)
def ray_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    one = Client()
    monkeypatch.setattr(submission, "JobSubmissionClient", lambda _address: one)
    return one


def followed(client: Client) -> tuple[Ended, str]:
    shown: list[str] = []
    ended = Submission(ADDRESS, "raysubmit_1", client).follow(shown.append)
    return ended, "".join(shown)


@pytest.mark.parametrize("code", [0, 1, 2, 3, -9])
def test_the_exit_code_is_the_command_s_own(code: int) -> None:
    status = JobStatus.FAILED if code else JobStatus.SUCCEEDED
    assert followed(Client(status=status, driver_exit_code=code)) == (Ended(code), LOG)


@pytest.mark.parametrize("breaks", [(0,), (5,), (8, 8), (3, 11, 20)])
def test_a_log_that_breaks_off_goes_on_where_it_was(breaks: tuple[int, ...], no_waiting: list[float]) -> None:
    assert followed(Client(*breaks)) == (Ended(0), LOG)
    assert no_waiting == [5.0] * len(breaks)


def test_a_log_that_ends_before_the_job_is_opened_again(no_waiting: list[float]) -> None:
    client = Client(status=[JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.SUCCEEDED])
    assert followed(client) == (Ended(0), LOG)
    assert no_waiting == [0.5, 0.5]


def test_a_cluster_that_stays_away_is_given_up_with_the_command_that_asks_again() -> None:
    with pytest.raises(GoatRayError, match=r"may go on.*: ray job status --address http://head:8265"):
        followed(Client(*[0] * 100))


def test_a_stopped_job_and_one_that_never_ran_have_no_exit_code() -> None:
    assert followed(Client(status=JobStatus.STOPPED, driver_exit_code=None))[0] == Ended(None, "it was stopped")
    never = Client(status=JobStatus.FAILED, driver_exit_code=None, message="runtime_env\n failed")
    assert followed(never)[0] == Ended(None, "runtime_env failed")


def test_a_job_gets_its_folder_and_time_to_stop(client: Client) -> None:
    accepted = submit(ADDRESS, ["python", "jobs/predict.py", "--set", "a=b c"], "folder", 59.6)
    assert (accepted.job_id, accepted.address) == ("raysubmit_1", ADDRESS)
    assert client.submitted["entrypoint"] == "python jobs/predict.py --set 'a=b c'"
    assert client.submitted["runtime_env"] == {
        "working_dir": "folder",
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"},
    }


@pytest.mark.parametrize("variable", ["http://other:1", None])
def test_the_address_that_was_asked_for_holds(monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    """Ray's client takes the one in the environment if there is one."""
    if variable:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", variable)
    else:
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    seen = []

    def connect(_address: str) -> Client:
        seen.append(os.environ["RAY_API_SERVER_ADDRESS"])
        return Client()

    monkeypatch.setattr(submission, "JobSubmissionClient", connect)
    submit(ADDRESS, ["true"], ".", 1)
    assert seen == [ADDRESS]
    assert os.environ.get("RAY_API_SERVER_ADDRESS") == variable


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "auto", "ftp://user:secret@head"])
def test_only_a_jobs_api_is_an_address(address: str) -> None:
    with pytest.raises(ConfigError, match="expected the Jobs API") as caught:
        submit(address, ["true"], ".", 1)
    assert "secret" not in str(caught.value)


def test_who_has_no_token_is_told_how_to_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_address: str) -> Client:
        raise AuthenticationError("401")

    monkeypatch.setattr(submission, "JobSubmissionClient", refuse)
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH"):
        submit(ADDRESS, ["true"], ".", 1)


def test_passwords_in_an_address_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> Client:
        raise ConnectionError(f"Failed to connect to Ray at address: {address}.")

    reached = "https://user:secret@head/ray"
    monkeypatch.setattr(submission, "JobSubmissionClient", refuse)
    with pytest.raises(GoatRayError, match="https://head/ray") as caught:
        submit(reached, ["true"], ".", 1)
    monkeypatch.setattr(submission, "JobSubmissionClient", lambda _address: Client())
    accepted = submit(reached, ["true"], ".", 1)
    assert "secret" not in f"{caught.value}{accepted}{accepted.command('status')}"


def test_a_folder_that_cannot_be_uploaded_is_bad_usage(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_words: Any) -> str:
        raise ValueError("Package size exceeds the limit")

    monkeypatch.setattr(client, "submit_job", refuse)
    with pytest.raises(ConfigError, match="folder cannot be uploaded: Package size"):
        submit(ADDRESS, ["true"], "folder", 1)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    for name in ("predict", "evaluate", "pseudo_label"):
        (tmp_path / "jobs" / f"{name}.py").touch()
    (tmp_path / "run.yaml").write_text("{cohort: s3://b/c, ensemble: s3://b/e.yaml, out: s3://b/o, grace_s: 45}")
    return tmp_path


def command(checkout: Path, *words: str, config: Path | None = None, job: str = "predict") -> Result:
    app = typer.Typer()
    app.command()(cli_submit.submit)
    given = [job, "--config", str(config or checkout / "run.yaml"), "--address", ADDRESS]
    return CliRunner().invoke(app, [*given, "--working-dir", str(checkout), *words])


@pytest.mark.parametrize(
    ("ends", "code", "words"),
    [
        ({}, 0, ""),
        ({"status": JobStatus.FAILED, "driver_exit_code": 3}, 3, ""),
        ({"status": JobStatus.FAILED, "driver_exit_code": 2}, 2, ""),
        ({"status": JobStatus.FAILED, "driver_exit_code": -9}, 1, "raysubmit_1 broke off: exit code -9"),
        ({"status": JobStatus.STOPPED, "driver_exit_code": None}, 1, "raysubmit_1 broke off: it was stopped"),
    ],
)
def test_the_command_shows_the_log_and_exits_as_the_job_did(
    checkout: Path, client: Client, ends: dict[str, Any], code: int, words: str
) -> None:
    client.ends.update(ends)
    done = command(checkout, "--set", "limit=3", "--", "--retry-failed", "timed_out")
    assert done.exit_code == code
    assert done.stdout == LOG
    assert f"ray job status --address {ADDRESS} raysubmit_1" in done.stderr
    assert "goat-ray status s3://b/o" in done.stderr
    assert words in done.stderr
    assert client.submitted["entrypoint"] == (
        "python jobs/predict.py --config run.yaml --set limit=3 --retry-failed timed_out"
    )
    assert client.submitted["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "75"}


@pytest.mark.parametrize(
    ("job", "script", "own"),
    [("evaluate", "evaluate", "labels"), ("pseudo-label", "pseudo_label", "labelled")],
)
def test_every_job_has_its_script_and_its_settings(
    checkout: Path, client: Client, job: str, script: str, own: str
) -> None:
    settings = {"references": "s3://b/r", "spec": "goat2025"} if job == "evaluate" else {"cohort": "s3://b/c"}
    settings |= {"ensemble": "s3://b/e.yaml"} if job == "pseudo-label" else {}
    (checkout / "run.yaml").write_text(json.dumps({**settings, "out": "s3://b/o", own: "here"}))
    assert f"{own}: here would be looked for" in str(command(checkout, job=job).exception)
    assert command(checkout, "--set", f"{own}=s3://b/l", job=job).exit_code == 0
    assert client.submitted["entrypoint"].startswith(f"python jobs/{script}.py --config run.yaml")


def test_the_command_need_not_wait(checkout: Path, client: Client) -> None:
    done = command(checkout, "--no-wait")
    assert (done.exit_code, done.stdout, client.asked) == (0, "", 0)


def test_an_interrupt_leaves_the_job_and_tells_how_to_stop_it(
    checkout: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def press(_job_id: str) -> AsyncIterator[str]:
        yield LOG
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.setattr(client, "tail_job_logs", press)
    done = command(checkout)
    assert (done.exit_code, done.stdout) == (130, LOG)
    assert "raysubmit_1 goes on" in done.stderr
    assert f"ray job logs --address {ADDRESS} raysubmit_1 --follow" in done.stderr
    assert f"ray job stop --address {ADDRESS} raysubmit_1" in done.stderr


def test_where_ray_is_not_on_the_path_its_whole_name_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = Submission(ADDRESS, "raysubmit_1", Client()).command("status").split()
    assert Path(told[0]).is_file()
    (tmp_path / "ray").touch(mode=0o755)
    assert Submission(ADDRESS, "raysubmit_1", Client()).command("status").split() == ["ray", *told[1:]]


@pytest.mark.parametrize("setting", ["out=runs/first", "cohort=cohort", "ensemble=ensemble.yaml", "references=experts"])
def test_paths_that_only_this_machine_knows_are_refused(checkout: Path, client: Client, setting: str) -> None:
    error = command(checkout, "--set", setting).exception
    assert isinstance(error, ConfigError)
    assert "would be looked for in the job's own copy" in str(error)
    assert not client.submitted


@pytest.mark.parametrize("setting", ["out=/shared/runs", "cohort=cohort.csv", "sites=sites.csv", "spec=rules.yaml"])
def test_paths_that_hold_on_the_cluster_are_not(checkout: Path, client: Client, setting: str) -> None:
    assert command(checkout, "--set", setting).exit_code == 0
    assert client.submitted


def test_settings_are_checked_before_anything_is_handed_in(checkout: Path, client: Client) -> None:
    assert "decode" in str(command(checkout, "--set", "decode=nonsense").exception)
    assert not client.submitted


def test_settings_and_script_must_be_in_the_folder(checkout: Path, client: Client, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "run.yaml"
    elsewhere.write_text((checkout / "run.yaml").read_text())
    assert "must lie in --working-dir" in str(command(checkout, config=elsewhere).exception)
    (checkout / "jobs" / "predict.py").unlink()
    assert "it has no jobs/predict.py" in str(command(checkout).exception)
    assert not client.submitted
