"""Counting: how often each value stood in train rows, and exact sums of numbers, by date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.quantiles import BUCKETS_A_ROOT
from jobs.etl.fit.portions import VALUE, by_value
from jobs.rows.base.arrays import whole
from jobs.rows.base.groups import portions
from jobs.rows.base.names import DS, SPLIT

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Sums are kept as whole numbers: a term is cut at 2^32, 1, 2^-28 and 2^-56 into four limbs, which
# are summed apart, so that the bits are the same in any order of rows.
LIMB_BITS = (88, 56, 28, 0)
LIMBS = tuple(f"l{i}" for i in range(2 * len(LIMB_BITS)))
# Of more than this a sum of squares could overflow in 2^34 rows; of squares of less too little is
# left by the cut for a deviation.
LARGEST, SMALLEST, UNIT = 1e9, 1e-6, 2**56
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
_MANY_PLACES = 100_000


@dataclass(frozen=True)
class CountGroups:
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
    def names(self) -> tuple[str, ...]:
        """Of vocabularies, then of numeric fields."""
        return (*dict.fromkeys(log for _, log in self.counted), *self.measured)

    def numbers(self, days: Ints, name: str) -> npt.NDArray[np.int32]:
        """The number of each of some places among the dates with the name [n]."""
        found: npt.NDArray[np.int32] = (days * len(self.names) + self.names.index(name)).astype(
            np.int32
        )
        return found

    def days(self, numbers: npt.NDArray[np.int32]) -> Ints:
        """The place among the dates of each number [n]."""
        return numbers.astype(np.int64) // len(self.names)

    def names_of(self, numbers: npt.NDArray[Any]) -> pa.StringArray:
        """The name of each number [n]."""
        return pa.array(self.names, pa.string()).take(pa.array(numbers % len(self.names)))


class Counter:
    """Counts of the train rows of one task."""

    def __init__(self, groups: CountGroups) -> None:
        self._groups = groups
        self._values: dict[str, list[pa.Table]] = {}
        self._numbers: list[pa.Table] = []

    def add(self, valid: pa.Table) -> None:
        """Counts the train rows among valid rows."""
        rows = valid.select([DS, *self._groups.columns])
        if SPLIT in valid.column_names:
            rows = rows.filter(pc.equal(pc.cast(valid[SPLIT], pa.string()), "train"))
        if not rows.num_rows:
            return
        dates = pa.array(self._groups.dates)
        days = pc.index_in(pc.cast(rows[DS], pa.string()), value_set=dates).to_numpy()
        if (np.diff(days) < 0).any():
            order = np.argsort(days, kind="stable")
            rows, days = rows.take(pa.array(order)), days[order]
        for column, log in self._groups.counted:
            of_elements, values = _elements(days.astype(np.int64), rows[column])
            self._values.setdefault(log, []).append(self._seen(of_elements, values, log))
        for column in self._groups.measured:
            of_elements, values = _elements(days.astype(np.int64), rows[column])
            self._numbers += self._sums(of_elements, values, column)

    def values(self) -> Iterator[pa.Table]:
        """How often each value stood, as `VALUES`: each pair of number and value once."""
        for log in list(self._values):
            counts = by_value(pa.concat_tables(self._values.pop(log)), merged_values)
            yield from portions(counts, [VALUE])

    def numbers(self) -> pa.Table:
        """Sums and counts by bucket, as `NUMBERS`: each pair of number and bucket once."""
        return merged_numbers(pa.concat_tables([NUMBERS.empty_table(), *self._numbers]))

    def _seen(self, days: Ints, values: pa.Array, log: str) -> pa.Table:
        """How often each value [n] stood on each day, null among them."""
        found = values if pa.types.is_dictionary(values.type) else pc.dictionary_encode(values)
        size = len(found.dictionary) + 1
        keys = days * size + found.indices.fill_null(size - 1).to_numpy()
        keys, counts = _counted(keys)
        places = keys % size
        texts = found.dictionary.take(pa.array(places, mask=places == size - 1))
        return pa.table([self._groups.numbers(keys // size, log), texts, counts], schema=VALUES)

    def _sums(self, days: Ints, values: pa.Array, name: str) -> Iterator[pa.Table]:
        """Of each day a row with the sums and the number of nulls, and a row for each bucket."""
        known = np.asarray(values.is_valid())
        x = values.drop_null().to_numpy().astype(np.float64)
        every, rows = np.unique(days, return_counts=True)
        of_day = np.searchsorted(every, days[known])
        nulls = rows - np.bincount(of_day, minlength=len(every))
        starts = np.flatnonzero(np.diff(of_day, prepend=-1))
        with_values = of_day[starts]
        limbs = np.zeros((len(LIMBS), len(every)), np.int64)
        low, high = np.full(len(every), np.nan), np.full(len(every), np.nan)
        if len(x):
            for place, limb in enumerate([*limbs_of(x), *limbs_of(x * x)]):
                limbs[place, with_values] = np.add.reduceat(limb, starts)
            # Minus zero and zero are equal, and would stand here by the order of rows.
            low[with_values] = np.minimum.reduceat(x, starts) + 0.0
            high[with_values] = np.maximum.reduceat(x, starts) + 0.0
        yield _numbers(self._groups.numbers(every, name), None, nulls, low, high, limbs)
        if len(x):
            keys, counts = _counted(days[known] * _BUCKETS + buckets_of(x) + _BUCKETS // 2)
            number = self._groups.numbers(keys // _BUCKETS, name)
            bucket = (keys % _BUCKETS - _BUCKETS // 2).astype(np.int32)
            yield _numbers(number, bucket, counts)


# More than there are, above and below 0.
_BUCKETS = 1 << 34


def _numbers(
    number: npt.NDArray[np.int32],
    bucket: npt.NDArray[np.int32] | None,
    count: Ints,
    low: Doubles | None = None,
    high: Doubles | None = None,
    limbs: npt.NDArray[np.int64] | None = None,
) -> pa.Table:
    """Rows of `NUMBERS` [n]: with a bucket its count, without one the sums."""
    size = len(number)
    ends = [
        pa.nulls(size, pa.float64()) if end is None else pa.array(end, from_pandas=True)
        for end in (low, high)
    ]
    buckets = pa.nulls(size, pa.int32()) if bucket is None else pa.array(bucket)
    sums = np.zeros((len(LIMBS), size), np.int64) if limbs is None else limbs
    columns = [pa.array(number), buckets, pa.array(count), *ends, *map(pa.array, sums)]
    return pa.table(columns, schema=NUMBERS)


def merged_values(counts: pa.Table) -> pa.Table:
    """Rows of `VALUES`, each pair of number and value once."""
    merged = counts.group_by(["number", "value"], use_threads=False).aggregate([("count", "sum")])
    return merged.rename_columns(VALUES.names).cast(VALUES)


def merged_numbers(numbers: pa.Table) -> pa.Table:
    """Rows of `NUMBERS`, each pair of number and bucket once, in their order, sums first."""
    ends = [("count", "sum"), ("low", "min"), ("high", "max")]
    added = [(limb, "sum") for limb in LIMBS]
    grouped = numbers.group_by(["number", "bucket"], use_threads=False).aggregate([*ends, *added])
    table = grouped.rename_columns(NUMBERS.names).cast(NUMBERS)
    order = [("number", "ascending"), ("bucket", "ascending", "at_start")]
    return table.take(pc.sort_indices(table, sort_keys=order))


def _elements(days: Ints, column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """The values of a column, lists opened, each with its day."""
    values = whole(column)
    if not pa.types.is_list(values.type):
        return days, values
    return np.repeat(days, pc.list_value_length(values).to_numpy()), values.flatten()


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


def _counted(keys: Ints) -> tuple[Ints, Ints]:
    """Each key once, ascending, and how often it stands."""
    if not len(keys):
        return keys, keys
    first = int(keys.min())
    span = int(keys.max()) - first + 1
    # Counted in a place of its own each, which takes no sorting, where these are not too many.
    if span > 4 * len(keys) + _MANY_PLACES:
        found, counts = np.unique(keys, return_counts=True)
        return found, counts.astype(np.int64)
    counts = np.bincount(keys - first)
    seen = np.flatnonzero(counts)
    return seen + first, counts[seen]


def total_of(limbs: Sequence[int]) -> int:
    """A sum in units of 2^-56."""
    return sum(limb << bits for limb, bits in zip(limbs, LIMB_BITS, strict=True))


def limbs_of_total(total: int) -> list[int]:
    """The limbs of a sum in units of 2^-56; the highest may be below 0."""
    limbs = []
    for bits in LIMB_BITS:
        limbs.append(total >> bits)
        total -= limbs[-1] << bits
    return limbs
