"""Tables of the lake: Delta tables over Parquet files that tasks wrote, committed by delta-rs.

With `delta` the only module that imports delta-rs. Files of a run lie under the table's `run=<run>`
folder and are invisible until one commit names them. A commit carries the run, what else the run
wrote and an app transaction whose version is the token of the lock held, so that a holder that lost
its lock cannot commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa
from deltalake import DeltaTable, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import create_table_with_add_actions

from jobs.base.errors import DataRefused, Locked
from jobs.lake.delta import (
    KEEP_LOG,
    commit_times,
    name_files,
    queried,
    replaced_files,
    rewrite_rows,
    rows_with,
    said,
    said_by_version,
    said_until,
    schema_difference,
    unreadable,
    version_of,
    with_token,
)
from jobs.lake.files import LiveFile, NewFile, StagedRuns, check_covered, read_files
from jobs.stores.files import delta_options, store_at

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

_MEASURED = "delta.dataSkippingStatsColumns"


class Table(StagedRuns):
    """One Delta table, by its URL. Nothing is read until asked for."""

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

    def infos(self) -> dict[int, dict[str, Any]]:
        """`commit_info` of each version."""
        return said_by_version(self._at(None))

    def newest_info(self) -> dict[str, Any]:
        """`commit_info` of the newest version; nothing where there is no table yet."""
        return self.commit_info() if self.exists() else {}

    def commits(self) -> list[tuple[int, float]]:
        """Versions, the oldest first, and when each was made, in seconds since 1970."""
        return commit_times(self._at(None))

    def replace(
        self,
        files: Sequence[NewFile],
        schema: StructType,
        partition_by: Sequence[str],
        where: Mapping[str, Sequence[str]] | None,
        info: Mapping[str, Any],
        app_id: str,
        token: int,
    ) -> int:
        """Replaces the partitions `where` names by `files`, in one commit.

        Args:
            files: already written; each must lie in a partition that `where` covers.
            schema: of the table with its partition columns; must be the table's own.
            partition_by: the partition columns.
            where: partition column -> its values; all are replaced, those without files emptied.
                None: the whole table, its columns too.
            info: kept in the commit, under `millstream`.
            app_id: the stage and what of it, for the app transaction.
            token: of the lock held; a commit with a newer token ends this one.

        Returns:
            The version made.

        Raises:
            Locked: another holder committed with a newer token.
            DataRefused: a file lies outside `where`, or the table has another schema.
        """
        check_covered(files, where or {})
        self._create_if_absent(schema, partition_by)
        if where is not None:
            self.check_columns(schema)
        declared = Schema.from_json(schema.json())
        return self._commit(files, declared, partition_by, where or {}, info, app_id, token)

    def check_columns(self, schema: StructType) -> None:
        """Refuses a schema that is not the table's.

        Raises:
            DataRefused: it names the columns that differ.
        """
        ours, theirs = self._at(None).schema(), Schema.from_json(schema.json())
        if ours != theirs:
            raise DataRefused(
                f"table {self.url} has other columns than the declaration",
                schema_difference(ours, theirs),
                "move the table's folder away, or use another lake folder; examples are made anew "
                "by `millstream etl --rebuild`",
            )

    def rewrite(
        self,
        files: Sequence[NewFile],
        where: Mapping[str, Sequence[str]],
        info: Mapping[str, Any],
        app_id: str,
        token: int,
    ) -> int:
        """`replace` for a table that is there, with the columns that it has."""
        check_covered(files, where)
        table = self._at(None)
        columns = table.metadata().partition_columns
        return self._commit(files, table.schema(), columns, where, info, app_id, token)

    def add(self, files: Sequence[NewFile], info: Mapping[str, Any], app: str, token: int) -> int:
        """Names further files beside those of the newest version, in one commit."""
        table = self._at(None)
        columns = table.metadata().partition_columns
        return self._commit(files, table.schema(), columns, None, info, app, token)

    def _commit(
        self,
        files: Sequence[NewFile],
        schema: Schema,
        partition_by: Sequence[str],
        where: Mapping[str, Sequence[str]] | None,
        info: Mapping[str, Any],
        app_id: str,
        token: int,
    ) -> int:
        self.check_staged(files)
        table = self._at(None)
        commit_id = uuid4().hex
        properties = with_token(table, app_id, token, info, commit_id)
        try:
            name_files(table, files, schema, partition_by, where, properties)
        except CommitFailedError as error:
            raise Locked(f"{self.url}: another run committed first ({error})") from error
        return version_of(table, commit_id)

    def _create_if_absent(self, schema: StructType, partition_by: Sequence[str]) -> None:
        if not self.exists():
            create_table_with_add_actions(
                self.url,
                Schema.from_json(schema.json()),
                [],
                "ignore",
                list(partition_by),
                storage_options=self._options,
            )

    def append(self, rows: pa.Table, measured: Sequence[str] | None = None) -> None:
        """Appends a few rows that the driver holds, as one commit. The log keeps the least and
        greatest values of a new table's columns for ever: of all, or of the `measured` ones."""
        named = {} if measured is None else {_MEASURED: ",".join(measured)}
        options = self._options
        write_deltalake(self.url, rows, mode="append", storage_options=options, configuration=named)

    def values(self, column: str) -> list[str]:
        """What stands in a column, each once, in order."""
        sql = f'SELECT DISTINCT "{column}" AS value FROM rows ORDER BY value'
        return [value.as_py() for value in queried(self._at(None), sql)["value"]]

    def rows_with(self, column: str, value: str) -> pa.Table:
        """The rows with a value in a column."""
        return rows_with(self._at(None), column, value)

    def rewrite_appended(
        self,
        column: str,
        value: str,
        keep: Callable[[pa.Table], pa.Table],
        info: Mapping[str, Any] | None = None,
    ) -> int:
        """Leaves of the rows with a value what `keep` gives of each part of them, in one commit.
        Rows that are appended meanwhile stay, as servers append without a lock.

        Returns:
            The version made.

        Raises:
            Locked: another process changed the same rows first.
        """
        table, commit_id = self._at(None), uuid4().hex
        before = table.version()
        try:
            rewrite_rows(table, column, value, keep, said(commit_id, info))
        except CommitFailedError as error:
            raise Locked(f"{self.url}: another process wrote first ({error})") from error
        return version_of(self._at(before), commit_id)

    def replaced_files(self, hours: int) -> list[str]:
        """Files that no version names any more since so many hours."""
        return replaced_files(self._at(None), hours)

    def read_arrow(self, version: int | None = None) -> pa.Table:
        """A small table as Arrow, on the driver; rows of different files come in any order."""
        table = self._at(version)
        return queried(table, "SELECT * FROM rows").cast(pa.schema(table.schema().to_arrow()))

    def restore(self, version: int, app_id: str, token: int) -> None:
        """Makes the content that of an older version again, when newer ones belong to no run.

        Raises:
            Locked: another holder committed with a newer token.
        """
        if not self.exists() or self.version() == version:
            return
        table = self._at(None)
        properties = with_token(table, app_id, token)
        try:
            table.restore(
                version, commit_properties=properties, post_commithook_properties=KEEP_LOG
            )
        except CommitFailedError as error:
            raise Locked(f"{self.url}: another run committed first ({error})") from error

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
