"""Compact: many small shards of a date's split become few, with the same rows, in one commit.

And the files of `served`, of which each server writes one every few seconds: in a commit a date,
beside servers that go on to append.

A date that is compacted is, to the byte, what an ETL with today's `etl.shard_rows` and
`etl.row_group_rows` would write. Files never hold rows of two dates or splits: these are the
table's partitions, by which dates are replaced and dropped. What reads many small dates is served
by the stream, whose windows take many shards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from pyspark.sql import SparkSession

from jobs.etl.job import lake_of
from jobs.etl.write.accounts import content_digests
from jobs.lake.declaration import refuse_changed_declaration
from jobs.lake.delta import scattered_values
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, record
from jobs.lake.lock import stage_lock
from jobs.lake.manifest import Shard
from jobs.operations.layout import (
    commit_layout,
    contents,
    lay_out,
    stored_examples,
)
from jobs.rows.base.groups import MOST_BYTES
from jobs.rows.base.names import DS
from jobs.settings.etl import EtlSettings
from jobs.settings.settings import Settings

# What a file of served rows may well have.
_SERVED_BYTES = 64 << 20


@dataclass(frozen=True)
class CompactResult:
    """Shards of the dates that were compacted, before and after; none where nothing was to do.

    Attributes:
        served: of served rows, by date, the files before and after.
    """

    dates: Sequence[str]
    before: int
    after: int
    rows: int
    version: int
    served: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def summary(self) -> str:
        if not self.served:
            return self._of_examples()
        before, after = map(sum, zip(*self.served.values(), strict=True))
        return (
            f"{self._of_examples()}; {before:,} files of {len(self.served):,} dates of served rows "
            f"became {after:,}"
        )

    def _of_examples(self) -> str:
        if not self.dates:
            return "nothing to do, no date has more shards or row groups than the settings ask for"
        return (
            f"{self.before:,} shards of {len(self.dates):,} dates became {self.after:,}, with the "
            f"same {self.rows:,} rows; examples version {self.version}"
        )


def run(
    settings: Settings, spark: SparkSession, *, run_id: str, dates: Sequence[str] | None
) -> CompactResult:
    """Merges the shards of the dates, all when None, that have more than the settings ask for, and
    the files of their served rows.

    Raises:
        DataRefused: no examples, or made with another declaration.
        Locked: another run is writing the examples, or erases the same served rows.
    """
    result = _compact_examples(settings, spark, run_id, dates)
    return replace(result, served=compact_served(lake_of(settings), run_id, dates))


def _compact_examples(
    settings: Settings, spark: SparkSession, run_id: str, dates: Sequence[str] | None
) -> CompactResult:
    started = time.monotonic()
    lake = lake_of(settings)
    with stage_lock(lake, "etl", run_id) as lock:
        examples = Examples.open(lake.table("examples").url)
        refuse_changed_declaration(examples.info, settings.dataset(), "the examples were")
        todo = scattered_dates(examples.shards(), settings.etl, dates)
        if not todo:
            return CompactResult([], 0, 0, 0, examples.version)
        before = [shard for shard in examples.shards() if shard.ds in todo]
        after = lay_out(stored_examples(spark, settings, lake, todo), settings, lake, run_id)
        if contents(before) != contents(after):
            raise AssertionError("compacted shards hold other rows; nothing was committed")
        rows = _ledger_rows(run_id, todo, before, after)
        version = commit_layout(lake, lock, run_id, after, rows, started)
    return CompactResult(todo, len(before), len(after), sum(shard.rows for shard in after), version)


def compact_served(
    lake: Lake, run_id: str, dates: Sequence[str] | None
) -> dict[str, tuple[int, int]]:
    """Without a lock, as servers append; what they append meanwhile stays."""
    table, started = lake.table("served"), time.monotonic()
    if not table.exists():
        return {}
    before = scattered_values(table.url, DS, _SERVED_BYTES)
    todo = sorted(before if dates is None else before.keys() & set(dates))
    for ds in todo:
        table.rewrite_appended(DS, ds, lambda rows: rows)
    after = scattered_values(table.url, DS, _SERVED_BYTES)
    found = {ds: (before[ds], after.get(ds, 1)) for ds in todo}
    seconds = time.monotonic() - started
    rows = [
        LedgerRow(
            run_id,
            "compact",
            ds,
            "done",
            counts={"served_files_before": files[0], "served_files": files[1]},
            seconds=seconds,
        )
        for ds, files in found.items()
    ]
    if rows:
        record(lake, rows)
    return found


def scattered_dates(
    shards: Sequence[Shard], etl: EtlSettings, dates: Sequence[str] | None
) -> list[str]:
    """The dates of which a split has more shards, or a shard more row groups, than asked for."""
    found = set()
    for (ds, _), group in groupby(shards, key=lambda shard: (shard.ds, shard.split)):
        parts = list(group)
        asked = -(-sum(shard.rows for shard in parts) // etl.shard_rows)
        scattered = max(shard.number for shard in parts) >= asked
        if scattered or any(_has_small_groups(shard, etl.row_group_rows) for shard in parts):
            found.add(ds)
    return sorted(found if dates is None else found & set(dates))


def _has_small_groups(shard: Shard, row_group_rows: int) -> bool:
    groups = len(shard.row_group_rows)
    # Of large rows, of images above all, groups are cut by their bytes.
    small = shard.bytes < groups * (MOST_BYTES >> 4)
    return small and groups > -(-shard.rows // row_group_rows)


def _ledger_rows(
    run_id: str, dates: Sequence[str], before: Sequence[Shard], after: Sequence[Shard]
) -> list[LedgerRow]:
    digests = content_digests(after)
    return [
        LedgerRow(
            run_id,
            "compact",
            ds,
            "done",
            counts={
                "rows": sum(shard.rows for shard in after if shard.ds == ds),
                "shards_before": sum(shard.ds == ds for shard in before),
                "shards": sum(shard.ds == ds for shard in after),
            },
            digests=digests[ds],
        )
        for ds in dates
    ]
