"""Counts: rows of each date, by split and by reason, so that none leaves unaccounted for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.errors import DataRefused, DateRefused
from jobs.rows.base.names import DS, DUPLICATE_KEY, LABEL_ABSENT, REASONS, SPLIT, UNDATED
from jobs.rows.judge.judged import Judged

_EMPTY: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class DateCounts:
    """Rows of one date.

    Attributes:
        raw: by the parts of the files that were read.
        splits: valid rows by split; one split, named by the empty text, where rows have none.
        quarantined: refused rows.
        reasons: refused rows by reason; a row with two reasons is in both.
        kinds: refused rows by kind of reason (`unparsable` of `unparsable:age`).
        label_absent: refused rows with no other reason; they are outside the quarantined fraction.
    """

    raw: int = 0
    splits: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    quarantined: int = 0
    reasons: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    kinds: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    label_absent: int = 0

    def __add__(self, other: DateCounts) -> DateCounts:
        return DateCounts(
            self.raw + other.raw,
            dict(Counter(self.splits) + Counter(other.splits)),
            self.quarantined + other.quarantined,
            dict(Counter(self.reasons) + Counter(other.reasons)),
            dict(Counter(self.kinds) + Counter(other.kinds)),
            self.label_absent + other.label_absent,
        )

    @property
    def valid(self) -> int:
        return sum(self.splits.values())

    def without_duplicates(self, splits: Mapping[str, int]) -> DateCounts:
        """The same rows after some valid ones, counted by split, were found to repeat a key."""
        count = sum(splits.values())
        lost = {DUPLICATE_KEY: count} if count else {}
        left = {name: rows - splits.get(name, 0) for name, rows in self.splits.items()}
        refused = DateCounts(0, {}, count, lost, lost, 0)
        return (
            DateCounts(
                self.raw,
                {name: rows for name, rows in left.items() if rows},
                self.quarantined,
                self.reasons,
                self.kinds,
                self.label_absent,
            )
            + refused
        )

    def refused_for(self, name: str) -> int:
        """Rows with the reason `name`, or with one of that kind."""
        return self.reasons.get(name, self.kinds.get(name, 0))

    def reasons_table(self) -> str:
        """Rows by reason, most frequent first."""
        most = sorted(self.reasons.items(), key=lambda pair: (-pair[1], pair[0]))
        return "\n".join(f"    {count:>10,}  {reason}" for reason, count in most)

    def ledger(self) -> dict[str, int]:
        quarantined = {"quarantined": self.quarantined, LABEL_ABSENT: self.label_absent}
        return {"raw": self.raw, **self.splits, **quarantined}


ByDate = dict[str, DateCounts]


def counts_of(judged: Judged) -> ByDate:
    """Of the rows of a table, by date."""
    found: ByDate = {}
    for (ds, split), rows in _grouped(judged.valid).items():
        _add(found, ds, DateCounts(rows, {split: rows}))
    refused = judged.refused
    if refused.num_rows:
        for ds in pc.unique(refused[DS]).to_pylist():
            of_date = refused.filter(pc.equal(refused[DS], ds))
            _add(found, ds, _refused_counts(of_date[REASONS].combine_chunks()))
    return found


def _add(found: ByDate, ds: str, counts: DateCounts) -> None:
    found[ds] = found[ds] + counts if ds in found else counts


def _grouped(valid: pa.Table) -> dict[tuple[str, str], int]:
    names = [name for name in (DS, SPLIT) if name in valid.column_names]
    table = pa.table({name: valid[name].cast(pa.string()) for name in names})
    grouped = table.group_by(names, use_threads=False).aggregate([([], "count_all")])
    return {(row[DS], row.get(SPLIT, "")): row["count_all"] for row in grouped.to_pylist()}


def _refused_counts(reasons: pa.ListArray) -> DateCounts:
    """Of refused rows of one date [n], each with its list of reasons."""
    names = pc.dictionary_encode(reasons.flatten())
    texts = names.dictionary.to_pylist()
    lengths = pc.list_value_length(reasons).to_numpy()
    rows = np.repeat(np.arange(len(reasons)), lengths)
    places = names.indices.to_numpy()
    by_reason = np.bincount(places, minlength=len(texts))
    kinds = sorted({text.split(":")[0] for text in texts})
    of_kind = np.array([kinds.index(text.split(":")[0]) for text in texts])[places]
    # A row with two reasons of a kind counts once.
    pairs = np.unique(rows * len(kinds) + of_kind) % len(kinds)
    by_kind = np.bincount(pairs, minlength=len(kinds))
    alone = 0
    if LABEL_ABSENT in texts:
        absent = places == texts.index(LABEL_ABSENT)
        alone = int((lengths[rows[absent]] == 1).sum())
    return DateCounts(
        raw=len(reasons),
        quarantined=len(reasons),
        reasons=dict(zip(texts, by_reason.tolist(), strict=True)),
        kinds=dict(zip(kinds, by_kind.tolist(), strict=True)),
        label_absent=alone,
    )


def merged(parts: Iterable[ByDate]) -> ByDate:
    found: ByDate = {}
    for part in parts:
        for ds, counts in part.items():
            _add(found, ds, counts)
    return dict(sorted(found.items()))


def to_json(counts: ByDate) -> str:
    return json.dumps(
        {
            ds: {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(one).items()}
            for ds, one in counts.items()
        }
    )


def from_json(text: str) -> ByDate:
    return {ds: DateCounts(**parts) for ds, parts in json.loads(text).items()}


def summary(counts: Iterable[DateCounts]) -> str:
    """Rows of several dates together, in words."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update({"raw": one.raw, "quarantined": one.quarantined, **one.splits})
    splits = ", ".join(f"{name} {total[name]:,}" for name in ("train", "val", "test"))
    return f"{total['raw']:,} rows = {splits}, quarantined {total['quarantined']:,}"


def refuse_empty(counts: ByDate, dates: Sequence[str]) -> None:
    """Refuses dates without a row: an empty date is a failure upstream more often than not."""
    if empty := [ds for ds in dates if ds not in counts]:
        more = f" and {len(empty) - 5} more dates" if len(empty) > 5 else ""
        raise DataRefused(
            f"no rows for {', '.join(empty[:5])}{more}",
            "at least one row a date",
            "land the data, or leave the date out; nothing was changed",
        )


def refuse_bad(
    counts: ByDate, read: int, limit: float, limits: Mapping[str, float] = MappingProxyType({})
) -> None:
    """Refuses dates with too many quarantined rows, with a table of reasons.

    Args:
        read: rows that were read, those of dates that were not asked for too.
        limit: greatest fraction of a date's rows, those whose only lack is the label left out.
        limits: greatest fraction by reason, or by kind of reason: `unparsable` is all that start
            with `unparsable:`.
    """
    for ds, one in counts.items():
        # Undated rows belong to no date: they are measured against all rows read.
        rows = one.raw if ds != UNDATED else read
        named = [("", limit, one.quarantined - one.label_absent)]
        named += [(name, most, one.refused_for(name)) for name, most in limits.items()]
        broken = [(name, most, n) for name, most, n in named if _is_more(n, most, rows)]
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


def _is_more(count: int, fraction: float, rows: int) -> bool:
    """Whether a count is more than a fraction of the rows, which is meant as it is written: of 100
    rows 29 are no more than 0.29."""
    return count > Fraction(str(fraction)) * rows
