"""What a table tells delta-rs, and what it says in a user's words."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Schema,
    Transaction,
)
from deltalake.transaction import AddAction

from jobs.base.errors import DataRefused, Locked
from jobs.lake.files import NewFile
from jobs.stores.errors import remedy_of, told
from jobs.stores.files import delta_options

# By default delta-rs forgets versions after 30 days, which a registered model may still name.
KEEP_LOG = PostCommitHookProperties(cleanup_expired_logs=False)


def with_token(
    table: DeltaTable, app_id: str, token: int, said: Mapping[str, str] | None = None
) -> CommitProperties:
    """What a commit carries: the token of the lock, and what it says of itself.

    Raises:
        Locked: another holder committed with a newer token.
    """
    newest = table.transaction_version(app_id)
    if newest is not None and newest > token:
        raise Locked(f"{app_id}: another run committed with token {newest}; ours is {token}")
    return CommitProperties(
        custom_metadata=dict(said) if said else None,
        app_transactions=[Transaction(app_id, token)],
        max_commit_retries=15,
    )


def unreadable(url: str, error: OSError) -> DataRefused:
    return DataRefused(f"table {url} cannot be read: {told(error)}", remedy=remedy_of(str(error)))


def schema_difference(ours: Schema, theirs: Schema) -> str:
    table = {f.name: str(f.type) for f in ours.fields}
    declared = {f.name: str(f.type) for f in theirs.fields}
    names = sorted(
        name for name in table.keys() | declared.keys() if table.get(name) != declared.get(name)
    )
    return "the same columns; these differ: " + ", ".join(names)


def add_action(file: NewFile) -> AddAction:
    return AddAction(
        file.path,
        file.bytes,
        dict(file.partition),
        int(time.time() * 1000),
        True,
        json.dumps({"numRecords": file.rows}),
    )


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
