"""Which dates a night catches up."""

from __future__ import annotations

import datetime as dt

from jobs.lake.lake import Lake
from jobs.nightly.inputs import InputReader
from jobs.nightly.record import Record, dates_of, load
from jobs.settings.settings import Settings


def days(first: str, last: str) -> list[str]:
    """The dates of a range, both included."""
    start, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    return [str(start + dt.timedelta(day)) for day in range((end - start).days + 1)]


def missed(settings: Settings, lake: Lake, inputs: InputReader, ds: str) -> list[str]:
    """Earlier dates that still have something to do, oldest first.

    Since the first night on record, those that have no finished night, and those that waited for
    a raw file that is there now. A refused one is left to whoever corrects its data.
    """
    known = dates_of(lake)
    if not known:
        return []
    today = dt.date.fromisoformat(ds)
    first = max(known[0], str(today - dt.timedelta(settings.nightly.catch_up_days)))
    return [day for day in days(first, ds)[:-1] if _is_missed(load(lake, day), inputs)]


def _is_missed(night: Record, inputs: InputReader) -> bool:
    return not night.is_closed or (_waits_for_raw(night) and inputs.has_raw(night.ds))


def _waits_for_raw(night: Record) -> bool:
    return any(step.values.get("no_raw_file") for step in night.steps.values())
