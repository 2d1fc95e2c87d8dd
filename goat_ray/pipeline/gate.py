"""The gate that every case passes before its first stage: closed, it lets no further case in and tells who is."""

from typing import Any

import ray
from ray.exceptions import RayError


class _Gatekeeper:
    def __init__(self) -> None:
        self._open = True
        self._admitted: set[str] = set()

    def admit(self, case_id: str) -> bool:
        if self._open:
            self._admitted.add(case_id)
        return self._open

    def close(self) -> set[str]:
        self._open = False
        return self._admitted


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
