"""A folder of others' Parquet files as shards: footers read once, and kept.

The folder is listed each time; a file whose size and time (or ETag) are as they were is not opened
again. What was read is kept in the user's cache, or where the caller says, never in the folder
unless asked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.base.errors import DataRefused
from jobs.stores.files import read_json, write_whole

COMMON_METADATA = "_common_metadata"

_FORMAT = 1
# Of what stores say of a file, what changes when it is written again.
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "modified")


@dataclass(frozen=True)
class Footer:
    """What is known of a file.

    Attributes:
        path: relative to the folder.
        bytes: size of the file.
        version: what the store says changes when the file is written again.
        row_group_rows: row count of each row group.
        digest: of row counts, and of each column chunk's name, type, sizes, nulls, least and
            greatest value.
    """

    path: str
    bytes: int
    version: str
    row_group_rows: tuple[int, ...]
    digest: int

    @property
    def partition(self) -> dict[str, str]:
        return partition_of(self.path)


@dataclass(frozen=True)
class Footers:
    """A folder's files in order of their paths, and the columns of the first of them."""

    files: tuple[Footer, ...]
    schema: pa.Schema


def partition_of(path: str) -> dict[str, str]:
    """Values of the folders `name=value` that a file lies in, by name."""
    levels = [part.partition("=") for part in path.split("/")[:-1]]
    return {name: unquote(value) for name, equals, value in levels if equals}


def read_footers(url: str, kept_at: str | None = None, threads: int = 16) -> Footers:
    """Lists a folder and reads the footers of files that are new or changed.

    Args:
        kept_at: URL of the file that keeps what was read; in the user's cache when None.
        threads: footers read at once.

    Raises:
        DataRefused: no Parquet file, one that is none, or folders that partition unequally.
    """
    known = _known(kept_at or _cache_file(url))
    fs, root = fsspec.core.url_to_fs(url.rstrip("/"))
    listed = _listed(fs, root, url)

    def footer(item: tuple[str, dict[str, Any]]) -> Footer:
        path, info = item
        before = known.get(path)
        size, version = int(info["size"]), _version(info)
        if before and version and (before.bytes, before.version) == (size, version):
            return before
        return _read(fs, root, path, size, version)

    with ThreadPoolExecutor(threads) as pool:
        files = tuple(pool.map(footer, sorted(listed.items())))
    _check_partitions(url, files)
    if {file.path: file for file in files} != known:
        content = {"format": _FORMAT, "folder": url, "files": [asdict(file) for file in files]}
        # Without a cache all footers are read again, no more.
        with nullcontext() if kept_at else suppress(OSError):
            write_whole(kept_at or _cache_file(url), json.dumps(content).encode())
    with fs.open(f"{root}/{files[0].path}", "rb") as file:
        return Footers(files, pq.read_schema(file))


def _cache_file(url: str) -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    name = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:32]
    return f"{cache}/millstream/folders/{name}.json"


def _known(url: str) -> dict[str, Footer]:
    try:
        kept = read_json(url)
    except (FileNotFoundError, ValueError):
        return {}
    if kept.get("format") != _FORMAT:
        return {}
    files = ({**file, "row_group_rows": tuple(file["row_group_rows"])} for file in kept["files"])
    return {file["path"]: Footer(**file) for file in files}


def _listed(fs: Any, root: str, url: str) -> dict[str, dict[str, Any]]:
    """Data files by their path in the folder; names with _ or . in front are not data."""
    fs.invalidate_cache()
    found = fs.find(root, detail=True)
    inner = {path.removeprefix(root).lstrip("/"): info for path, info in found.items()}
    if any(path.startswith("_delta_log/") for path in inner):
        raise DataRefused(
            f"{url} is a Delta table, whose folder also holds files that are no part of it",
            "a folder all of whose Parquet files count",
            "write the version that you mean to a folder of its own",
        )
    data = {path: info for path, info in inner.items() if not any(map(_is_hidden, path.split("/")))}
    if not data:
        raise DataRefused(f"no Parquet file in {url}", "a folder with some")
    return data


def _is_hidden(name: str) -> bool:
    # A folder's own marker in an object store is a file with an empty name.
    hidden = name.startswith(("_", ".")) and "=" not in name
    return not name or hidden or name.endswith((".crc", "_$folder$"))


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")


def _read(fs: Any, root: str, path: str, size: int, version: str) -> Footer:
    try:
        with fs.open(f"{root}/{path}", "rb") as file:
            metadata = pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataRefused(
            f"the footer of {path} in {root} cannot be read: {error}",
            "Parquet files only",
            "take the file away, or put _ before its name",
        ) from error
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    rows = tuple(group.num_rows for group in groups)
    content = repr((rows, [list(_chunks(group)) for group in groups]))
    digest = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8])
    return Footer(path, size, version, rows, digest)


def _chunks(group: Any) -> Iterable[tuple[Any, ...]]:
    # Not the encodings: Spark lists the same ones in another order in every JVM.
    for number in range(group.num_columns):
        chunk = group.column(number)
        yield (chunk.path_in_schema, chunk.physical_type, chunk.num_values)
        yield (chunk.total_compressed_size, chunk.total_uncompressed_size)
        if chunk.is_stats_set and (found := chunk.statistics) is not None:
            yield (found.null_count, *((found.min_raw, found.max_raw) if found.has_min_max else ()))


def _check_partitions(url: str, files: Iterable[Footer]) -> None:
    by_names: dict[tuple[str, ...], str] = {}
    for file in files:
        by_names.setdefault(tuple(sorted(file.partition)), file.path)
    if len(by_names) > 1:
        (some, path), (others, other) = list(by_names.items())[:2]
        raise DataRefused(
            f"in {url}, {path} is partitioned by {', '.join(some) or 'nothing'}, {other} by "
            f"{', '.join(others) or 'nothing'}",
            "the same partition columns for all files",
        )
