"""What a table holds, and what its versions say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from jobs.base.errors import DataRefused
from jobs.lake.delta import (
    commit_times,
    queried,
    replaced_files,
    rows_where,
    said_by_version,
    said_until,
    unreadable,
)
from jobs.lake.files import LiveFile, StagedRuns, read_files
from jobs.stores.files import delta_options, store_at

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


class Versions(StagedRuns):
    """One Delta table to read, by its URL."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._options = delta_options(self.url)

    def exists(self) -> bool:
        try:
            store_at(self.url)[0].await_answer()
            return bool(DeltaTable.is_deltatable(self.url, self._options))
        except OSError as error:
            raise unreadable(self.url, error) from error

    def version(self) -> int:
        """The newest version; -1 when there is no table yet."""
        return self._at(None).version() if self.exists() else -1

    def version_at(self, version: int | None) -> int:
        """The version, the newest where none is given.

        Raises:
            DataRefused: there is no such table or version.
        """
        return int(self._at(version).version())

    def _at(self, version: int | None) -> DeltaTable:
        try:
            store_at(self.url)[0].await_answer()
            return DeltaTable(self.url, version=version, storage_options=self._options)
        except OSError as error:
            raise unreadable(self.url, error) from error
        except (TableNotFoundError, DeltaError) as error:
            raise DataRefused(
                f"no table {self.url}" + ("" if version is None else f" at version {version}"),
                remedy="run the stage that writes it first",
            ) from error

    def files(self, version: int | None = None) -> list[LiveFile]:
        """The files of a version."""
        actions = pa.table(self._at(version).get_add_actions(flatten=True)).to_pylist()
        return [
            LiveFile(
                path=action["path"],
                partition={
                    name.removeprefix("partition."): value
                    for name, value in action.items()
                    if name.startswith("partition.")
                },
                rows=action.get("num_records") or 0,
                bytes=action["size_bytes"],
            )
            for action in actions
        ]

    def commit_info(self, version: int | None = None) -> dict[str, Any]:
        """What the newest commit at or before `version` that was made by a run says of itself."""
        table = self._at(version)
        return said_until(table, table.version())

    def infos(self, after: int = -1) -> dict[int, dict[str, Any]]:
        """`commit_info` of each version after one."""
        return said_by_version(self._at(None), after)

    def newest_info(self) -> dict[str, Any]:
        """`commit_info` of the newest version; nothing where there is no table yet."""
        return self.commit_info() if self.exists() else {}

    def commits(self) -> list[tuple[int, float]]:
        """Versions, the oldest first, and when each was made, in seconds since 1970."""
        return commit_times(self._at(None))

    def values(self, column: str) -> list[str]:
        """What stands in a column, each once, in order."""
        sql = f'SELECT DISTINCT "{column}" AS value FROM rows ORDER BY value'
        return [value.as_py() for value in queried(self._at(None), sql)["value"]]

    def rows_where(self, **values: str) -> pa.Table:
        """The rows with these values in columns."""
        table = self._at(None)
        return rows_where(table, values).cast(pa.schema(table.schema().to_arrow()))

    def replaced_files(self, hours: int) -> list[str]:
        """Files that no version names any more since so many hours."""
        return replaced_files(self._at(None), hours)

    def read_arrow(self, version: int | None = None) -> pa.Table:
        """A small table as Arrow, on the driver; rows of different files come in any order."""
        table = self._at(version)
        return queried(table, "SELECT * FROM rows").cast(pa.schema(table.schema().to_arrow()))

    def spark(
        self,
        session: SparkSession,
        schema: StructType,
        version: int | None = None,
        where: Mapping[str, Iterable[str]] | None = None,
    ) -> DataFrame:
        """A version, or the partitions `where` names, as a Spark DataFrame of the schema."""
        wanted = {name: set(values) for name, values in (where or {}).items()}
        files = [
            file
            for file in (self.files(version) if self.exists() else [])
            if all(file.partition[name] in values for name, values in wanted.items())
        ]
        return read_files(session, self.url, files, schema)
