"""Who is to blame for lost workers: told by suspects in the run folder, so that it outlives workers and drivers."""

from collections import defaultdict
from collections.abc import Iterable

from goat_ray.cases import Case
from goat_ray.commits import Suspect, suspects_folder, write_suspect
from goat_ray.errors import Category, Failure
from goat_ray.ledger import read_suspects
from goat_ray.storage import RunStore

_NOTHING_KNOWN = "its worker ended without a word"
_HINTS = {
    Category.WORKER_LOST: "look for the out-of-memory killer in the workers' system log; "
    "give them more memory, or leave the case out",
    Category.TIMED_OUT: "if the machine is only slow, raise case_timeout_s; otherwise leave the case out",
}
_HINT = "see the workers' logs"


class Suspicion:
    """How often each case was in the hands of a worker that ended, in this call and in calls that died before it."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._suspects = defaultdict(list, read_suspects(store))

    def losses(self, case_id: str) -> int:
        """How many workers were lost with this case."""
        return len(self._suspects.get(case_id, ()))

    def accuse(self, cases: Iterable[Case]) -> None:
        """Count one more loss against each of these cases, unless their worker has left word itself."""
        before = {case.case_id: self.losses(case.case_id) for case in cases}
        if not before:
            return
        self._suspects = defaultdict(list, read_suspects(self._store))
        for case_id, losses in before.items():
            if self.losses(case_id) <= losses:
                suspect = Suspect(case_id, Category.WORKER_LOST, _NOTHING_KNOWN, "unknown")
                write_suspect(self._store, suspect)
                self._suspects[case_id].append(suspect)

    def failure(self, case_id: str) -> Failure:
        """What a case that lost too many workers ends as: the last word that one of them left, if any did."""
        suspects = self._suspects[case_id]
        told = [suspect for suspect in suspects if suspect.message != _NOTHING_KNOWN] or suspects
        last = told[-1]
        message = f"{last.message}; tried {len(suspects)} time(s), the last time with no other case beside it"
        return Failure(last.category, message, _HINTS.get(last.category, _HINT), last.stage, len(suspects))

    def acquit(self, case_ids: Iterable[str]) -> None:
        """Forget what was held against cases that have ended."""
        for case_id in self._suspects.keys() & set(case_ids):
            for key in self._store.list(suspects_folder(case_id)):
                self._store.delete(key)
            del self._suspects[case_id]
