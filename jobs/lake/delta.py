"""What a table tells delta-rs, and what it says in a user's words.

With `tables` and `versions` the only module that imports delta-rs.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    QueryBuilder,
    Schema,
    Transaction,
    write_deltalake,
)
from deltalake.transaction import AddAction

from jobs.base.errors import DataRefused, Locked
from jobs.lake.files import NewFile
from jobs.stores.errors import remedy_of, told
from jobs.stores.files import delta_options

# The key under which a commit says what its run says of it.
_SAID = "millstream"
_ID = "millstream_commit"
_APPEND_HOURS = 24  # longer than any takes
# By default delta-rs forgets versions after 30 days, which a registered model may still name.
KEEP_LOG = PostCommitHookProperties(cleanup_expired_logs=False)


def with_token(
    table: DeltaTable,
    app_id: str,
    token: int,
    info: Mapping[str, Any] | None = None,
    commit_id: str = "",
) -> CommitProperties:
    """What a commit carries: the token of the lock, and what a run's commit says of itself.

    Raises:
        Locked: another holder committed with a newer token.
    """
    newest = table.transaction_version(app_id)
    if newest is not None and newest > token:
        raise Locked(f"{app_id}: another run committed with token {newest}; ours is {token}")
    return CommitProperties(
        custom_metadata=said(commit_id, info) or None,
        app_transactions=[Transaction(app_id, token)],
        max_commit_retries=15,
    )


def said(commit_id: str, info: Mapping[str, Any] | None) -> dict[str, str]:
    """How a commit is found again, and what its run says of it."""
    found = {_ID: commit_id} if commit_id else {}
    if info is not None:
        found[_SAID] = json.dumps(dict(info), sort_keys=True)
    return found


def version_of(table: DeltaTable, commit_id: str) -> int:
    """The version that a commit made after `table`'s own, whatever was committed since."""
    commits = _history(table, table.version())
    return next(int(commit["version"]) for commit in commits if commit.get(_ID) == commit_id)


def said_until(table: DeltaTable, until: int) -> dict[str, Any]:
    """What the last commit of a run up to a version says; nothing where there is none."""
    read = 8
    while True:
        # The newest first.
        for commit in _history(table, until - read):
            if commit["version"] <= until and _SAID in commit:
                return dict(json.loads(commit[_SAID]))
        if read > until:
            return {}
        read *= 8


def said_by_version(table: DeltaTable, after: int) -> dict[int, dict[str, Any]]:
    """The same of each version after one."""
    found, info = {}, said_until(table, after) if after >= 0 else {}
    for commit in reversed(_history(table, after)):
        if _SAID in commit:
            info = dict(json.loads(commit[_SAID]))
        found[int(commit["version"])] = info
    return found


def commit_times(table: DeltaTable) -> list[tuple[int, float]]:
    """Versions, the oldest first, and when each was made, in seconds since 1970."""
    commits = reversed(_history(table, -1))
    return [(int(commit["version"]), commit["timestamp"] / 1000) for commit in commits]


def _history(table: DeltaTable, after: int) -> list[dict[str, Any]]:
    """The commits after a version, the newest first. `table` is brought to its newest version."""
    while True:
        table.update_incremental()
        newest = table.version()
        commits = table.history(max(1, newest - after))
        table.update_incremental()
        # delta-rs numbers commits from the table's version on, also those that came meanwhile.
        if table.version() == newest:
            return [commit for commit in commits if commit["version"] > after]


def rows_where(table: DeltaTable, values: Mapping[str, str]) -> pa.Table:
    """The rows with values in columns; files that by their least and greatest have none are not
    read."""
    texts = {name: value.replace("'", "''") for name, value in values.items()}
    terms = [f"\"{name}\" = '{text}'" for name, text in texts.items()]
    return queried(table, f"SELECT * FROM rows WHERE {' AND '.join(terms) or 'true'}")


def queried(table: DeltaTable, sql: str) -> pa.Table:
    """What a query of the table, called `rows`, finds."""
    # Not to_pyarrow_table: Arrow's threads then hold Python objects, and a process that ends
    # soon after may abort (https://github.com/apache/arrow/issues/34314).
    return pa.table(QueryBuilder().register("rows", table).execute(sql).read_all())


def unreadable(url: str, error: OSError) -> DataRefused:
    return DataRefused(f"table {url} cannot be read: {told(error)}", remedy=remedy_of(str(error)))


def schema_difference(ours: Schema, theirs: Schema) -> str:
    table = {f.name: str(f.type) for f in ours.fields}
    declared = {f.name: str(f.type) for f in theirs.fields}
    names = sorted(
        name for name in table.keys() | declared.keys() if table.get(name) != declared.get(name)
    )
    return "the same columns; these differ: " + ", ".join(names)


def name_files(
    table: DeltaTable,
    files: Sequence[NewFile],
    schema: Schema,
    partition_by: Sequence[str],
    where: Mapping[str, Sequence[str]] | None,
    properties: CommitProperties,
) -> None:
    """Names files in one commit, in the place of the partitions that `where` names.

    Args:
        where: partition column -> its values; without a column all is replaced. None: nothing is.
    """
    filters = [(name, "in", list(values)) for name, values in (where or {}).items()]
    table.create_write_transaction(
        [_add_action(file) for file in files],
        "append" if where is None else "overwrite",
        schema,
        list(partition_by),
        partition_filters=None if where is None else filters,
        commit_properties=properties,
        post_commithook_properties=KEEP_LOG,
    )


def rewrite_rows(
    table: DeltaTable,
    column: str,
    value: str,
    keep: Callable[[pa.Table], pa.Table],
    metadata: dict[str, str],
) -> None:
    """Leaves of the rows with a value what `keep` gives of each part of them, in one commit."""
    schema = pa.schema(table.schema().to_arrow())
    where = f"{column} = '{value}'"
    found = QueryBuilder().register("rows", table).execute(f"SELECT * FROM rows WHERE {where}")
    kept = (batch for part in found for batch in keep(pa.table(part).cast(schema)).to_batches())
    write_deltalake(
        table,
        pa.RecordBatchReader.from_batches(schema, kept),
        mode="overwrite",
        predicate=where,
        commit_properties=CommitProperties(metadata),
        post_commithook_properties=KEEP_LOG,
    )


def _add_action(file: NewFile) -> AddAction:
    return AddAction(
        file.path,
        file.bytes,
        dict(file.partition),
        int(time.time() * 1000),
        True,
        json.dumps({"numRecords": file.rows}),
    )


def replaced_files(table: DeltaTable, hours: int) -> list[str]:
    """Files that no version names any more since so many hours. One that no version ever named
    may be of an append under way, and is told after a day."""
    look = partial(table.vacuum, dry_run=True, enforce_retention_duration=False)
    return sorted({*look(hours), *look(max(hours, _APPEND_HOURS), full=True)})


def scattered_values(url: str, column: str, file_bytes: int) -> dict[str, int]:
    """The values of a measured text column whose rows lie in more files than they need.

    Args:
        url: of a table without partitions, which is there.
        file_bytes: that a file may well have.

    Returns:
        Value -> the files that have rows of it.
    """
    table = DeltaTable(url, storage_options=delta_options(url))
    actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    files: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for action in actions:
        for value in {action[f"min.{column}"], action[f"max.{column}"]} - {None}:
            files[value] += 1
            size[value] += action["size_bytes"]
    return {value: n for value, n in sorted(files.items()) if n > 1 + size[value] // file_bytes}
