"""The ledger: one row for each (run, stage, ds), appended last, after the commit it tells of."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from jobs.lake.lake import Lake, TableName

_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("stage", pa.string()),
        ("ds", pa.string()),
        ("status", pa.string()),
        ("counts", pa.map_(pa.string(), pa.int64())),
        ("digests", pa.map_(pa.string(), pa.string())),
        ("versions", pa.map_(pa.string(), pa.string())),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("seconds", pa.float64()),
        ("message", pa.string()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
    ]
)
_MAPS = ("counts", "digests", "versions", "metrics")
# Each record leaves a file, and a server of some replicas thousands a day.
_COMMITS_A_FILE = 64


@dataclass(frozen=True)
class LedgerRow:
    """What a run did to one date in one stage.

    Attributes:
        status: done, refused, unchanged, or intended (an alias that is about to move).
        counts: rows in, out and refused, by name.
        digests: of content written or used.
        versions: of tables and models written or used.
        metrics: measured values.
        seconds: of the run, for all its dates together.
    """

    run: str
    stage: str
    ds: str
    status: str
    counts: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    message: str = ""


def new_run_id(stage: str) -> str:
    """A name that no other run has: stage, moment in UTC, and a random part."""
    moment = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S")
    return f"{stage}-{moment}-{secrets.token_hex(3)}"


def record(lake: Lake, rows: Sequence[LedgerRow]) -> None:
    """Appends rows to the ledger in one commit."""
    moment = dt.datetime.now(dt.UTC)
    values = [{**asdict(row), "recorded_at": moment} for row in rows]
    for value in values:
        for name in _MAPS:
            value[name] = list(value[name].items())
    if not values:
        return
    table = lake.table("ledger")
    if table.append(pa.Table.from_pylist(values, schema=_SCHEMA)) % _COMMITS_A_FILE == 0:
        table.join_files()


def of_commit(rows: Sequence[LedgerRow]) -> dict[str, Any]:
    """What the commit holds that the rows tell of, for `record_lost`."""
    return {"ledger": [asdict(row) for row in rows]}


def record_committed(
    lake: Lake, name: TableName, version: int, rows: Iterable[LedgerRow], seconds: float
) -> None:
    """Appends the rows of the commit that made a table's version."""
    made = {name: str(version)}
    record(lake, [replace(row, versions=row.versions | made, seconds=seconds) for row in rows])


def record_lost(lake: Lake, name: TableName, info: Mapping[str, Any]) -> None:
    """Appends the rows that a table's newest commit holds, where its run died before it did.

    Under the lock of those who commit to the table: a run that lives appends them itself.

    Args:
        info: what the commit says.
    """
    held = info.get("ledger")
    if not held or _tells_of(lake, held[0]["run"], name):
        return
    infos = lake.table(name).infos()
    version = min(version for version, found in infos.items() if found.get("ledger") == held)
    rows = [LedgerRow(**row) for row in held]
    record_committed(lake, name, version, rows, rows[0].seconds)


def _tells_of(lake: Lake, run: str, name: TableName) -> bool:
    """Whether the ledger knows of a run's commit to a table."""
    ledger = lake.table("ledger")
    rows = ledger.rows_where(run=run).to_pylist() if ledger.exists() else []
    return any(name in dict(row["versions"] or ()) for row in rows)


def read_ledger(lake: Lake, **where: str) -> list[dict[str, Any]]:
    """The ledger's rows whose columns have the given values, oldest first."""
    table = lake.table("ledger")
    if not table.exists():
        return []
    found = table.rows_where(**where).to_pylist()
    for row in found:
        for name in _MAPS:
            row[name] = dict(row[name] or ())
    return sorted(found, key=lambda row: row["recorded_at"])
