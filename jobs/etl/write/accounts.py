"""Accounts: what the ledger says of the dates of a pass, and the digests of what shards hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobs.base.errors import DataRefused, DateRefused
from jobs.etl.fit.expect import Findings
from jobs.etl.judge.counts import ByDate
from jobs.lake.ledger import LedgerRow
from jobs.lake.manifest import UINT64, Shard


def content_digests(shards: Sequence[Shard]) -> dict[str, dict[str, str]]:
    """By date: `examples`, of the rows as a set, and `examples_in_order`, of shards and rows."""
    by_ds: dict[str, list[Shard]] = {}
    for shard in sorted(shards):
        by_ds.setdefault(shard.ds, []).append(shard)
    return {ds: _digests(found) for ds, found in by_ds.items()}


def _digests(shards: Sequence[Shard]) -> dict[str, str]:
    as_set = sum(shard.digest for shard in shards) % UINT64
    text = ",".join(f"{s.split}/{s.number}:{s.order_digest:016x}" for s in shards)
    in_order = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"examples": f"{as_set:016x}", "examples_in_order": in_order}


def ledger_rows(
    run_id: str,
    counts: ByDate,
    fitted: Mapping[str, str],
    findings: Findings,
    shards: Sequence[Shard],
    seconds: float,
) -> list[LedgerRow]:
    """One row a date, without the version that the commit makes.

    Args:
        fitted: the states' digests by date.
    """
    digests, nothing = content_digests(shards), _digests([])
    return [
        LedgerRow(
            run=run_id,
            stage="etl",
            ds=ds,
            status="done",
            counts=one.ledger(),
            digests={
                **digests.get(ds, nothing),
                **({"state": fitted[ds]} if ds in fitted else {}),
            },
            metrics=findings.metrics.get(ds, {}),
            message="; ".join(findings.warnings.get(ds, ())),
            seconds=seconds,
        )
        for ds, one in counts.items()
    ]


def refusal(run_id: str, dates: Sequence[str], error: DataRefused) -> LedgerRow:
    """The row of a refused pass: of the date that broke a rule, where the error names one."""
    row = LedgerRow(run_id, "etl", dates[0], "refused", message=str(error))
    if isinstance(error, DateRefused):
        row = replace(row, ds=error.ds, metrics=error.metrics)
    return row


def assert_conserved(
    counts: ByDate, shards: Sequence[Shard], quarantined: Mapping[str, int]
) -> None:
    """Law 1: raw rows = examples + quarantined, both counted from what was written."""
    for ds, one in counts.items():
        written = sum(shard.rows for shard in shards if shard.ds == ds)
        refused = quarantined.get(ds, 0)
        if one.raw != written + refused:
            raise AssertionError(
                f"{ds}: {one.raw} raw rows, but {written} in examples and {refused} in "
                "quarantine; nothing was committed"
            )
