"""Counting: what the rows of one task add to fitting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.quantiles import BUCKETS_A_ROOT
from jobs.etl.names import DS

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Sums are kept as whole numbers: a term is cut at 2^32, 1, 2^-28 and 2^-56 into four limbs, which
# are summed apart, so that the bits are the same in any order of rows.
LIMB_BITS = (88, 56, 28, 0)
LIMBS = tuple(f"l{i}" for i in range(2 * len(LIMB_BITS)))
# Of more than this a sum of squares could overflow in 2^34 rows.
LARGEST, UNIT = 1e9, 2**56
VALUES = pa.schema([("number", pa.int32()), ("value", pa.string()), ("count", pa.int64())])
NUMBERS = pa.schema(
    [
        ("number", pa.int32()),
        ("bucket", pa.int32()),
        ("count", pa.int64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        *[(name, pa.int64()) for name in LIMBS],
    ]
)
# Of fewer each is counted in a place of its own, which takes no sorting.
_MANY_BUCKETS = 100_000


@dataclass(frozen=True)
class Groups:
    """Numbers for pairs of a date and a vocabulary or a numeric field.

    Attributes:
        counted: columns of values, each with its vocabulary's name.
        measured: columns of numbers.
    """

    dates: tuple[str, ...]
    counted: tuple[tuple[str, str], ...]
    measured: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        return [*[column for column, _ in self.counted], *self.measured]

    @cached_property
    def logs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(log for _, log in self.counted))

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.logs, *self.measured)

    def days(self, numbers: npt.NDArray[np.int32]) -> Ints:
        """The place among the dates of each number [n]."""
        return numbers.astype(np.int64) // len(self.names)

    def names_of(self, numbers: npt.NDArray[Any]) -> pa.StringArray:
        """The name of each number [n]."""
        return pa.array(self.names, pa.string()).take(pa.array(numbers % len(self.names)))

    def is_counted(self, number: int) -> bool:
        return number % len(self.names) < len(self.logs)

    def parts(self, table: pa.Table) -> Iterator[tuple[int, pa.Array]]:
        """The values of each column and date, lists opened, with the pair's number."""
        days = [0]
        place = None
        if len(self.dates) > 1:
            texts = pc.cast(table[DS], pa.string())
            place = pc.index_in(texts, value_set=pa.array(self.dates)).to_numpy()
            days = [int(day) for day in np.unique(place)]
        for day in days:
            rows = table if len(days) == 1 else table.filter(pa.array(place == day))
            first = day * len(self.names)
            for column, log in self.counted:
                yield first + self.logs.index(log), _elements(rows[column])
            for number, column in enumerate(self.measured, first + len(self.logs)):
                yield number, _elements(rows[column])


def _elements(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.list_flatten(column) if pa.types.is_list(column.type) else column


@dataclass
class _Counts:
    """Values and how often each stood, as they were found, and how many nulls."""

    values: list[pa.Array] = field(default_factory=list)
    counts: list[Ints] = field(default_factory=list)
    nulls: int = 0

    def add(self, values: pa.ChunkedArray) -> None:
        if not pa.types.is_dictionary(values.type):
            values = pc.dictionary_encode(values)
        for chunk in values.chunks:
            places = chunk.indices.drop_null().to_numpy()
            seen = np.bincount(places, minlength=len(chunk.dictionary))
            once = np.flatnonzero(seen)
            self.nulls += chunk.null_count
            self.values.append(chunk.dictionary.take(once))
            self.counts.append(seen[once])

    def merged(self) -> tuple[pa.Array, pa.Array]:
        """Each value once, null among them where it stood."""
        values = pa.chunked_array(self.values, pa.string())
        counts = pa.chunked_array(self.counts, pa.int64())
        if len(self.values) > 1:
            table = pa.table([values, counts], ["value", "count"])
            table = table.group_by("value", use_threads=False).aggregate([("count", "sum")])
            values, counts = table["value"], table["count_sum"]
        if self.nulls:
            values = pa.chunked_array([*values.chunks, pa.nulls(1, pa.string())])
            counts = pa.chunked_array([*counts.chunks, pa.array([self.nulls], pa.int64())])
        return values.combine_chunks(), counts.combine_chunks()


@dataclass
class _Sums:
    """Sums and counts by bucket of some numbers."""

    limbs: list[int] = field(default_factory=lambda: [0] * len(LIMBS))
    low: float = np.inf
    high: float = -np.inf
    nulls: int = 0
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, x: Doubles, nulls: int) -> None:
        self.nulls += nulls
        if not len(x):
            return
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        for place, limb in enumerate([*limbs_of(x), *limbs_of(x * x)]):
            self.limbs[place] += int(limb.sum())
        values, counts = _counted(buckets_of(x))
        found = zip(values.tolist(), counts.tolist(), strict=True)
        for bucket, count in found:
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def rows(self, number: int) -> Iterator[dict[str, int | float | None]]:
        """Of `NUMBERS`: one with the sums and the nulls, then one for each bucket."""
        known = bool(self.buckets)
        yield {
            "number": number,
            "count": self.nulls,
            "low": self.low if known else None,
            "high": self.high if known else None,
            **dict(zip(LIMBS, map(_wrapped, self.limbs), strict=True)),
        }
        for bucket, count in sorted(self.buckets.items()):
            yield {"number": number, "bucket": bucket, "count": count, **dict.fromkeys(LIMBS, 0)}


