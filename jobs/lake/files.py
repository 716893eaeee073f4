"""The Parquet files of tables: staged by a run, and live in a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.base.errors import DataRefused, Locked
from jobs.stores.files import spark_url
from schemas.source import spark_name

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import StructType


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
    """A file of a table version: path relative to the table, its partition, rows and bytes."""

    path: str
    partition: dict[str, str]
    rows: int
    bytes: int

    def again(self) -> NewFile:
        """To be named by one more commit."""
        return NewFile(self.path, self.partition, self.bytes, (self.rows,))


class StagedRuns:
    """The folders `run=<run>` of a table, where files wait for the commit that names them."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def stage(self, rows: DataFrame, run: str, partition_by: Sequence[str]) -> list[NewFile]:
        """Writes Parquet files into the run's folder, where no reader sees them before a commit.

        Whatever an earlier attempt of the same run left there is replaced. Folders below those of
        `partition_by` are no part of the partition.
        """
        folder = self.fresh_folder(run)
        rows.write.mode("overwrite").partitionBy(*partition_by).parquet(spark_url(folder))
        return self.staged(run, partition_by)

    def fresh_folder(self, run: str) -> str:
        """URL of the run's folder, without what an earlier attempt left there."""
        self.discard(run)
        return f"{self.url}/run={run}"

    def discard(self, run: str) -> None:
        """Removes a run's staged files, which no commit will name."""
        fs, root = fsspec.core.url_to_fs(f"{self.url}/run={run}")
        if fs.exists(root):
            fs.rm(root, recursive=True)

    def staged(self, run: str, partition_by: Sequence[str]) -> list[NewFile]:
        """The Parquet files in a run's folder, in order of their paths."""
        fs, root = fsspec.core.url_to_fs(self.url)
        paths = sorted(path for path in fs.find(f"{root}/run={run}") if path.endswith(".parquet"))
        with ThreadPoolExecutor(16) as threads:
            return list(threads.map(lambda path: staged_file(fs, root, path, partition_by), paths))

    def check_staged(self, files: Sequence[NewFile]) -> None:
        """Raises Locked where another process has removed what is about to be committed."""
        fs, root = fsspec.core.url_to_fs(self.url)
        found: set[str] = set()
        for folder in {file.path.split("/", 1)[0] for file in files}:
            found.update(
                path.removeprefix(root).lstrip("/") for path in fs.find(f"{root}/{folder}")
            )
        if gone := sorted({file.path for file in files} - found):
            raise Locked(
                f"{self.url}: {len(gone)} files that this run wrote are gone, one is {gone[0]}",
                "all of them, until they are committed",
                "nothing was committed; run the stage again",
            )


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


def tables_of(url: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """A file's row groups one after the other, their pages' checksums verified."""
    fs, path = fsspec.core.url_to_fs(url)
    with pq.ParquetFile(path, filesystem=fs, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, list(columns), use_threads=False)


def read_files(
    session: SparkSession, url: str, files: Sequence[LiveFile], schema: StructType
) -> DataFrame:
    """Files of a table as a Spark DataFrame.

    The partition's columns come from the paths by name. Were the folders' names all taken for
    columns, as Spark does of itself, a run's name would stand in a column `run` of the rows.
    """
    if not files:
        return session.createDataFrame([], schema)
    # Late: readers of files need no Spark.
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructType

    stored = StructType([f for f in schema.fields if f.name not in files[0].partition])
    root = spark_url(url)
    rows = session.read.schema(stored).parquet(*(f"{root}/{file.path}" for file in files))
    columns = {name: partition_column(rows, name) for name in files[0].partition}
    for name in stored.names:
        columns[name] = F.col(spark_name(name))
    return rows.select(*(columns[name].alias(name) for name in schema.names))


def partition_column(rows: DataFrame, name: str) -> Column:
    """A column of the partition of each row of files that Spark reads, from the file's path.

    The lake may itself lie in a folder of such a name, so the last one counts.
    """
    from pyspark.sql import functions as F

    path = rows.metadataColumn("_metadata")["file_path"]
    return F.substring_index(F.substring_index(path, f"/{name}=", -1), "/", 1)


def check_covered(files: Sequence[NewFile], where: Mapping[str, Sequence[str]]) -> None:
    # delta-rs adds files outside the filter without a word and never removes them again.
    for file in files:
        for name, values in where.items():
            if file.partition[name] not in values:
                raise DataRefused(
                    f"{file.path} lies in {name}={file.partition[name]}",
                    f"one of {', '.join(sorted(values))}",
                )
