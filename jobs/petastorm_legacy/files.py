"""The file systems that Petastorm takes from Arrow before version 15, on today's API."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow.fs as arrow_fs
from fsspec.core import url_to_fs
from fsspec.implementations.arrow import ArrowFSWrapper

from jobs.stores.files import hdfs_at


class FileSystem:
    """The base that Petastorm asks for by name."""


class LocalFileSystem(FileSystem):
    """Files of this machine."""

    pathsep = "/"

    def open(self, path: str, mode: str = "rb") -> IO[Any]:
        return Path(path).open(mode)

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def isdir(self, path: str) -> bool:
        return Path(path).is_dir()

    def isfile(self, path: str) -> bool:
        return Path(path).is_file()

    def ls(self, path: str) -> list[str]:
        return sorted(str(inner) for inner in Path(path).iterdir())

    def walk(self, path: str) -> Iterator[tuple[str, list[str], list[str]]]:
        return os.walk(path)

    def mkdir(self, path: str, create_parents: bool = True) -> None:
        Path(path).mkdir(parents=create_parents)

    def delete(self, path: str, recursive: bool = False) -> None:
        if recursive and Path(path).is_dir():
            shutil.rmtree(path)
        else:
            Path(path).unlink()

    def rm(self, path: str, recursive: bool = False) -> None:
        self.delete(path, recursive)


class HadoopFileSystem(FileSystem):
    """HDFS by fsspec, which needs no libhdfs. Petastorm's failover wraps every method named here.

    The user is that of HADOOP_USER_NAME, or of the Kerberos ticket, whoever is named.
    """

    def __init__(self, host: str = "default", port: int = 0, user: str | None = None) -> None:
        self._address = (host, port, user)
        self._client = hdfs_at(None if host == "default" else host, port or None)

    def __reduce__(self) -> tuple[type[HadoopFileSystem], tuple[str, int, str | None]]:
        return type(self), self._address

    def open(self, path: str, mode: str = "rb") -> Any:
        return self._client.open(path, mode)

    def exists(self, path: str) -> bool:
        return bool(self._client.exists(path))

    def isdir(self, path: str) -> bool:
        return bool(self._client.isdir(path))

    def isfile(self, path: str) -> bool:
        return bool(self._client.isfile(path))

    def ls(self, path: str, detail: bool = False) -> list[Any]:
        return list(self._client.ls(path, detail=detail))

    def walk(self, path: str) -> Iterator[Any]:
        return iter(self._client.walk(path))

    def mkdir(self, path: str) -> None:
        self._client.makedirs(path, exist_ok=True)

    def delete(self, path: str, recursive: bool = False) -> None:
        self._client.rm(path, recursive=recursive)

    def rm(self, path: str, recursive: bool = False) -> None:
        self.delete(path, recursive)

    def rename(self, path: str, new_path: str) -> None:
        self._client.mv(path, new_path)


def connect(host: str = "default", port: int = 0, user: str | None = None) -> HadoopFileSystem:
    """The old `pyarrow.hdfs.connect`."""
    return HadoopFileSystem(host, port, user)


LOCAL = LocalFileSystem()


def resolve(filesystem: Any, path: str) -> tuple[Any, str]:
    """The file system with the calls that Petastorm makes (open, exists, isdir, isfile, walk).

    `filesystem` is one of this module, of fsspec or of today's Arrow; None stands for the one of
    the path, a URL or a local path.
    """
    if isinstance(filesystem, arrow_fs.FileSystem):
        return ArrowFSWrapper(filesystem), path
    if filesystem is not None:
        return filesystem, path
    if "://" not in path:
        return LOCAL, path
    if path.startswith("file://"):
        return LOCAL, path.removeprefix("file://")
    found, inner = url_to_fs(path)
    return found, inner
