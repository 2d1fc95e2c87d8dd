"""Copies in a folder, kept equal to what is wanted there: nothing is copied twice, and nothing of ours stays behind."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from goat_ray import storage
from goat_ray.errors import GoatRayError
from goat_ray.ledger import in_parallel
from goat_ray.storage import RunStore
from goat_ray.tables import to_parquet

_SCHEMA = pa.schema([("key", pa.string()), ("source_sha256", pa.string()), ("size", pa.int64())])


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be copied, and the hash of the content that was checked."""

    uri: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy that was made: hash of its source, and its own size, which differs where it was compressed."""

    source_sha256: str | None
    size: int | None


def reconcile(store: RunStore, wanted: Mapping[str, Source], record_key: str) -> int:
    """Make the copies in a folder those wanted, and delete copies made by earlier calls that no longer are.

    What was and is to be copied is on record before the first change, so that a call that is killed leaves nothing
    that the next one does not know of. Sources without `.gz` are compressed where their copy's key has it.

    Args:
        store: the folder.
        wanted: source of each copy, by its key.
        record_key: where the record of copies lies.

    Returns:
        How many copies were made or deleted.

    Raises:
        GoatRayError: a source has changed since it was checked.
        StorageError: a source or the folder is out of reach.
    """
    made = _read_record(store, record_key)
    sizes = {key: stat.size for key, stat in store.list().items()}
    missing = [key for key, source in wanted.items() if not _is_there(made.get(key), source, sizes.get(key))]
    surplus = [key for key in made if key not in wanted]
    if not missing and not surplus:
        return 0
    planned = {**made, **dict.fromkeys(missing, _Copy(None, None))}
    _write_record(store, record_key, planned)
    in_parallel(store.delete, surplus)
    copies = in_parallel(lambda key: _copy(store, key, wanted[key]), missing)
    now = {**planned, **dict(zip(missing, copies, strict=True))}
    _write_record(store, record_key, {key: copy for key, copy in now.items() if key in wanted})
    return len(missing) + len(surplus)


def _is_there(copy: _Copy | None, source: Source, size: int | None) -> bool:
    return copy is not None and size is not None and (copy.source_sha256, copy.size) == (source.sha256, size)


def _copy(store: RunStore, key: str, source: Source) -> _Copy:
    data = storage.read_bytes(source.uri)
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise GoatRayError(f"{source.uri} has changed since it was checked; run the same command again")
    if key.endswith(".gz") and not source.uri.endswith(".gz"):
        data = gzip.compress(data, compresslevel=1, mtime=0)
    store.write(key, data)
    return _Copy(source.sha256, len(data))


def _read_record(store: RunStore, key: str) -> dict[str, _Copy]:
    data = store.find(key)
    if data is None:
        return {}
    try:
        rows = pq.read_table(pa.BufferReader(data), schema=_SCHEMA).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise GoatRayError(f"{store.root}/{key} is damaged ({error}); delete the dataset and run again") from error
    return {row["key"]: _Copy(row["source_sha256"], row["size"]) for row in rows}


def _write_record(store: RunStore, key: str, copies: Mapping[str, _Copy]) -> None:
    rows = [{"key": key, "source_sha256": one.source_sha256, "size": one.size} for key, one in sorted(copies.items())]
    store.write(key, to_parquet(rows, _SCHEMA))
