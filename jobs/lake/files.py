"""The Parquet files of tables: staged by a run, and live in a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

from jobs.base.errors import DataRefused


@dataclass(frozen=True)
class NewFile:
    """A file to commit: path relative to the table, its partition, bytes, rows by row group."""

    path: str
    partition: dict[str, str]
    bytes: int
    row_group_rows: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.row_group_rows)


@dataclass(frozen=True)
class LiveFile:
    """A file of a table version: path relative to the table, and its partition."""

    path: str
    partition: dict[str, str]
    rows: int


def staged_file(fs: Any, root: str, path: str, partition_by: Sequence[str]) -> NewFile:
    relative = path.removeprefix(root).lstrip("/")
    levels = dict(part.split("=", 1) for part in relative.split("/")[:-1])
    with fs.open(path, "rb") as file:
        footer = pq.read_metadata(file)
    return NewFile(
        path=relative,
        partition={name: unquote(levels[name]) for name in partition_by},
        bytes=fs.size(path),
        row_group_rows=tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups)),
    )


def check_covered(files: Sequence[NewFile], where: Mapping[str, Sequence[str]]) -> None:
    # delta-rs adds files outside the filter without a word and never removes them again.
    for file in files:
        for name, values in where.items():
            if file.partition[name] not in values:
                raise DataRefused(
                    f"{file.path} lies in {name}={file.partition[name]}",
                    f"one of {', '.join(sorted(values))}",
                )
