"""Generations: a fresh id log, on purpose; ids of different generations have nothing in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.etl.write.quarantine import STAGE
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.rows.base.names import DS, UNDATED


def next_generation(before: Mapping[str, Any]) -> dict[str, Any]:
    """What a commit builds on that starts with nothing."""
    return {"generation": before["generation"] + 1} if before else {}


def held_dates(lake: Lake) -> list[str]:
    """The dates that the examples hold.

    Raises:
        DataRefused: there are no examples.
    """
    return sorted(Examples.open(lake.table("examples").url).info["states"])


def refused_dates(lake: Lake) -> set[str]:
    """The dates that have rows of the ETL in quarantine."""
    table = lake.table("quarantine")
    files = table.files() if table.exists() else []
    return {file.partition[DS] for file in files if file.partition[STAGE] == "etl"} - {UNDATED}
