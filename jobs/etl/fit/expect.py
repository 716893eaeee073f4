"""Expectations: measures of a date as a whole, compared with the declared bounds."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.errors import DateRefused, refuse_unknown
from jobs.base.xxhash import xxhash64
from jobs.etl.fit.counting import Counter as ValueCounter
from jobs.etl.fit.counting import CountGroups
from jobs.etl.fit.history import CountHistory, added_up, of_fields
from jobs.rows.base.duck import registered, shared_connection
from jobs.rows.base.names import DS
from schemas.dataset import Dataset
from schemas.expect import Drift, Expectation, Nulls, Share
from schemas.field import Numeric, NumericList
from schemas.source import quoted

log = logging.getLogger("millstream.etl")

# Values are counted by hash, so that what comes to the driver does not grow with vocabularies.
_HASHES = 1024
_GROUPS_OF_VALUES, _GROUPS_OF_NUMBERS = 20, 10
_NULL = -(2**40)
_BINS = pa.schema(
    [("field", pa.string()), ("day", pa.string()), ("bin", pa.int64()), ("rows", pa.int64())]
)


# Rows by bin: of a number its bucket, of a value its hash.
Bins = Counter[int]
# By date and name of an expectation, how many valid rows count for it.
Measures = dict[str, dict[str, int]]


@dataclass
class Findings:
    """What was measured of the dates of a pass, and which of it was not as expected."""

    dataset: Dataset
    severities: Mapping[str, str]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [expectation.name for expectation in self.dataset.expectations]
        refuse_unknown("etl.severities", self.severities, names)

    @property
    def of_rows(self) -> tuple[Expectation, ...]:
        """Those that are measured on rows: their number, null fractions and shares."""
        return tuple(e for e in self._wanted() if not isinstance(e, Drift))

    def judge_rows(self, measures: Measures, dates: Sequence[str]) -> None:
        """Judges what was measured on the valid rows of the dates.

        Raises:
            DateRefused: a date is not as expected.
        """
        if not (wanted := self.of_rows):
            return
        nothing = {e.name: 0.0 if e.name == "rows" else math.nan for e in wanted}
        found = {
            ds: {
                e.name: float(
                    counts["rows"] if e.name == "rows" else counts[e.name] / counts["rows"]
                )
                for e in wanted
            }
            for ds, counts in measures.items()
        }
        self._judge({ds: found.get(ds, nothing) for ds in dates})

    def judge_drift(self, history: CountHistory, dates: Sequence[str]) -> None:
        """Judges drift.

        Args:
            history: contributions of all dates, those of `dates` included.

        Raises:
            DateRefused: a date is not as expected.
        """
        if wanted := [e for e in self._wanted() if isinstance(e, Drift)]:
            self._judge(_drifts(history, self.dataset, [e.field for e in wanted], dates))

    def _wanted(self) -> list[Expectation]:
        return [e for e in self.dataset.expectations if self._severity(e) != "ignore"]

    def _severity(self, expectation: Expectation) -> str:
        return self.severities.get(expectation.name, expectation.severity)

    def _judge(self, measured: Mapping[str, Mapping[str, float]]) -> None:
        for ds, values in measured.items():
            self.metrics.setdefault(ds, {}).update(values)
            # Written so that NaN, of a date without rows, is outside of any bounds.
            broken = [
                e
                for e in self.dataset.expectations
                if e.name in values and not e.min <= values[e.name] <= e.max
            ]
            lines = {
                e.name: f"{e.name} is {values[e.name]:.6g}, expected {e.min:g} to {e.max:g}"
                for e in broken
            }
            if any(self._severity(e) == "refuse" for e in broken):
                raise DateRefused(
                    f"{ds} is not as expected\n" + "\n".join(f"    {x}" for x in lines.values()),
                    "the bounds of the declaration's expectations",
                    "correct the raw data, or let it pass once with --set etl.severities."
                    f"{next(e.name for e in broken if self._severity(e) == 'refuse')}=warn; "
                    "nothing was changed",
                    ds=ds,
                    **self.metrics[ds],
                )
            for line in lines.values():
                log.warning("%s: %s", ds, line)
                self.warnings.setdefault(ds, []).append(line)


def measured(valid: pa.Table, expectations: Sequence[Expectation]) -> Measures:
    """By date and expectation, the rows of a table that count for it; and all rows, as `rows`.
    A condition that cannot be evaluated on a row counts as not true.
    """
    if not expectations or not valid.num_rows:
        return {}
    counts = ["count(*) AS rows"]
    for number, e in enumerate(expectations):
        if isinstance(e, Nulls):
            counts.append(f"count(*) FILTER ({quoted(e.field)} IS NULL) AS __e{number}")
        elif isinstance(e, Share):
            counts.append(f"count(*) FILTER (coalesce(TRY({e.where}), false)) AS __e{number}")
    query = f"SELECT {DS}, {', '.join(counts)} FROM __valid GROUP BY {DS}"
    with registered(shared_connection(), {"__valid": valid}) as duck:
        rows = duck.sql(query).to_arrow_table().to_pylist()
    return {
        row[DS]: {
            "rows": row["rows"],
            **{e.name: row[f"__e{n}"] for n, e in enumerate(expectations) if f"__e{n}" in row},
        }
        for row in rows
    }


def added(parts: Iterable[Measures]) -> Measures:
    found: Measures = {}
    for part in parts:
        for ds, counts in part.items():
            before = found.get(ds, {})
            found[ds] = {name: count + before.get(name, 0) for name, count in counts.items()}
    return found


def _drifts(
    history: CountHistory, dataset: Dataset, fields: Sequence[str], dates: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Stability index of each field on each date against all dates before it."""
    numeric = {f.name for f in (*dataset.of_kind(Numeric), *dataset.of_kind(NumericList))}
    # Fields that share a vocabulary are counted together, and so they drift together.
    counted = {f.name: f.log_name for f in dataset.counted}
    counted_as = {name: counted.get(name, name) for name in fields}
    by_day: dict[str, dict[str, Counter[int]]] = {name: {} for name in counted_as.values()}
    binned = partial(_binned, tuple(by_day), frozenset(numeric), min(dates))
    for row in history.up_to(max(dates)).mapped(binned, _BINS, added_up).to_pylist():
        by_day[row["field"]].setdefault(row["day"], Counter())[row["bin"]] += row["rows"]
    found: dict[str, dict[str, float]] = {ds: {} for ds in dates}
    for name, count_name in counted_as.items():
        days, before = by_day[count_name], Counter[int]()
        for day in sorted(days):
            if day in found and before.total():
                found[day][f"psi:{name}"] = stability_index(before, days[day], name in numeric)
            before += days[day]
    return found


