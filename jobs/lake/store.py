"""What fsspec leaves to its callers: whole writes, guarded writes, one set of S3 variables.

Credentials and endpoints come from the environment that the stores' own clients read
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...); nothing here keeps or prints them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from jobs.base.errors import ConfigError, MillstreamError

_S3 = ("s3", "s3a")
# Packages of the clients under fsspec.
_CLIENTS = ("aiohttp", "azure", "botocore", "gcsfs", "google")
# Here a file is there when all of it is; elsewhere a writer's half file could be seen.
_OBJECT_STORES = (*_S3, "gs", "gcs", "abfs", "abfss", "az", "memory")


# Other processes write what this one looks for, so no listing may be an old one.
for _protocol in _OBJECT_STORES:
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)


def scheme_of(url: str) -> str:
    """`s3` of s3://bucket/path; `file` of a path."""
    found = re.match(r"^([a-z][a-z0-9+.-]*)://", url)
    return found[1] if found else "file"


def is_object_store(url: str) -> bool:
    return scheme_of(url) in _OBJECT_STORES


def delta_options(url: str) -> dict[str, str]:
    """What delta-rs must be told besides the environment; it refuses plain HTTP by itself."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    plain = scheme_of(url) in _S3 and endpoint.startswith("http://")
    return {"allow_http": "true"} if plain else {}


def write_whole(url: str, content: bytes) -> None:
    """Writes a file that nobody sees before it is complete."""
    fs, path = fsspec.core.url_to_fs(url)
    if is_object_store(url):
        fs.pipe_file(path, content)
        return
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    staged = f"{path}.{time.time_ns()}.tmp"
    fs.pipe_file(staged, content)
    fs.mv(staged, path)


@contextmanager
def write_stream(url: str) -> Iterator[Any]:
    """A file to write piece by piece, which nobody sees before it is complete."""
    fs, path = fsspec.core.url_to_fs(url)
    if is_object_store(url):
        # There it comes to be when it is closed; an error must not close it half written.
        file = fs.open(path, "wb")
        try:
            yield file
        except BaseException:
            file.discard()
            raise
        file.close()
        return
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    staged = f"{path}.{time.time_ns()}.tmp"
    with fs.open(staged, "wb") as file:
        yield file
    fs.mv(staged, path)


@contextmanager
def folder_to_write(url: str, last: str) -> Iterator[Path]:
    """A local folder to write files in, which then takes the place of what is at the URL.

    A file system shows it whole, by a rename. An object store shows the files one by one.

    Args:
        last: the file that is shown last, by which readers know that the folder is complete.
    """
    fs, folder = fsspec.core.url_to_fs(url.rstrip("/"))
    staged = f"{folder}.{time.time_ns()}.tmp"
    if isinstance(fs, LocalFileSystem):
        fs.makedirs(staged)
        yield Path(staged)
    else:
        with TemporaryDirectory(prefix="millstream-") as local:
            yield Path(local)
            place = folder if is_object_store(url) else staged
            fs.makedirs(place, exist_ok=True)
            names = [path.name for path in Path(local).iterdir()]
            for name in sorted(names, key=lambda name: (name == last, name)):
                fs.put_file(f"{local}/{name}", f"{place}/{name}")
    if not is_object_store(url):
        if fs.exists(folder):
            fs.rm(folder, recursive=True)
        fs.mv(staged, folder, recursive=True)


def write_folder(url: str, files: Mapping[str, bytes]) -> None:
    """Writes a folder of small files, the last one of which is shown last: `folder_to_write`."""
    with folder_to_write(url, list(files)[-1]) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)


@contextmanager
def local_file(url: str) -> Iterator[Path]:
    """The path of a file for libraries that read local files only; of a copy where it is remote.

    Raises:
        FileNotFoundError: there is no such file.
    """
    fs, path = fsspec.core.url_to_fs(url)
    if isinstance(fs, LocalFileSystem):
        yield Path(path)
        return
    with TemporaryDirectory(prefix="millstream-") as folder:
        copy = Path(folder) / path.rsplit("/", 1)[-1]
        fs.get_file(path, str(copy))
        yield copy


def is_of_client(error: BaseException) -> bool:
    """Whether an error comes from an object store's client: they raise what is no OSError, too."""
    chain = (error, error.__cause__)
    return any(type(e).__module__.partition(".")[0] in _CLIENTS for e in chain if e is not None)


def store_failed(error: BaseException) -> MillstreamError:
    """The same error in a user's words."""
    return MillstreamError(
        f"the store failed: {type(error).__name__}: {error}",
        "a store that answers, and lets this user read and write",
        "look at the endpoint and the credentials in the environment",
    )


class Guarded(Protocol):
    """A small file that several writers replace, each only if it is still what it read."""

    url: str

    def read(self) -> tuple[bytes | None, str]:
        """The content, None where there is no file, and a tag of just this content."""

    def swap(self, content: bytes, tag: str) -> bool:
        """Replaces what was read with the tag; False when another writer came first."""


def guarded(url: str) -> Guarded:
    """The file at a URL.

    Raises:
        ConfigError: the store has no way to guard it.
    """
    if scheme_of(url) in _S3:
        return _S3File(url)
    if scheme_of(url) == "file":
        return _LocalFile(url)
    raise ConfigError(
        f"{url} is no file system and not S3, so it cannot be guarded against other writers",
        "a path that all writers mount, or s3://",
        "keep the lake on a shared file system or on S3; reading works from any store",
    )


class _LocalFile:
    """Guarded by flock, which the system frees when a process dies."""

    def __init__(self, url: str) -> None:
        self.url = url.removeprefix("file://")
        self._path = Path(self.url)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> tuple[bytes | None, str]:
        with self._alone():
            content = self._content()
        return content, repr(content)

    def swap(self, content: bytes, tag: str) -> bool:
        with self._alone():
            if repr(self._content()) != tag:
                return False
            staged = self._path.with_suffix(f".{os.getpid()}.tmp")
            staged.write_bytes(content)
            staged.replace(self._path)
        return True

    def _content(self) -> bytes | None:
        return self._path.read_bytes() if self._path.exists() else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._path.with_suffix(".guard").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


class _S3File:
    """Guarded by conditional writes (If-None-Match, If-Match), which S3 and its kin have."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._path = fsspec.core.url_to_fs(url)

    def read(self) -> tuple[bytes | None, str]:
        try:
            # The tag first: should the file change in between, the swap fails.
            tag = self._fs.info(self._path, refresh=True)["ETag"]
            return self._fs.cat_file(self._path), tag
        except FileNotFoundError:
            return None, ""

    def swap(self, content: bytes, tag: str) -> bool:
        bucket, key, _ = self._fs.split_path(self._path)
        condition: dict[str, Any] = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        try:
            self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
        except OSError as error:
            # Also when it was done, its answer lost, and the client's second try refused.
            if not _is_conflict(error):
                raise
            return self.read()[0] == content
        return True


def _is_conflict(error: OSError) -> bool:
    answer = getattr(error.__cause__, "response", {})
    codes = ("PreconditionFailed", "ConditionalRequestConflict")
    return answer.get("Error", {}).get("Code") in codes


def write_json(url: str, value: Any) -> None:
    """Writes a small artifact whole."""
    write_whole(url, json.dumps(value, indent=1, sort_keys=True).encode())


def read_json(url: str) -> Any:
    """Reads a small artifact; FileNotFoundError when there is none."""
    # In one request: a file that is replaced between two would be torn.
    fs, path = fsspec.core.url_to_fs(url)
    return json.loads(fs.cat_file(path))
