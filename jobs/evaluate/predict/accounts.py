"""Accounts of a scoring: what became of each date's rows, for its check and for the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobs.base.errors import DateRefused
from jobs.etl.judge.counts import ByDate, DateCounts
from jobs.evaluate.predict.predictions import Content
from jobs.lake.ledger import LedgerRow
from jobs.registry.version import ModelVersion


def refuse_lost(counts: ByDate, dates: Sequence[str]) -> None:
    """Refuses dates without a row to predict."""
    for ds in dates:
        if not counts[ds].valid:
            raise DateRefused(
                f"{ds}: all {counts[ds].raw:,} rows are refused\n{counts[ds].reasons_table()}",
                "at least one valid row a date",
                "correct the raw data and run again",
                ds=ds,
            )


def assert_conserved(
    counts: ByDate, predicted: Mapping[str, Content], quarantined: Mapping[str, int]
) -> None:
    """Law 1 for scoring: raw rows = predicted + quarantined, both counted from what was written."""
    for ds, one in counts.items():
        written = predicted.get(ds, Content()).rows
        refused = quarantined.get(ds, 0)
        if one.raw != written + refused:
            raise AssertionError(
                f"{ds}: {one.raw} raw rows, but {written} predicted and {refused} quarantined; "
                "nothing was committed"
            )


def ledger_counts(counts: DateCounts) -> dict[str, int]:
    return {"raw": counts.raw, "predicted": counts.valid, "quarantined": counts.quarantined}


def ledger_lines(
    line: LedgerRow, model: ModelVersion, counts: ByDate, predicted: Mapping[str, Content]
) -> list[LedgerRow]:
    """One row a date.

    Args:
        line: what all dates share.
    """
    used = {name: model.tags[f"{name}_digest"] for name in ("weights", "state")}
    return [
        replace(
            line,
            ds=ds,
            counts=ledger_counts(one),
            digests={"predictions": f"{predicted.get(ds, Content()).digest:016x}", **used},
        )
        for ds, one in counts.items()
    ]