def bins_until(history: CountHistory, dataset: Dataset, ds: str) -> dict[str, Bins]:
    """Train rows of all dates until one, by what a field is counted as and bin."""
    numbers = frozenset(f.name for f in dataset.measured)
    names = (*dict.fromkeys(f.log_name for f in dataset.counted), *numbers)
    binned = partial(_binned, names, numbers, ds)
    found: dict[str, Bins] = {name: Counter() for name in names}
    for row in history.up_to(ds).mapped(binned, _BINS, added_up).to_pylist():
        found[row["field"]][row["bin"]] += row["rows"]
    return found


def bins_of_rows(valid: pa.Table, dataset: Dataset) -> dict[str, Bins]:
    """The same of rows with their fields' values."""
    counted = tuple((f.name, f.log_name) for f in dataset.counted)
    groups = CountGroups(("",), counted, tuple(f.name for f in dataset.measured))
    day = pa.array([""] * valid.num_rows)
    counter = ValueCounter(groups)
    counter.add(valid.set_column(valid.column_names.index(DS), DS, day))
    found: dict[str, Bins] = {name: Counter() for name in groups.names}
    for table in counter.values():
        values = table["value"].combine_chunks()
        bins = (xxhash64(values.fill_null("")) % _HASHES).astype(np.int64)
        _add(found, groups, table, np.where(np.asarray(values.is_valid()), bins, _NULL))
    numbers = counter.numbers()
    buckets = numbers["bucket"].cast(pa.int64()).fill_null(_NULL).to_numpy()
    _add(found, groups, numbers, buckets)
    return found


