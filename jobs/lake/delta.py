"""What a table tells delta-rs, and what it says in a user's words."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

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
