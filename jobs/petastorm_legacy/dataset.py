"""What Petastorm uses of Arrow before version 15, made of today's Arrow and fsspec.

A data set is a folder of Parquet files, in folders `name=value` where it is partitioned, or a list
of files. Whole folders are listed once, `metadata_nthreads` at a time; no footer is read.
"""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.petastorm_legacy.files import LOCAL, resolve
from jobs.petastorm_legacy.partitions import Condition, ParquetPartitions, PartitionKey


class ParquetDatasetPiece:
    """One file, or one row group of it, and the values of its partitions."""

    def __init__(
        self,
        path: str,
        open_file_func: Callable[[str], Any] = LOCAL.open,
        file_options: dict[str, Any] | None = None,
        row_group: int | None = None,
        partition_keys: list[PartitionKey] | None = None,
    ) -> None:
        self.path = path
        self.open_file_func = open_file_func
        self.file_options = file_options or {}
        self.row_group = row_group
        self.partition_keys = partition_keys or []

    def _identity(self) -> tuple[Any, ...]:
        return self.path, self.row_group, self.partition_keys

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParquetDatasetPiece) and self._identity() == other._identity()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ParquetDatasetPiece({self.path!r}, {self.row_group!r}, {self.partition_keys!r})"

    def get_metadata(self) -> Any:
        with self.open_file_func(self.path) as file:
            return pq.ParquetFile(file, **self.file_options).metadata

    def read(
        self,
        columns: Collection[str] | None = None,
        use_threads: bool = True,
        partitions: ParquetPartitions | None = None,
    ) -> Any:
        """The piece as an Arrow table, its partitions' values as dictionary columns at the end."""
        options = {"columns": columns if columns is None else list(columns)}
        with self.open_file_func(self.path) as file:
            reader = pq.ParquetFile(file, **self.file_options)
            groups = range(reader.num_row_groups) if self.row_group is None else [self.row_group]
            table = reader.read_row_groups(list(groups), use_threads=use_threads, **options)
        for level, (name, index) in enumerate(self.partition_keys):
            if partitions is None:
                raise ValueError("Must pass partition sets")
            codes = np.full(len(table), index, np.int32)
            values = pa.DictionaryArray.from_arrays(codes, partitions[level].dictionary)
            table = table.append_column(name, values)
        return table


class _Folder(NamedTuple):
    path: str
    partition_keys: list[PartitionKey]


@dataclass
class _Listing:
    """What a folder and the folders of its partitions hold."""

    pieces: list[ParquetDatasetPiece] = field(default_factory=list)
    partitions: ParquetPartitions | None = field(default_factory=ParquetPartitions)
    common_metadata_path: str | None = None
    metadata_path: str | None = None

    def add(self, folder: _Folder, names: list[str], open_file: Callable[[str], Any]) -> int:
        """Takes note of a folder's files; returns how many of them are pieces."""
        before = len(self.pieces)
        for name in sorted(names):
            path = posixpath.join(folder.path, name)
            if name.endswith("_common_metadata"):
                self.common_metadata_path = path
            elif name.endswith("_metadata"):
                self.metadata_path = path
            elif not _is_hidden(name):
                keys = folder.partition_keys
                self.pieces.append(ParquetDatasetPiece(path, open_file, partition_keys=keys))
        return len(self.pieces) - before


def _is_hidden(name: str) -> bool:
    # Object stores list a folder's own marker as a file with an empty name.
    return not name or name.startswith(("_", ".")) or name.endswith((".crc", "_$folder$"))


def _list(filesystem: Any, path: str, threads: int) -> _Listing:
    """Lists a folder level by level; partitions' values are in the order of the paths."""
    found = _Listing()
    level, folders = 0, [_Folder(path, [])]
    with ThreadPoolExecutor(threads) as pool:
        while folders:
            folders = _list_level(filesystem, found, level, folders, pool)
            level += 1
    found.pieces.sort(key=lambda piece: piece.path)
    found.common_metadata_path = found.common_metadata_path or found.metadata_path
    return found


