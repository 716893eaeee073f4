"""Retention: dates older than a table's limit are dropped, in one commit a table.

A date's age is counted from the newest date of its table, not from today, so that a lake of old
data does not vanish. The files go when no kept version names them any more.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal

from jobs.etl.write.settle import AWAITS, settle
from jobs.lake.lake import Lake
from jobs.lake.lock import stage_lock
from jobs.rows.base.names import DS, UNDATED
from jobs.settings.nightly import RetentionSettings

Retained = Literal["examples", "quarantine", "predictions", "served"]
# The stages that write a table; each has its lock. Servers append to `served` without one.
WRITERS: dict[Retained, tuple[str, ...]] = {
    "examples": ("etl",),
    "quarantine": ("etl", "score"),
    "predictions": ("score",),
    "served": (),
}


def retain(
    lake: Lake, settings: RetentionSettings, run_id: str, dry_run: bool
) -> dict[str, list[str]]:
    """Drops the dates past retention.

    Returns:
        The dates dropped, or with `dry_run` those that would be, by table.

    Raises:
        Locked: a run writes such a table now.
    """
    limits: dict[Retained, int | None] = {
        "examples": settings.examples_days,
        "quarantine": settings.quarantine_days,
        "predictions": settings.predictions_days,
        "served": settings.served_days,
    }
    found = {name: past_dates(lake, name, days) for name, days in limits.items() if days}
    dropped = {name: dates for name, dates in found.items() if dates}
    for name, dates in () if dry_run else dropped.items():
        drop_dates(lake, name, dates, run_id)
    return {str(name): dates for name, dates in dropped.items()}


def past_dates(lake: Lake, name: Retained, days: int) -> list[str]:
    table = lake.table(name)
    if not table.exists():
        return []
    found = table.values(DS) if name == "served" else [f.partition[DS] for f in table.files()]
    dates = sorted(set(found) - {UNDATED})
    if not dates:
        return []
    first = str(dt.date.fromisoformat(dates[-1]) - dt.timedelta(days - 1))
    return [ds for ds in dates if ds < first]


def drop_dates(lake: Lake, name: Retained, dates: Sequence[str], run_id: str) -> None:
    table = lake.table(name)
    if name == "served":
        for ds in dates:
            table.rewrite_appended(DS, ds, lambda rows: rows.slice(0, 0))
        return
    with ExitStack() as locks:
        held = [locks.enter_context(stage_lock(lake, stage, run_id)) for stage in WRITERS[name]]
        if name == "quarantine":
            for stage, lock in zip(WRITERS[name], held, strict=True):
                settle(lake, stage, lock, run_id)
        info = table.commit_info() | {"run": run_id}
        # Of the quarantine, that a run's last commit is awaited.
        info.pop(AWAITS, None)
        for key in ("states", "runs"):
            if key in info:
                info[key] = {ds: value for ds, value in info[key].items() if ds not in dates}
        table.rewrite([], {DS: dates}, info, WRITERS[name][0], held[0].token)
