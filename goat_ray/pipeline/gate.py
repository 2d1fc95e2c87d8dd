"""The gate that cases and workers pass: closed, it lets no further case in; at the end it sends the workers home."""

from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError


class _Gatekeeper:
    def __init__(self) -> None:
        self._open = True
        self._admitted: set[str] = set()
        self._workers: list[Any] = []

    def admit(self, case_id: str) -> bool:
        if self._open:
            self._admitted.add(case_id)
        return self._open

    def close(self) -> set[str]:
        self._open = False
        return self._admitted

    def register(self, worker: Any) -> None:  # noqa: ANN401 - an actor handle
        self._workers.append(worker)

    def dismiss(self) -> list[Any]:
        workers, self._workers = self._workers, []
        return workers


class Gate:
    """A handle on the gate that driver and workers share. A lost gate stands open."""

    def __init__(self) -> None:
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Gatekeeper)
        self._keeper = actor.remote()

    def admits(self, case_id: str) -> bool:
        """Whether a case may start."""
        try:
            return bool(ray.get(self._keeper.admit.remote(case_id)))
        except RayError:
            return True

    def close(self) -> set[str]:
        """Let no further case in; returns the cases that are, or have been, inside."""
        try:
            admitted: set[str] = ray.get(self._keeper.close.remote())
        except RayError:
            return set()
        return admitted

    def register(self) -> None:
        """Called by an actor: end it with the pass that it was started for."""
        context: Any = ray.get_runtime_context()
        with suppress(RayError):
            ray.get(self._keeper.register.remote(context.current_actor))

    def dismiss(self) -> None:
        """End every registered actor for good.

        Ray forgets an actor only when nothing refers to it any more, and what it keeps of a lost worker refers to
        the worker's successor. That would hold the processors that the next pass needs.
        """
        if not ray.is_initialized():  # asking would start another Ray
            return
        with suppress(RayError):
            for worker in ray.get(self._keeper.dismiss.remote()):
                ray.kill(worker)
