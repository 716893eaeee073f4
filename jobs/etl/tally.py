"""Tally: rows of each date counted, so that none leaves without a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pyspark.sql import DataFrame

from jobs.base.errors import DataRefused, DateRefused
from jobs.etl.ingest import DS, REASONS, UNDATED
from jobs.etl.names import SPLIT
from jobs.etl.validate import LABEL_ABSENT
from jobs.lake.manifest import Shard


@dataclass(frozen=True)
class Tally:
    """Rows of one date.

    Attributes:
        raw: counted by itself, from the raw files.
        splits: valid rows by split.
        reasons: refused rows by the reasons they have together.
    """

    raw: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())

    @property
    def label_absent(self) -> int:
        """Rows with no other reason; they are outside the quarantined fraction."""
        return self.reasons.get((LABEL_ABSENT,), 0)

    def refused_for(self, name: str) -> int:
        """Rows with the reason `name`, or with one of that kind."""
        return sum(
            count
            for reasons, count in self.reasons.items()
            if any(reason == name or reason.startswith(f"{name}:") for reason in reasons)
        )

    def reasons_table(self) -> str:
        """Rows by single reason, most frequent first; a row with two reasons is in both."""
        by_reason: Counter[str] = Counter()
        for reasons, count in self.reasons.items():
            by_reason.update(dict.fromkeys(reasons, count))
        lines = (f"    {count:>10,}  {reason}" for reason, count in by_reason.most_common())
        return "\n".join(lines)

    def counts(self) -> dict[str, int]:
        """For the ledger."""
        quarantined = {"quarantined": self.quarantined, LABEL_ABSENT: self.label_absent}
        return {"raw": self.raw, **self.splits, **quarantined}


def tally(rows: DataFrame, raw_counts: Mapping[str, int]) -> dict[str, Tally]:
    """Counts checked rows by date, split and reasons.

    Args:
        rows: with `ds`, `split` (null where refused) and `reasons`.
        raw_counts: raw rows by date.
    """
    splits: dict[str, dict[str, int]] = {ds: {} for ds in raw_counts}
    reasons: dict[str, dict[tuple[str, ...], int]] = {ds: {} for ds in raw_counts}
    for row in rows.groupBy(DS, SPLIT, REASONS).count().collect():
        if row[SPLIT] is None:
            reasons[row[DS]][tuple(row[REASONS])] = row["count"]
        else:
            splits[row[DS]][row[SPLIT]] = row["count"]
    return {ds: Tally(raw_counts[ds], splits[ds], reasons[ds]) for ds in sorted(raw_counts)}


def summary(tallies: Iterable[Tally]) -> str:
    """Rows of several dates together, in words."""
    total: Counter[str] = Counter()
    for one in tallies:
        total.update({"raw": one.raw, "quarantined": one.quarantined, **one.splits})
    splits = ", ".join(f"{name} {total[name]:,}" for name in ("train", "val", "test"))
    return f"{total['raw']:,} rows = {splits}, quarantined {total['quarantined']:,}"


def refuse_empty(raw_counts: Mapping[str, int], dates: Sequence[str]) -> None:
    """Refuses dates without a row: an empty date is a failure upstream more often than not."""
    if empty := [ds for ds in dates if ds not in raw_counts]:
        more = f" and {len(empty) - 5} more dates" if len(empty) > 5 else ""
        raise DataRefused(
            f"no rows for {', '.join(empty[:5])}{more}",
            "at least one row a date",
            "land the data, or leave the date out; nothing was changed",
        )


def refuse_bad(
    tallies: Mapping[str, Tally], limit: float, limits: Mapping[str, float] = MappingProxyType({})
) -> None:
    """Refuses dates with too many quarantined rows, with a table of reasons.

    Args:
        limit: greatest fraction of a date's rows, those whose only lack is the label left out.
        limits: greatest fraction by reason, or by kind of reason: `unparsable` is all that start
            with `unparsable:`.
    """
    for ds, one in tallies.items():
        # Undated rows belong to no date: they are measured against all rows read.
        rows = one.raw if ds != UNDATED else sum(other.raw for other in tallies.values())
        named = [("", limit, one.quarantined - one.label_absent)]
        named += [(name, most, one.refused_for(name)) for name, most in limits.items()]
        broken = [(name, most, count) for name, most, count in named if count > most * rows]
        if broken:
            raise DateRefused(
                f"{ds}: "
                + "; ".join(
                    f"{count:,} of {rows:,} rows ({count / rows:.1%}) are refused"
                    + (f" for {name}" if name else "")
                    for name, _, count in broken
                )
                + f"\n{one.reasons_table()}",
                ", ".join(
                    f"at most {most:.1%} "
                    f"({f'etl.limits.{name}' if name else 'etl.max_quarantined_fraction'})"
                    for name, most, _ in broken
                ),
                "correct the raw data; nothing was changed",
                ds=ds,
            )


def assert_conserved(
    tallies: Mapping[str, Tally], shards: Sequence[Shard], quarantined: Mapping[str, int]
) -> None:
    """Law 1: raw rows = examples + quarantined, both counted from what was written."""
    for ds, one in tallies.items():
        written = sum(shard.rows for shard in shards if shard.ds == ds)
        refused = quarantined.get(ds, 0)
        if one.raw != written + refused:
            raise AssertionError(
                f"{ds}: {one.raw} raw rows, but {written} in examples and {refused} in "
                "quarantine; nothing was committed"
            )