def _add(
    found: Mapping[str, Bins], groups: CountGroups, table: pa.Table, bins: npt.NDArray[np.int64]
) -> None:
    names = groups.names_of(table["number"].to_numpy()).to_pylist()
    for name, bin_, count in zip(names, bins.tolist(), table["count"].to_pylist(), strict=True):
        found[name][bin_] += count


def _binned(
    fields: Sequence[str], numeric: Collection[str], first: str, table: pa.Table
) -> pa.Table:
    """A file's rows by field, day (all before `first` as one, named by the empty text) and bin: of
    a number its bucket, of a value its hash."""
    rows = of_fields(table, fields)
    if not rows.num_rows:
        return _BINS.empty_table()
    value = rows["value"].combine_chunks()
    known = np.asarray(value.is_valid())
    is_number = np.asarray(pc.is_in(rows["field"], value_set=pa.array(list(numeric), pa.string())))
    bins = np.full(rows.num_rows, _NULL, np.int64)
    numbers, values = known & is_number, known & ~is_number
    bins[numbers] = value.filter(pa.array(numbers)).cast(pa.int64()).to_numpy()
    bins[values] = xxhash64(value.filter(pa.array(values))) % _HASHES
    # A number's row without a bucket holds its sums, and the count of nulls.
    of_nulls = pa.array(is_number & ~known)
    counts = pc.if_else(of_nulls, rows["nulls"], rows["count"])
    ds = rows[DS][0].as_py()
    day = pa.repeat(pa.scalar("" if ds < first else ds, pa.string()), rows.num_rows)
    return added_up(pa.table([rows["field"], day, pa.array(bins), counts], schema=_BINS))


def stability_index(before: Mapping[int, int], now: Mapping[int, int], ordered: bool) -> float:
    """The population stability index: sum of (q - p) ln(q / p) over groups of bins.

    Args:
        before: rows by bin; at least one row.
        now: rows by bin.
        ordered: the bins are of numbers: groups are tenths of `before`. Else they are the most
            frequent bins of `before`, and all others.

    Half a row is added to each group, so that an empty one counts and does not divide by 0.
    """
    groups = _tenths(before) if ordered else _most_frequent(before)
    sums_before: Counter[int] = Counter()
    sums_now: Counter[int] = Counter()
    for bin_ in sorted({*before, *now}):
        group = groups(bin_)
        sums_before[group] += before.get(bin_, 0)
        sums_now[group] += now.get(bin_, 0)
    names = sorted(sums_before)
    total_before = sum(sums_before.values()) + len(names) / 2
    total_now = sum(sums_now.values()) + len(names) / 2
    index = 0.0
    for group in names:
        p, q = (sums_before[group] + 0.5) / total_before, (sums_now[group] + 0.5) / total_now
        index += (q - p) * math.log(q / p)
    return index


def _tenths(before: Mapping[int, int]) -> Callable[[int], int]:
    """Bin to group: cut where each tenth of the rows before ends; null apart."""
    numbers = sorted(bin_ for bin_ in before if bin_ != _NULL)
    total = sum(before[bin_] for bin_ in numbers)
    ends: list[int] = []
    seen = 0
    for bin_ in numbers:
        seen += before[bin_]
        if seen * _GROUPS_OF_NUMBERS >= total * (len(ends) + 1):
            ends.append(bin_)
    return lambda bin_: -1 if bin_ == _NULL else bisect_left(ends[:-1], bin_)


def _most_frequent(before: Mapping[int, int]) -> Callable[[int], int]:
    """Bin to group: the most frequent ones and null each by itself, all others together."""
    ranked = sorted((-count, bin_) for bin_, count in before.items() if bin_ != _NULL)
    groups = {bin_: group for group, (_, bin_) in enumerate(ranked[: _GROUPS_OF_VALUES - 1])}
    groups[_NULL] = -1
    return lambda bin_: groups.get(bin_, _GROUPS_OF_VALUES)
