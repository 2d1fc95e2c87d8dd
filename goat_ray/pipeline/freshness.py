"""Whether committed cases were made from the files that are there now."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from goat_ray import storage
from goat_ray.cases import Case, Discovery
from goat_ray.commits import withdraw
from goat_ray.errors import MissingFile
from goat_ray.ledger import Done, Ledger, in_parallel
from goat_ray.storage import RunStore

_LOGGER = logging.getLogger(__name__)
_SHOWN = 5


def without_stale(ledger: Ledger, discovery: Discovery, roles: Sequence[str], store: RunStore) -> Ledger:
    """The ledger without cases whose files are others than those they were made from; their commits are withdrawn.

    A file is another when it has another name or size, or when it was written again with other content: its hash
    is only taken when its version differs from the recorded one.

    Args:
        ledger: what the run folder holds.
        discovery: the cases as they are now.
        roles: the files (by modality or role) that matter.
        store: the run folder.
    """
    known = [case for case in discovery.cases if case.case_id in ledger.commits]
    verdicts = in_parallel(lambda case: _is_fresh(case, ledger.commits[case.case_id], discovery, roles), known)
    stale = [case.case_id for case, fresh in zip(known, verdicts, strict=True) if not fresh]
    if stale:
        named = ", ".join(stale[:_SHOWN]) + (", …" if len(stale) > _SHOWN else "")
        _LOGGER.warning(
            "%d case(s) have other files than when they were done, and are done again: %s", len(stale), named
        )
    for case_id in stale:
        withdraw(store, case_id, ledger.commits[case_id].sha256)
    return replace(ledger, commits={key: done for key, done in ledger.commits.items() if key not in set(stale)})


def _is_fresh(case: Case, done: Done, discovery: Discovery, roles: Sequence[str]) -> bool:
    return all(
        _is_same(uri, done.inputs.get(role), discovery)
        for role in roles
        if (uri := case.files.get(role)) or role in done.inputs
    )


def _is_same(uri: str | None, recorded: Mapping[str, Any] | None, discovery: Discovery) -> bool:
    if uri is None or recorded is None or recorded.get("name") != uri.rpartition("/")[2]:
        return False
    try:
        stat = discovery.stats.get(uri) or storage.stat(uri)
        if stat.size != recorded.get("size") or stat.version == recorded.get("version"):
            return stat.size == recorded.get("size")
        return hashlib.sha256(storage.read_bytes(uri)).hexdigest() == recorded.get("sha256")
    except MissingFile:
        return True  # it cannot be done again from a file that is gone
