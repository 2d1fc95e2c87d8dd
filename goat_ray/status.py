"""How far a run is, told by the objects in its folder: no driver has to answer, and none has to be alive."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from goat_ray.errors import ConfigError, StorageError
from goat_ray.ledger import failures_at
from goat_ray.runs import read_run
from goat_ray.storage import RunStore, absolute

_RECENT_S = 600.0
_IDLE_S = 900.0


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands.

    Attributes:
        kind: predict or evaluate.
        state: finished, why it was stopped, running, or idle where no driver seems to be alive any more.
        expected: cases of the cohort when the run was last started.
        categories: failed cases by category.
        cases_per_hour: over the last ten minutes of work; None before there is work to measure.
        left_s: about how long the rest takes at this rate.
        idle_s: time since the last commit; None before the first.
    """

    run_id: str
    kind: str
    state: str
    expected: int
    ok: int
    failed: int
    remaining: int
    categories: dict[str, int]
    cases_per_hour: float | None
    left_s: float | None
    idle_s: float | None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def read_status(run: str) -> RunStatus:
    """How the run in a folder or below a prefix stands; commits are counted, not opened.

    Raises:
        ConfigError: it is no run folder, or cannot be reached.
    """
    try:
        store = RunStore(absolute(run))
        record = read_run(store)
        commits = store.list("commits")
        failures = failures_at(store, [key for key in store.list("errors") if _commit_of(key) not in commits])
    except StorageError as error:
        raise ConfigError(str(error)) from error
    written = sorted(stat.modified_s for stat in commits.values())
    expected = int(record.get("expected", 0))
    remaining = max(0, expected - len(commits) - len(failures))
    idle_s = max(0.0, time.time() - written[-1]) if written else None
    rate = _rate(written)
    return RunStatus(
        run_id=str(record.get("run_id")),
        kind=str(record.get("kind")),
        state=_state(str(record.get("state")), idle_s),
        expected=expected,
        ok=len(commits),
        failed=len(failures),
        remaining=remaining,
        categories=dict(Counter(str(failed.failure.category) for failed in failures).most_common()),
        cases_per_hour=rate and 3600 * rate,
        left_s=remaining / rate if rate and remaining else None,
        idle_s=idle_s,
    )


def _commit_of(key: str) -> str:
    return "commits/" + key.removeprefix("errors/")


def _rate(times: Sequence[float]) -> float | None:
    """Commits a second in the last minutes of work."""
    recent = [moment for moment in times if moment >= times[-1] - _RECENT_S]
    span_s = recent[-1] - recent[0] if recent else 0.0
    return (len(recent) - 1) / span_s if span_s > 0 else None


def _state(recorded: str, idle_s: float | None) -> str:
    if recorded == "running" and idle_s is not None and idle_s > _IDLE_S:
        return "idle: nothing was committed for a while, its driver may have died; the same command goes on"
    return recorded