def _list_level(
    filesystem: Any, found: _Listing, level: int, folders: list[_Folder], pool: Executor
) -> list[_Folder]:
    assert found.partitions is not None
    inner: list[_Folder] = []
    walks = pool.map(lambda folder: next(iter(filesystem.walk(folder.path)), None), folders)
    for folder, walk in zip(folders, walks, strict=True):
        # Walks yield nothing where a folder cannot be listed; its rows must not be missed silently.
        if walk is None:
            raise OSError(f"Cannot list the folder {folder.path}")
        _, directories, files = walk
        pieces = found.add(folder, list(files), filesystem.open)
        names = sorted(n for n in directories if not n.startswith(("_", ".")) or "=" in n)
        if pieces and names:
            raise ValueError(f"Found files in an intermediate directory: {folder.path}")
        for name in names:
            partition, equals, key = name.partition("=")
            if not equals:
                raise ValueError(f"Directory name did not appear to be a partition: {name}")
            index = found.partitions.get_index(level, partition, key)
            keys = [*folder.partition_keys, (partition, index)]
            inner.append(_Folder(posixpath.join(folder.path, name), keys))
    return inner


class ParquetDataset:
    """A folder of Parquet files, or a list of files, with the old names.

    `filters` are [(column, operator, value), ...], all of which must hold, or a list of such lists,
    of which one must. They choose partitions, as they did; a condition on another column warns.
    """

    def __init__(
        self,
        path_or_paths: str | list[str],
        filesystem: Any = None,
        validate_schema: bool = True,
        filters: Any = None,
        metadata_nthreads: int = 1,
    ) -> None:
        paths = path_or_paths if isinstance(path_or_paths, list) else [path_or_paths]
        if not paths:
            raise ValueError("Must pass at least one file path")
        resolved = [resolve(filesystem, path) for path in paths]
        self.fs = resolved[0][0]
        inner = [path for _, path in resolved]
        self.paths = inner if isinstance(path_or_paths, list) else inner[0]
        found = _open(self.fs, inner, metadata_nthreads)
        self.pieces, self.partitions = found.pieces, found.partitions
        self.metadata_path = found.metadata_path
        self.common_metadata_path = found.common_metadata_path
        self.metadata = self._read_metadata(self.metadata_path)
        self.common_metadata = self._read_metadata(self.common_metadata_path)
        if filters is not None:
            self._filter(_alternatives(filters))
        if validate_schema:
            self.validate_schemas()

    def _read_metadata(self, path: str | None) -> Any:
        if path is None:
            return None
        with self.fs.open(path) as file:
            return pq.read_metadata(file)

    def _filter(self, alternatives: list[list[Condition]]) -> None:
        partitions = self.partitions
        if partitions is None:
            raise ValueError("Filters choose partitions: found a list of files, expected a folder")
        columns = {column for conditions in alternatives for column, _, _ in conditions}
        if others := sorted(columns - partitions.partition_names):
            warnings.warn(f"filters on {others} have no effect: not partitions", stacklevel=3)

        def meets(piece: ParquetDatasetPiece, condition: Condition) -> bool:
            keys = enumerate(piece.partition_keys)
            return all(partitions.accepts(level, key, condition) for level, key in keys)

        self.pieces = [
            piece
            for piece in self.pieces
            if any(all(meets(piece, c) for c in conditions) for conditions in alternatives)
        ]

    def validate_schemas(self) -> None:
        """Raises ValueError where a file has other columns or types than the first one."""
        names = self.partitions.partition_names if self.partitions else set()
        metadata = self.metadata or self.common_metadata or self.pieces[0].get_metadata()
        fields = [f for f in metadata.schema.to_arrow_schema() if f.name not in names]
        for piece in self.pieces:
            found = piece.get_metadata().schema.to_arrow_schema()
            if not pa.schema(fields).equals(found, check_metadata=False):
                raise ValueError(f"Schema in {piece} was different:\n{found}\n\n{fields}")


def _open(filesystem: Any, paths: list[str], threads: int) -> _Listing:
    # Spark writes behind the back of fsspec, which keeps what it listed before.
    getattr(filesystem, "invalidate_cache", lambda: None)()
    if len(paths) == 1 and filesystem.isdir(paths[0]):
        return _list(filesystem, paths[0].rstrip("/") or "/", threads)
    for path in paths:
        if not filesystem.isfile(path):
            raise OSError(f"Passed non-file path: {path}")
    pieces = [ParquetDatasetPiece(path, filesystem.open) for path in paths]
    return _Listing(pieces, None)


def _alternatives(filters: Any) -> list[list[Condition]]:
    if not len(filters) or not all(filters):
        raise ValueError("Malformed filters")
    return [list(filters)] if isinstance(filters[0][0], str) else [list(f) for f in filters]
