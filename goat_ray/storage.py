"""Bytes on local disks and in S3 behind one set of functions: writes are atomic, listings are never cached."""

import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from goat_ray.errors import StorageError

_PAUSES_S = (0.2, 1.0)
_PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_PERMANENT_CODES = (errno.EINVAL, errno.ENOSPC, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOSYS)

Result = TypeVar("Result")


class MissingFile(StorageError):  # noqa: N818 - names what is found, as FileNotFound would
    """The file, folder or object is not there."""


def read_bytes(uri: str) -> bytes:
    """The whole content of a file or object.

    Raises:
        MissingFile: it is not there.
        StorageError: it cannot be read.
    """
    fs, path = _locate(uri)
    content: bytes = _attempt(lambda: fs.cat_file(path), uri, "read")
    return content


def size_of(uri: str) -> int:
    """Size of a file or object in bytes.

    Raises:
        MissingFile: it is not there.
        StorageError: the store does not tell.
    """
    fs, path = _locate(uri)
    return int(_attempt(lambda: fs.info(path), uri, "read")["size"])


def exists(uri: str) -> bool:
    """Whether a file, object, folder or non-empty prefix is there.

    Raises:
        StorageError: the store does not tell.
    """
    fs, path = _locate(uri)
    try:
        _attempt(lambda: fs.info(path), uri, "read")
    except MissingFile:
        return False
    return True


def list_files(uri: str) -> dict[str, int]:
    """Every file below a folder or prefix: its key relative to `uri` and its size, sorted by key.

    A folder that is not there holds nothing. Links to folders are followed.

    Raises:
        StorageError: the store does not tell, or the bucket is not there.
    """
    fs, path = _locate(uri)
    sizes = _attempt(lambda: _s3_sizes(fs, path) if _is_s3(uri) else dict(_local_sizes(Path(path))), uri, "list")
    return dict(sorted(sizes.items()))


def join(base: str, *parts: str) -> str:
    """`base` and `parts` with one slash between each; a leading slash in a part means nothing."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """`uri` as it can be given to another process: local paths without `~`, and from the root on.

    Raises:
        StorageError: neither a local path nor an `s3://` URI.
    """
    _, path = _locate(uri)
    return f"s3://{path}" if _is_s3(uri) else path


def display(uri: str) -> str:
    """`uri` for messages and tables: without user, password and query, which may hold credentials."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True, slots=True)
