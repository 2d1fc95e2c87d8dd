"""A run folder as a whole: whose it is, what it tells of itself, and how it is emptied."""

import json
from collections.abc import Mapping
from typing import Any

from goat_ray.commits import OUTPUT_FOLDERS, encode_json
from goat_ray.config import differing_keys, run_id_of
from goat_ray.errors import ConfigError, MissingFile
from goat_ray.storage import RunStore

RUN_KEY = "run.json"
RUN_CONTENT = (*OUTPUT_FOLDERS, "commits", "errors", "timings", "tables", "suspects", "exports")


def open_run(store: RunStore, fingerprint: Mapping[str, Any], about: Mapping[str, Any], overwrite: bool = False) -> str:
    """Create `run.json`, or check that an existing one has this fingerprint; returns the run id.

    Args:
        store: the run folder.
        fingerprint: what can change a result.
        about: what else `run.json` tells of the run (configuration, versions, hashes).
        overwrite: empty a folder made with other settings first.

    Raises:
        ConfigError: the folder belongs to a run with other settings, or is not a run folder.
    """
    run_id = run_id_of(fingerprint)
    if overwrite:
        clear_run(store)
    document = {"run_id": run_id, "fingerprint": dict(fingerprint), **about}
    if store.create(RUN_KEY, encode_json(document)):
        return run_id
    theirs = read_run(store)["fingerprint"]
    different = differing_keys(fingerprint, theirs)
    if different:
        raise ConfigError(
            f"{store.root} holds a run made with other settings ({', '.join(different)} differ); "
            "choose another --out, or --overwrite to discard that run"
        )
    return run_id


def read_run(store: RunStore) -> dict[str, Any]:
    """The content of `run.json`.

    Raises:
        ConfigError: it is not there, or not the record of a run.
    """
    try:
        document = json.loads(store.read(RUN_KEY), parse_constant=_refuse)
    except MissingFile:
        raise ConfigError(f"{store.root} is no run folder: it has no {RUN_KEY}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{store.root}/{RUN_KEY} is damaged; choose another --out or --overwrite") from error
    if not (isinstance(document, dict) and isinstance(document.get("fingerprint"), dict)):
        raise ConfigError(f"{store.root}/{RUN_KEY} is not a run record; choose another --out")
    return document


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def update_run(store: RunStore, values: Mapping[str, Any]) -> dict[str, Any]:
    """Put these keys into `run.json` beside the others; returns the whole."""
    document = {**read_run(store), **values}
    store.write(RUN_KEY, encode_json(document))
    return document


def clear_run(store: RunStore) -> None:
    """Delete what a run wrote, and nothing else that may lie in the folder."""
    if store.size(RUN_KEY) is None:
        return
    keys = [key for folder in RUN_CONTENT for key in store.list(folder)]
    for key in [*keys, RUN_KEY]:
        store.delete(key)
