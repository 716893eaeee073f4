"""Exact sums of a numeric field's train rows, as contributions hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.etl.fit.counting import limbs_of_total, total_of
from jobs.etl.fit.history import CountHistory
from jobs.rows.base.names import DS

SUMS = pa.schema(
    [
        ("field", pa.string()),
        (DS, pa.string()),
        ("count", pa.int64()),
        ("nulls", pa.int64()),
        ("total", pa.list_(pa.int64())),
        ("total_squares", pa.list_(pa.int64())),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


@dataclass(frozen=True)
class FieldSums:
    """A numeric field's train rows of some dates; `total` and `squares` in units of 2^-56."""

    count: int = 0
    nulls: int = 0
    total: int = 0
    squares: int = 0
    low: float = math.inf
    high: float = -math.inf

    def __add__(self, other: FieldSums) -> FieldSums:
        return FieldSums(
            self.count + other.count,
            self.nulls + other.nulls,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @staticmethod
    def of(row: Mapping[str, Any]) -> FieldSums:
        """Of a row of `SUMS`."""
        if not row["count"]:
            return FieldSums(nulls=row["nulls"])
        total, squares = total_of(row["total"]), total_of(row["total_squares"])
        return FieldSums(row["count"], row["nulls"], total, squares, row["low"], row["high"])

    def row(self) -> dict[str, Any]:
        """The columns of `SUMS` but `field` and `ds`."""
        return {
            "count": self.count,
            "nulls": self.nulls,
            "total": limbs_of_total(self.total),
            "total_squares": limbs_of_total(self.squares),
            "low": self.low if self.count else None,
            "high": self.high if self.count else None,
        }


def sum_rows(history: CountHistory) -> list[dict[str, Any]]:
    """One row a (date, numeric field), of `SUMS`: small, whatever the number of rows."""
    found: list[dict[str, Any]] = history.mapped(_with_sums, SUMS).to_pylist()
    return found


def _with_sums(table: pa.Table) -> pa.Table:
    return table.filter(table["nulls"].is_valid()).select(SUMS.names).cast(SUMS)