class RunStore:
    """One output root; keys are relative POSIX paths that cannot lead out of it.

    Every method raises `StorageError` for a key that could, and when the store refuses.

    Attributes:
        root: folder or `s3://` prefix; it need not exist before the first write.
    """

    root: str

    def read(self, key: str) -> bytes:
        """Content of `key`; `MissingFile` when it is not there."""
        return read_bytes(self._uri(key))

    def write(self, key: str, data: bytes) -> None:
        """Put `data` at `key`, all of it or nothing: temporary file, fsync and rename, or one PUT."""
        uri = self._uri(key)
        fs, path = _locate(uri)
        if _is_s3(uri):
            _attempt(lambda: fs.pipe_file(path, data), uri, "write")
        else:
            _attempt(lambda: _place(Path(path), data, os.replace), uri, "write")

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` at `key` unless something else is there; of several that try at once, one wins.

        Returns:
            False when `key` holds other bytes. Equal bytes count as ours: a reply that got lost looks so.
        """
        uri = self._uri(key)
        fs, path = _locate(uri)
        if _is_s3(uri):
            # Some stores ignore the condition of the PUT: looking before and after is what they leave us.
            try:
                return read_bytes(uri) == data
            except MissingFile:
                _attempt(lambda: _put_if_absent(fs, path, data), uri, "write")
        else:
            _attempt(lambda: _place(Path(path), data, _link_if_absent), uri, "write")
        return read_bytes(uri) == data

    def list(self, prefix: str = "") -> dict[str, int]:
        """Keys below the folder `prefix` ("" is all) and their sizes, sorted; unfinished files are left out."""
        folder = prefix.rstrip("/")
        found = list_files(self._uri(folder) if folder else self.root)
        start = f"{folder}/" if folder else ""
        return {start + key: size for key, size in found.items() if not _is_unfinished(key)}

    def size(self, key: str) -> int | None:
        """Size of `key` in bytes, None when it is not there."""
        try:
            return size_of(self._uri(key))
        except MissingFile:
            return None

    def delete(self, key: str) -> None:
        """Remove `key`; it may be gone already."""
        uri = self._uri(key)
        fs, path = _locate(uri)
        with suppress(MissingFile):
            _attempt(lambda: fs.rm_file(path), uri, "delete")

    def _uri(self, key: str) -> str:
        if "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
            raise StorageError(f"{key!r} is no key inside a run: a relative path without '..' was expected.")
        uri = join(self.root, key)
        if not _is_s3(uri):
            root, path = (os.path.realpath(_locate(place)[1]) for place in (self.root, uri))
            if not Path(path).is_relative_to(root):
                raise StorageError(f"{key!r} leads out of {display(self.root)} through a link.")
        return uri


def _is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def _locate(uri: str) -> tuple[Any, str]:
    """The file system of `uri` and the path in it; only local paths and S3 are spoken."""
    scheme, found, path = uri.partition("://")
    if "\0" in uri:
        raise StorageError(f"{uri!r} holds a NUL character.")
    if not found or scheme == "file":
        return fsspec.filesystem("file"), str(Path(path if found else uri).expanduser().absolute())
    if scheme != "s3":
        raise StorageError(f"{display(uri)}: only local paths and s3:// are supported, not {scheme}://.")
    return _s3(), path.rstrip("/")


def _s3() -> Any:  # noqa: ANN401 - fsspec is untyped
    # Endpoint, region, profile and keys come from the environment. botocore's own retries are off: s3fs and
    # `_attempt` have them, and three layers would multiply.
    return fsspec.filesystem(
        "s3",
        anon=os.environ.get("GOAT_RAY_S3_ANON") == "1",
        use_listings_cache=False,
        config_kwargs={"retries": {"total_max_attempts": 1, "mode": "standard"}, "connect_timeout": 10},
    )


def _attempt(action: Callable[[], Result], uri: str, verb: str, pauses_s: tuple[float, ...] = _PAUSES_S) -> Result:
    """Run `action`, again after each pause if its failure may pass; what stays becomes a `StorageError`."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - botocore and aiohttp raise far more than OSError
        if not pauses_s or _is_permanent(error):
            raise _translated(error, uri, verb) from None
    time.sleep(pauses_s[0])
    return _attempt(action, uri, verb, pauses_s[1:])


def _is_permanent(error: Exception) -> bool:
    return isinstance(error, _PERMANENT) or getattr(error, "errno", None) in _PERMANENT_CODES


def _translated(error: Exception, uri: str, verb: str) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return MissingFile(f"{display(uri)} does not exist.")
    # Only the system's or the server's own sentence: other messages may quote addresses with credentials in them.
    reasons = (getattr(error, "strerror", None), *error.args) if isinstance(error, OSError) else ()
    reason = next((text for text in reasons if isinstance(text, str)), type(error).__name__)
    return StorageError(f"Cannot {verb} {display(uri)}: {reason}")


def _s3_sizes(fs: Any, path: str) -> dict[str, int]:  # noqa: ANN401 - fsspec is untyped
    start = path + "/"
    found = {name.removeprefix(start): info for name, info in fs.find(path, detail=True).items() if name != path}
    return {key: int(info["size"]) for key, info in found.items() if key and not key.endswith("/")}


def _local_sizes(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[tuple[str, int]]:
    here = os.path.realpath(folder)
    if here in above or not folder.is_dir():  # in `above`: a link that leads back up
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                below = _local_sizes(Path(entry.path), above | {here})
                yield from ((f"{entry.name}/{key}", size) for key, size in below)
            elif entry.is_file():
                yield entry.name, entry.stat().st_size


def _put_if_absent(fs: Any, path: str, data: bytes) -> None:  # noqa: ANN401 - fsspec is untyped
    try:
        fs.pipe_file(path, data, mode="create")
    except OSError as error:
        code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
        if code == "NotImplemented":
            fs.pipe_file(path, data)
        elif code != "PreconditionFailed":
            raise


def _link_if_absent(temporary: Path, path: Path) -> None:
    with suppress(FileExistsError):
        os.link(temporary, path)


def _is_unfinished(key: str) -> bool:
    return key.rpartition("/")[2].startswith(".tmp-")


def _place(path: Path, data: bytes, move: Callable[[Path, Path], None]) -> None:
    """Write `data` beside `path`, make it durable, then `move` it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
