"""Files by their URLs: whole writes, guarded writes, folders that show at once.

Credentials and endpoints come from the environment that the stores' own clients read
(`AWS_ACCESS_KEY_ID`, `HADOOP_CONF_DIR`, ...); nothing here keeps or prints them.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from jobs.base.errors import ConfigError
from jobs.stores import s3
from jobs.stores.errors import persistently
from jobs.stores.store import Store

# Classes of the schemes; others' come as entry points.
_STORES = {
    "file": "jobs.stores.local:LocalStore",
    "s3": "jobs.stores.s3:S3Store",
    "s3a": "jobs.stores.s3:S3Store",
    "hdfs": "jobs.stores.hdfs:HdfsStore",
    "gs": "jobs.stores.google:GoogleStore",
    "gcs": "jobs.stores.google:GoogleStore",
    **dict.fromkeys(["abfs", "abfss", "az", "memory"], "jobs.stores.store:ObjectStore"),
}
_GROUP = "millstream.stores"

# Other processes write what this one looks for, so no listing may be an old one.
for _protocol in _STORES.keys() - {"file", "hdfs"}:
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)
fsspec.register_implementation("hdfs", "jobs.stores.hdfs.HdfsFiles", clobber=True)
# gcsfs would ask a service that emulators lack, and wait for it for a minute.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def scheme_of(url: str) -> str:
    """`s3` of s3://bucket/path; `file` of a path."""
    found = re.match(r"^([a-z][a-z0-9+.-]*)://", url)
    return found[1] if found else "file"


def hdfs_at(host: str | None, port: int | None) -> Any:
    """fsspec's class of an HDFS; the default one where there is no host."""
    return fsspec.filesystem("hdfs", host=host, port=port)


def spark_url(url: str) -> str:
    """A URL as Spark reads it: a path without a scheme would be one of Hadoop's default store."""
    return url if "://" in url else f"file://{Path(url).absolute()}"


def store_at(url: str) -> tuple[Store, str]:
    """The store of a URL, and the path in it.

    Raises:
        ConfigError: there is no client for it.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise no_client(url, error) from error
    scheme = scheme_of(url)
    if scheme in _STORES:
        return EntryPoint(scheme, _STORES[scheme], _GROUP).load()(fs), path
    kinds = [point.load() for point in entry_points(group=_GROUP, name=scheme)]
    return (kinds[0] if kinds else Store)(fs), path


def no_client(url: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"no client for the store of {url}: {error}",
        "a path of a store that fsspec knows",
        "install the extra for it (s3, hdfs, gcs), or the store's package for fsspec",
    )


def is_object_store(url: str) -> bool:
    """Whether folders there cannot be renamed, and files show when all of them is there."""
    return not store_at(url)[0].renames


def delta_options(url: str) -> dict[str, str]:
    """What delta-rs must be told besides the environment."""
    return s3.delta_options() if scheme_of(url) in ("s3", "s3a") else {}


def write_whole(url: str, content: bytes) -> None:
    """Writes a file that nobody sees before it is complete."""
    store, path = store_at(url)
    store.write_whole(path, content)


@contextmanager
def write_stream(url: str) -> Iterator[Any]:
    """A file to write piece by piece, which nobody sees before it is complete."""
    store, path = store_at(url)
    with store.writing(path) as file:
        yield file


@contextmanager
def folder_to_write(url: str, last: str) -> Iterator[Path]:
    """A local folder to write files in, which then takes the place of what is at the URL.

    A file system shows it whole, by a rename. An object store shows the files one by one.

    Args:
        last: the file that is shown last, by which readers know that the folder is complete.
    """
    store, folder = store_at(url.rstrip("/"))
    fs, staged = store.fs, f"{folder}.{time.time_ns()}.tmp"
    if isinstance(fs, LocalFileSystem):
        fs.makedirs(staged)
        yield Path(staged)
    else:
        with TemporaryDirectory(prefix="millstream-") as local:
            yield Path(local)
            place = staged if store.renames else folder
            fs.makedirs(place, exist_ok=True)
            files = [path for path in Path(local).rglob("*") if path.is_file()]
            names = [str(path.relative_to(local)) for path in files]
            for name in sorted(names, key=lambda name: (name == last, name)):
                fs.makedirs(f"{place}/{name}".rsplit("/", 1)[0], exist_ok=True)
                persistently(partial(fs.put_file, f"{local}/{name}", f"{place}/{name}"))
    if store.renames:
        if fs.exists(folder):
            fs.rm(folder, recursive=True)
        fs.mv(staged, folder, recursive=True)


@contextmanager
def files_to_add(url: str, last: str) -> Iterator[Path]:
    """A local folder to write files in, which are then added to the folder at the URL.

    Args:
        last: the file that is added last, by which readers know that the folder is complete.
    """
    with TemporaryDirectory(prefix="millstream-") as local:
        yield Path(local)
        files = [path for path in Path(local).rglob("*") if path.is_file()]
        names = [str(path.relative_to(local)) for path in files]
        for name in sorted(names, key=lambda name: (name == last, name)):
            content = Path(local, name)
            with content.open("rb") as read, write_stream(f"{url}/{name}") as written:
                shutil.copyfileobj(read, written, 2**24)


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


@dataclass(frozen=True)
class Guarded:
    """A small file that several writers replace, each only if it is still what it read."""

    url: str

    def read(self) -> tuple[bytes | None, str]:
        """The content, None where there is no file, and a tag of just this content.

        Raises:
            ConfigError: the store has no way to guard it.
        """
        store, path = store_at(self.url)
        return store.read_tagged(path)

    def swap(self, content: bytes, tag: str) -> bool:
        """Replaces what was read with the tag; False when another writer came first."""
        store, path = store_at(self.url)
        return store.replace(path, content, tag) if tag else store.create(path, content)


def write_json(url: str, value: Any) -> None:
    """Writes a small artifact whole."""
    write_whole(url, json.dumps(value, indent=1, sort_keys=True).encode())


def read_json(url: str) -> Any:
    """Reads a small artifact; FileNotFoundError when there is none."""
    # In one request: a file that is replaced between two would be torn.
    fs, path = fsspec.core.url_to_fs(url)
    return json.loads(fs.cat_file(path))


def finite(value: Any) -> Any:
    """Plain JSON values, with null for numbers that are none, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
