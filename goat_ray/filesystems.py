"""Local disks and S3 as fsspec sees them: which one a URI means, how often it is asked, what its errors amount to."""

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from goat_ray.config import S3Config
from goat_ray.errors import MissingFile, StorageError

_ATTEMPTS = 6
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 8.0
_PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_PERMANENT_CODES = (errno.EINVAL, errno.ENOSPC, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOSYS)

Result = TypeVar("Result")
FileSystem = Any  # fsspec is untyped


@dataclass(frozen=True, slots=True)
class FileStat:
    """What a listing tells of a file.

    Attributes:
        size: bytes.
        version: another whenever the file was written again (an ETag, or the time of the last change in ns).
        modified_s: seconds since 1970 of the last change.
    """

    size: int
    version: str
    modified_s: float


class _S3Choice:
    """How this process reaches S3; every worker is told by the stage it runs."""

    settings = S3Config()


def use_s3(settings: S3Config) -> None:
    """Reach S3 in this way from now on, in this process."""
    _S3Choice.settings = settings


def is_s3(uri: str) -> bool:
    """Whether a URI names an object or prefix in S3."""
    return uri.startswith("s3://")


def locate(uri: str) -> tuple[FileSystem, str]:
    """The file system of `uri` and the path in it.

    Raises:
        StorageError: neither a local path nor an `s3://` URI.
    """
    scheme, found, path = uri.partition("://")
    if "\0" in uri:
        raise StorageError(f"{uri!r} holds a NUL character.")
    if not found or scheme == "file":
        try:
            return fsspec.filesystem("file"), str(Path(path if found else uri).expanduser().absolute())
        except RuntimeError as error:  # a home folder of nobody
            raise StorageError(f"{uri}: {error}") from error
    if scheme != "s3":
        raise StorageError(f"{display(uri)}: only local paths and s3:// are supported, not {scheme}://.")
    return s3(), path.rstrip("/")


def display(uri: str) -> str:
    """`uri` for messages and tables: without user, password and query, which may hold credentials."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def s3() -> FileSystem:
    """The S3 file system of this process; what `use_s3` leaves open comes from the usual environment variables."""
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    return _s3(os.getpid(), _S3Choice.settings, environment)


@lru_cache(maxsize=4)
def _s3(_process: int, settings: S3Config, _environment: tuple[tuple[str, str], ...]) -> FileSystem:
    """One client for all threads: fsspec itself would make one for each."""
    fs = fsspec.filesystem(
        "s3",
        skip_instance_cache=True,
        use_listings_cache=False,
        anon=settings.anonymous,
        endpoint_url=settings.endpoint_url,
        profile=settings.profile,
        client_kwargs={"region_name": settings.region} if settings.region else {},
        # One request reads an object: several could see several versions of it, and a HEAD would go before them.
        max_concurrency=1,
        # Retries of botocore and of s3fs are off: `attempt` has them, and three layers would multiply.
        config_kwargs={
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": 10,
            "max_pool_connections": 64,
        },
    )
    fs.retries = 1
    return fs


def attempt(action: Callable[[], Result], uri: str, verb: str) -> Result:
    """Run `action`, again after growing random pauses if its failure may pass; what stays becomes a `StorageError`."""
    tries = 1
    while True:
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - botocore and aiohttp raise far more than OSError
            if tries == _ATTEMPTS or _is_permanent(error):
                raise _translated(error, uri, verb) from None
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (tries - 1))
        time.sleep(pause_s * random.uniform(0.5, 1))
        tries += 1


def _is_permanent(error: Exception) -> bool:
    return isinstance(error, _PERMANENT) or getattr(error, "errno", None) in _PERMANENT_CODES


def _translated(error: Exception, uri: str, verb: str) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return MissingFile(f"{display(uri)} does not exist.")
    # Only the system's or the server's own sentence: other messages may quote addresses with credentials in them.
    reasons = (getattr(error, "strerror", None), *error.args) if isinstance(error, OSError) else ()
    reason = next((text for text in reasons if isinstance(text, str)), type(error).__name__)
    return StorageError(f"Cannot {verb} {display(uri)}: {reason}")


def stat_s3(info: dict[str, Any]) -> FileStat:
    """What s3fs says of an object."""
    modified = info.get("LastModified")
    etag = str(info.get("ETag", "")).strip('"')
    return FileStat(int(info["size"]), etag, modified.timestamp() if modified else 0.0)


def stat_local(path: str) -> FileStat:
    """What the disk says of a file; a folder counts as one."""
    found = os.stat(path)  # noqa: PTH116 - os.DirEntry and str alike
    return FileStat(found.st_size, str(found.st_mtime_ns), found.st_mtime)


def files_in_s3(fs: FileSystem, path: str) -> dict[str, FileStat]:
    """Every object below a prefix, by key relative to it; folder markers are none."""
    start = path + "/"
    found = {name.removeprefix(start): info for name, info in fs.find(path, detail=True).items() if name != path}
    return {key: stat_s3(info) for key, info in found.items() if key and not key.endswith("/")}


def files_on_disk(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[tuple[str, FileStat]]:
    """Every file below a folder, by path relative to it; links to folders are followed, but not in circles."""
    here = os.path.realpath(folder)
    if here in above or not folder.is_dir():  # in `above`: a link that leads back up
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                below = files_on_disk(Path(entry.path), above | {here})
                yield from ((f"{entry.name}/{key}", stat) for key, stat in below)
            elif entry.is_file():
                yield entry.name, stat_local(entry.path)
