"""Tables of the lake: Delta tables over Parquet files that tasks wrote, committed by delta-rs.

Files of a run lie under the table's `run=<run>` folder and are invisible until one commit names
them. A commit carries the run, what else the run wrote and an app transaction whose version is the
token of the lock held, so that a holder that lost its lock cannot commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from jobs.base.errors import DataRefused, Locked
from jobs.lake.delta import (
    KEEP_LOG,
    name_files,
    rewrite_rows,
    said,
    schema_difference,
    version_of,
    with_token,
)
from jobs.lake.files import NewFile, check_covered
from jobs.lake.versions import Versions

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

_MEASURED = "delta.dataSkippingStatsColumns"


class Table(Versions):
    """One Delta table, by its URL. Nothing is read until asked for."""

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
        declared = Schema.from_json(schema.json())
        if not self.exists():
            self._create(declared, partition_by, {})
        if where is not None:
            self.check_columns(schema)
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

    def _create(
        self, schema: Schema, partition_by: Sequence[str], configuration: Mapping[str, str]
    ) -> None:
        # Tried again, the second of two to create it would change what the first has made.
        once = CommitProperties(max_commit_retries=0)
        with suppress(CommitFailedError):
            DeltaTable.create(
                *(self.url, schema, "ignore", list(partition_by)),
                configuration=configuration,
                storage_options=self._options,
                commit_properties=once,
            )

    def append(self, rows: pa.Table, measured: Sequence[str] | None = None) -> int:
        """Appends a few rows that the driver holds, as one commit. The log keeps the least and
        greatest values of a new table's columns for ever: of all, or of the `measured` ones.

        Returns:
            The version made.
        """
        try:
            table = DeltaTable(self.url, storage_options=self._options)
        except TableNotFoundError:
            named = {} if measured is None else {_MEASURED: ",".join(measured)}
            self._create(Schema.from_arrow(rows.schema), [], named)
            table = self._at(None)
        write_deltalake(table, rows, mode="append")
        return table.version()

    def join_files(self) -> None:
        """Makes few files of the many that appending leaves, in one commit, if nobody else does."""
        with suppress(CommitFailedError):
            self._at(None).optimize.compact(post_commithook_properties=KEEP_LOG)

    def rewrite_appended(
        self, column: str, value: str, keep: Callable[[pa.Table], pa.Table]
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
            rewrite_rows(table, column, value, keep, said(commit_id, None))
        except CommitFailedError as error:
            raise Locked(f"{self.url}: another process wrote first ({error})") from error
        return version_of(self._at(before), commit_id)

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
