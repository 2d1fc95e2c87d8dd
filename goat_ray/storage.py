"""Bytes on local disks and in S3 behind one set of functions: writes are atomic, listings are never cached."""

import errno
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from goat_ray.errors import MissingFile, StorageError
from goat_ray.filesystems import (
    FileStat,
    FileSystem,
    attempt,
    display,
    files_in_s3,
    files_on_disk,
    is_s3,
    locate,
    stat_local,
    stat_s3,
)

_UNFINISHED = ".tmp-"
_ABANDONED_S = 3600.0
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def read_bytes(uri: str) -> bytes:
    """The whole content of a file or object.

    Raises:
        MissingFile: it is not there.
        StorageError: it cannot be read.
    """
    fs, path = locate(uri)
    content: bytes = attempt(lambda: fs.cat_file(path), uri, "read")
    return content


def read_start(uri: str, most_bytes: int) -> bytes:
    """The first bytes of a file or object, at most so many.

    Raises:
        MissingFile: it is not there.
        StorageError: it cannot be read.
    """
    fs, path = locate(uri)
    return attempt(lambda: _start_of(fs, path, most_bytes), uri, "read")


def stat(uri: str) -> FileStat:
    """Size and version of a file or object.

    Raises:
        MissingFile: it is not there.
        StorageError: the store does not tell.
    """
    fs, path = locate(uri)
    if is_s3(uri):
        return stat_s3(attempt(lambda: fs.info(path), uri, "read"))
    return attempt(lambda: stat_local(path), uri, "read")


def exists(uri: str) -> bool:
    """Whether a file, object, folder or non-empty prefix is there.

    Raises:
        StorageError: the store does not tell.
    """
    fs, path = locate(uri)
    try:
        attempt(lambda: fs.info(path), uri, "read")
    except MissingFile:
        return False
    return True


def list_files(uri: str) -> dict[str, FileStat]:
    """Every file below a folder or prefix, by its key relative to `uri`, sorted by key.

    A folder that is not there holds nothing. Links to folders are followed.

    Raises:
        StorageError: the store does not tell, or the bucket is not there.
    """
    fs, path = locate(uri)
    found = attempt(lambda: files_in_s3(fs, path) if is_s3(uri) else dict(files_on_disk(Path(path))), uri, "list")
    return dict(sorted(found.items()))


def is_key(key: str) -> bool:
    """Whether a key is a relative POSIX path that cannot lead out of its root by itself."""
    return not ("\\" in key or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")))


def join(base: str, *parts: str) -> str:
    """`base` and `parts` with one slash between each; a leading slash in a part means nothing."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """`uri` as it can be given to another process: local paths without `~`, and from the root on.

    Raises:
        StorageError: neither a local path nor an `s3://` URI.
    """
    _, path = locate(uri)
    return f"s3://{path}" if is_s3(uri) else path


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

    def find(self, key: str) -> bytes | None:
        """Content of `key`; None when it is not there."""
        with suppress(MissingFile):
            return self.read(key)
        return None

    def write(self, key: str, data: bytes) -> None:
        """Put `data` at `key`, all of it or nothing: temporary file, fsync and rename, or one PUT."""
        uri = self._uri(key)
        fs, path = locate(uri)
        if is_s3(uri):
            attempt(lambda: fs.pipe_file(path, data), uri, "write")
        else:
            attempt(lambda: _place(Path(path), data, os.replace), uri, "write")

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` at `key` unless something else is there; of several that try at once, one wins.

        Returns:
            False when `key` holds other bytes. Equal bytes count as ours: a reply that got lost looks so.
        """
        uri = self._uri(key)
        fs, path = locate(uri)
        if is_s3(uri):
            # Some stores ignore the condition of the PUT: looking before and after is what they leave us.
            try:
                return read_bytes(uri) == data
            except MissingFile:
                attempt(lambda: _put_if_absent(fs, path, data), uri, "write")
        else:
            attempt(lambda: _place(Path(path), data, _link_if_absent), uri, "write")
        return read_bytes(uri) == data

    def list(self, prefix: str = "") -> dict[str, FileStat]:
        """Keys below the folder `prefix` ("" is all), sorted; unfinished files are left out."""
        folder = prefix.rstrip("/")
        found = list_files(self._uri(folder) if folder else self.root)
        start = f"{folder}/" if folder else ""
        return {start + key: stat for key, stat in found.items() if not _is_unfinished(key)}

    def size(self, key: str) -> int | None:
        """Size of `key` in bytes, None when it is not there."""
        try:
            return stat(self._uri(key)).size
        except MissingFile:
            return None

    def delete(self, key: str) -> None:
        """Remove `key`; it may be gone already."""
        uri = self._uri(key)
        fs, path = locate(uri)
        with suppress(MissingFile):
            attempt(lambda: fs.rm_file(path), uri, "delete")

    def sweep(self) -> None:
        """Remove unfinished files that writers left when they were killed: those that nobody touched for an hour."""
        if is_s3(self.root):
            return
        for path in Path(locate(self.root)[1]).rglob(f"{_UNFINISHED}*"):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)

    def _uri(self, key: str) -> str:
        if not is_key(key):
            raise StorageError(f"{key!r} is no key inside a run: a relative path without '..' was expected.")
        uri = join(self.root, key)
        if not is_s3(uri):
            root, path = (os.path.realpath(locate(place)[1]) for place in (self.root, uri))
            if not Path(path).is_relative_to(root):
                raise StorageError(f"{key!r} leads out of {display(self.root)} through a link.")
        return uri


def _start_of(fs: FileSystem, path: str, most_bytes: int) -> bytes:
    try:
        start: bytes = fs.cat_file(path, start=0, end=most_bytes)
    except OSError as error:
        if _s3_code(error) != "InvalidRange":  # how S3 answers when any part of an empty object is asked for
            raise
        return b""
    return start


def _put_if_absent(fs: FileSystem, path: str, data: bytes) -> None:
    try:
        fs.pipe_file(path, data, mode="create")
    except OSError as error:
        code = _s3_code(error)
        if code == "NotImplemented":
            fs.pipe_file(path, data)
        elif code != "PreconditionFailed":
            raise


def _s3_code(error: OSError) -> str | None:
    """What S3 itself called an error."""
    code: str | None = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return code


def _link_if_absent(temporary: Path, path: Path) -> None:
    with suppress(FileExistsError):
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not path.exists():
                temporary.replace(path)


def _is_unfinished(key: str) -> bool:
    return key.rpartition("/")[2].startswith(_UNFINISHED)


def _place(path: Path, data: bytes, move: Callable[[Path, Path], None]) -> None:
    """Write `data` beside `path`, make it durable, then `move` it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_UNFINISHED}{uuid.uuid4().hex}"
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
