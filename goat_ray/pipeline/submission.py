"""Jobs on a Ray cluster elsewhere: handed in over Ray's Jobs API, their log followed, their exit code brought back."""

import asyncio
import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from goat_ray.errors import ConfigError, GoatRayError

_LOGGER = logging.getLogger(__name__)

_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
_STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
_POLL_S, _RETRY_S, _MOST_RETRIES = 0.5, 5.0, 24
_LONGEST = 1000
_OUT_OF_REACH = (aiohttp.ClientError, requests.exceptions.RequestException, OSError, RuntimeError)
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended.

    Attributes:
        exit_code: of its command; None where that never ran to its end.
        words: what else Ray says about it, if the command cannot have said it itself.
    """

    exit_code: int | None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that a cluster has accepted.

    Attributes:
        address: of the cluster's Jobs API, as it may be shown: without a password.
        job_id: Ray's name for the job.
    """

    address: str
    job_id: str
    _client: Any = field(repr=False)

    def command(self, verb: str) -> str:
        """The shell command of Ray's own that shows (`status`, `logs`) or ends (`stop`) this job."""
        ray = "ray" if shutil.which("ray") else str(Path(sys.executable).with_name("ray"))
        return shlex.join([ray, "job", verb, "--address", self.address, self.job_id])

    def follow(self, show: Callable[[str], object]) -> Ended:
        """Wait for the end of the job, and pass on its log as it grows.

        Raises:
            GoatRayError: the cluster stayed out of reach; the job may go on.
        """
        shown = lost = 0
        while True:
            before = shown
            try:
                for text in self._log(shown):
                    shown += len(text)
                    show(text)
                if ended := self._end():
                    return ended
                time.sleep(_POLL_S)  # its log may be closed a moment before its end is known
            except _OUT_OF_REACH as error:
                lost = 1 if shown > before else lost + 1
                if lost > _MOST_RETRIES:
                    raise GoatRayError(
                        f"{self.address} is out of reach ({_told(error)}); the job may go on. "
                        f"Where it stands: {self.command('status')}"
                    ) from error
                _LOGGER.warning("the log of %s broke off; trying again in %.0f s", self.job_id, _RETRY_S)
                time.sleep(_RETRY_S)

    def _log(self, skip: int) -> Iterator[str]:
        """The job's log from character `skip` on, until Ray closes it; Ray always sends it from the beginning."""
        chunks = self._client.tail_job_logs(self.job_id)
        with asyncio.Runner() as runner:
            while (text := runner.run(_next(chunks))) is not None:
                if text[skip:]:
                    yield text[skip:]
                skip = max(0, skip - len(text))

    def _end(self) -> Ended | None:
        """How the job ended; None where it has not."""
        job = self._client.get_job_info(self.job_id)
        if not job.status.is_terminal():
            return None
        if job.status == JobStatus.STOPPED:
            return Ended(None, "it was stopped")
        if job.driver_exit_code is None:
            return Ended(None, _cut(job.message or "its command was never run"))
        return Ended(job.driver_exit_code)


def submit(address: str, command: Sequence[str], working_dir: str, stop_wait_s: float) -> Submission:
    """Hand a command in as a job.

    Args:
        address: of the cluster's Jobs API, as `http://host:8265`.
        command: what the job runs, in a copy of `working_dir` that every machine gets.
        working_dir: is uploaded, without what its `.gitignore` names.
        stop_wait_s: how long the job is given when it is asked to stop; Ray's default is 3 seconds.

    Raises:
        ConfigError: the address is none, the cluster does not let us in, or the folder cannot be uploaded.
        GoatRayError: the cluster is out of reach, or refuses the job.
    """
    shown = _CREDENTIALS.sub("", address)
    client = _client(address, shown)
    runtime_env = {"working_dir": working_dir, "env_vars": {_STOP_VARIABLE: str(round(stop_wait_s))}}
    try:
        job_id = client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime_env)
    except ValueError as error:
        raise ConfigError(f"{working_dir} cannot be uploaded: {_told(error)}") from error
    except _OUT_OF_REACH as error:
        raise GoatRayError(f"{shown} did not take the job: {_told(error)}") from error
    return Submission(shown, job_id, client)


def _client(address: str, shown: str) -> Any:  # noqa: ANN401 - Ray is untyped
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigError(f"--address {shown}: expected the Jobs API of a cluster, as http://HOST:8265")
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _address_for_ray(address):
            return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ConfigError(
            f"{shown} lets in only those with its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file "
            "with the token, or RAY_AUTH_TOKEN"
        ) from error
    except _OUT_OF_REACH as error:
        raise GoatRayError(
            f"no Ray cluster answers at {shown}; is it up, and is its Jobs API reachable from here? ({_told(error)})"
        ) from error


async def _next(chunks: Any) -> str | None:  # noqa: ANN401 - Ray's asynchronous iterator, untyped
    return await anext(chunks, None)


@contextmanager
def _address_for_ray(address: str) -> Iterator[None]:
    """Let the address hold that was asked for: Ray's client prefers those in the environment to its argument."""
    before = os.environ.get(_ADDRESS_VARIABLE)
    os.environ[_ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ADDRESS_VARIABLE]
        else:
            os.environ[_ADDRESS_VARIABLE] = before


def _told(error: Exception) -> str:
    """What an error says, without the password that an address may hold."""
    return _cut(_CREDENTIALS.sub("", str(error))) or type(error).__name__


def _cut(text: str) -> str:
    """The end of a text, where errors say what they are, in one line."""
    return " ".join(text.split())[-_LONGEST:]