def counted(groups: Groups, tables: Iterator[pa.Table]) -> tuple[Iterator[pa.Table], pa.Table]:
    """How often each value stood, as `VALUES`, and sums and counts by bucket, as `NUMBERS`.

    Each pair of number and value comes once. A row without bucket has the sums and the nulls.
    """
    counts: dict[int, _Counts] = {}
    sums: dict[int, _Sums] = {}
    for table in tables:
        for number, values in groups.parts(table):
            if groups.is_counted(number):
                counts.setdefault(number, _Counts()).add(values)
            else:
                x = values.drop_null().to_numpy().astype(np.float64)
                sums.setdefault(number, _Sums()).add(x, values.null_count)
    rows = [row for number, found in sums.items() for row in found.rows(number)]
    return _merged(counts), pa.Table.from_pylist(rows, schema=NUMBERS)


def _merged(counts: dict[int, _Counts]) -> Iterator[pa.Table]:
    for number in list(counts):
        values, seen = counts.pop(number).merged()
        numbers = pa.array(np.full(len(values), number, np.int32))
        yield pa.table([numbers, values, seen], schema=VALUES)


def buckets_of(x: Doubles) -> npt.NDArray[np.int32]:
    """The bucket of each finite number, see `jobs.base.quantiles`."""
    root = np.sqrt(np.sqrt(np.sqrt(np.abs(x))))
    bucket = np.floor(root * float(BUCKETS_A_ROOT)).astype(np.int32)
    return np.where(x < 0, -1 - bucket, bucket).astype(np.int32)


def limbs_of(term: Doubles) -> list[Ints]:
    """The limbs of terms cut at 2^-56. Terms too large for them are refused by their range."""
    with np.errstate(invalid="ignore"):
        # Towards zero: what floor() leaves of a small negative number has lost its last bits.
        high = (term * 2.0**-32).astype(np.int64)
        rest = term - high * 2.0**32
        middle = rest.astype(np.int64)
        low = (rest - middle) * 2.0**28
        lower = low.astype(np.int64)
        lowest = ((low - lower) * 2.0**28).astype(np.int64)
    return [high, middle, lower, lowest]


def _counted(buckets: npt.NDArray[np.int32]) -> tuple[Ints, Ints]:
    """Each bucket once, and how often it stands."""
    first, last = int(buckets.min()), int(buckets.max())
    if last - first >= _MANY_BUCKETS:
        values, counts = np.unique(buckets, return_counts=True)
        return values.astype(np.int64), counts
    counts = np.bincount(buckets - first)
    seen = np.flatnonzero(counts)
    return seen + first, counts[seen]


def _wrapped(limb: int) -> int:
    return (limb + 2**63) % 2**64 - 2**63


def total_of(limbs: Sequence[int]) -> int:
    """A sum in units of 2^-56."""
    return sum(limb << bits for limb, bits in zip(limbs, LIMB_BITS, strict=True))
