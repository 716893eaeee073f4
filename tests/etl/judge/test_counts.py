"""Counts: by reason and by kind, whatever reasons stand together, and however tables are cut."""

from __future__ import annotations

import random
from collections import Counter

import pyarrow as pa
import pytest

from jobs.base.errors import DataRefused, DateRefused
from jobs.etl.judge.counts import (
    DateCounts,
    counts_of,
    from_json,
    merged,
    refuse_bad,
    refuse_empty,
    to_json,
)
from jobs.rows.base.names import LABEL_ABSENT, UNDATED
from jobs.rows.judge.judged import REFUSED, Judged

DAYS = ("2024-01-01", "2024-01-02")
REASONS = [LABEL_ABSENT, *(f"{kind}:c{n}" for n in range(12) for kind in ("unparsable", "null"))]


def judged(rows: list[tuple[str, list[str]]], valid: list[tuple[str, str]]) -> Judged:
    refused = pa.Table.from_pylist(
        [{"reasons": reasons, "raw": "x", "source_file": "f", "ds": ds} for ds, reasons in rows],
        schema=REFUSED,
    )
    table = pa.table({"ds": [ds for ds, _ in valid], "split": [split for _, split in valid]})
    return Judged(table, refused, 0)


def garbage(count: int) -> list[tuple[str, list[str]]]:
    """Refused rows with any of the reasons together."""
    chance = random.Random(1)
    return [
        (chance.choice([*DAYS, UNDATED]), chance.sample(REASONS, chance.randint(1, len(REASONS))))
        for _ in range(count)
    ]


def test_counts_are_by_reason_and_by_kind_in_any_pieces() -> None:
    rows, valid = garbage(500), [(DAYS[n % 2], ("train", "val")[n % 3 // 2]) for n in range(90)]
    whole = counts_of(judged(rows, valid))
    for ds in (*DAYS, UNDATED):
        own = [reasons for day, reasons in rows if day == ds]
        splits = Counter(split for day, split in valid if day == ds)
        kinds = Counter(kind for reasons in own for kind in {r.split(":")[0] for r in reasons})
        assert whole[ds] == DateCounts(
            raw=len(own) + splits.total(),
            splits=splits,
            quarantined=len(own),
            reasons=Counter(reason for reasons in own for reason in reasons),
            kinds=kinds,
            label_absent=sum(reasons == [LABEL_ABSENT] for reasons in own),
        )
    parts = [counts_of(judged(rows[n::7], valid[n::7])) for n in range(7)]
    assert merged(parts) == dict(sorted(whole.items()))
    assert merged(from_json(to_json(part)) for part in parts) == merged(parts)


def test_what_comes_to_the_driver_does_not_grow_with_combinations_of_reasons() -> None:
    rows = garbage(20_000)
    assert len({tuple(sorted(reasons)) for _, reasons in rows}) > 10_000
    few, many = (to_json(counts_of(judged(part, []))) for part in (rows[:2_000], rows))
    assert len(many) < 1.3 * len(few) < 10_000


def test_rows_without_splits_are_counted_as_one() -> None:
    table = pa.table({"ds": [DAYS[0]] * 3})
    counts = counts_of(Judged(table, REFUSED.empty_table(), 0))
    assert counts == {DAYS[0]: DateCounts(3, {"": 3})}


def test_rows_that_repeat_a_key_are_lost_by_their_split() -> None:
    counts = DateCounts(11, {"train": 8, "val": 1}, 2, {"malformed": 2}, {"malformed": 2})
    after = counts.without_duplicates({"train": 3, "val": 1})
    assert after == DateCounts(
        11,
        {"train": 5},
        6,
        {"malformed": 2, "duplicate_key": 4},
        {"malformed": 2, "duplicate_key": 4},
    )
    assert counts.without_duplicates({}) == counts


def test_undated_rows_are_measured_against_all_rows_read() -> None:
    bad = DateCounts(3, quarantined=3, reasons={"undated": 3}, kinds={"undated": 3})
    # Of 100 rows 60 are of dates that were not asked for.
    counts = {DAYS[0]: DateCounts(37, {"train": 37}), UNDATED: bad}
    refuse_bad(counts, 100, 0.03)
    with pytest.raises(DateRefused, match=r"undated: 3 of 100 rows \(3.0%\) are refused"):
        refuse_bad(counts, 100, 0.02)


def test_a_limit_is_what_its_digits_say() -> None:
    def with_refused(count: int) -> dict[str, DateCounts]:
        reasons = {"malformed": count}
        return {DAYS[0]: DateCounts(100, {"train": 100 - count}, count, reasons, reasons)}

    for percent in range(1, 100):
        limit = float(f"0.{percent:02}")
        refuse_bad(with_refused(percent), 100, limit, {"malformed": limit})
        with pytest.raises(DateRefused):
            refuse_bad(with_refused(percent + 1), 100, limit)


def test_dates_without_a_row_are_named() -> None:
    counts = {DAYS[0]: DateCounts(1, {"train": 1})}
    refuse_empty(counts, DAYS[:1])
    with pytest.raises(DataRefused, match=f"no rows for {DAYS[1]}"):
        refuse_empty(counts, DAYS)
