"""States: contributions and the id log, merged up to a date."""

from __future__ import annotations

import decimal
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.errors import DataRefused
from jobs.base.quantiles import Buckets, merged
from jobs.base.xxhash import xxhash64_of_rows
from jobs.etl.fit.counting import LARGEST, SMALLEST, UNIT
from jobs.etl.fit.entries import read_entries
from jobs.etl.fit.history import CountHistory, added_up, of_fields
from jobs.etl.fit.sums import FieldSums, sum_rows
from jobs.lake.lake import Lake
from jobs.lake.manifest import UINT64
from jobs.lake.state import NumericStats, State, Vocabulary, empty_stats
from jobs.rows.base.arrays import whole
from jobs.rows.base.names import DS
from schemas.dataset import Dataset
from schemas.field import WithIds

# Of a field and a day by their places among the names and the dates.
_BUCKETS = pa.schema(
    [("day", pa.int32()), ("field", pa.int32()), ("bucket", pa.int32()), ("rows", pa.int64())]
)


@dataclass(frozen=True)
class _Reach:
    """A categorical field's entries of some dates."""

    entries: int = 0
    content: int = 0
    highest: int = -1

    def __add__(self, other: _Reach) -> _Reach:
        return _Reach(
            self.entries + other.entries,
            (self.content + other.content) % UINT64,
            max(self.highest, other.highest),
        )


def states(
    history: CountHistory,
    entries: pa.Table,
    dataset: Dataset,
    dates: Sequence[str],
    id_log_version: int,
    generation: int,
) -> Iterator[State]:
    """The state as of each of the dates, in their order, one at a time: each holds the counts by
    bucket of all dates up to its own.

    Args:
        history: contributions of all dates.
        entries: the whole id log.

    Raises:
        DataRefused: a numeric field has values too large for exact sums, or none large enough.
    """
    history = history.up_to(max(dates))
    sums = {name: _running(parts) for name, parts in _sums_by_field(history, dataset).items()}
    reaches = {name: _running(parts) for name, parts in _reaches(entries).items()}
    for ds, buckets in _buckets_as_of(history, dataset, sorted(set(dates))):
        yield State(
            ds=ds,
            id_log_version=id_log_version,
            declaration=dataset.digest,
            generation=generation,
            numeric={
                f.name: _stats(_sums_as_of(ds, f.name, sums), buckets[f.name])
                for f in dataset.measured
            },
            vocabulary={
                f.log_name: _vocabulary(f, _as_of(ds, reaches.get(f.log_name), _Reach()))
                for f in dataset.with_ids
            },
        )


def _running(parts: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Dates in order, and what each and those before it add up to."""
    days = sorted(parts)
    return days, list(accumulate(parts[ds] for ds in days))


def _as_of(ds: str, running: tuple[list[str], list[Any]] | None, nothing: Any) -> Any:
    if running is None:
        return nothing
    days, sums = running
    place = bisect_right(days, ds)
    return sums[place - 1] if place else nothing


def _sums_as_of(ds: str, name: str, running: dict[str, tuple[list[str], list[Any]]]) -> FieldSums:
    sums: FieldSums = _as_of(ds, running.get(name), FieldSums())
    if 0 < max(-sums.low, sums.high) < SMALLEST and sums.low < sums.high:
        raise DataRefused(
            f"field {name!r} has values from {sums.low:g} to {sums.high:g} up to {ds}",
            f"some value of {SMALLEST:g} or more, so that its square counts in sums",
            "declare the transform Scale, such as Scale(1e9)",
        )
    return sums


def _sums_by_field(history: CountHistory, dataset: Dataset) -> dict[str, dict[str, FieldSums]]:
    by_field: dict[str, dict[str, FieldSums]] = {f.name: {} for f in dataset.measured}
    for row in sum_rows(history):
        sums = FieldSums.of(row)
        if max(-sums.low, sums.high) > LARGEST:
            raise DataRefused(
                f"field {row['field']!r} has values from {sums.low:g} to {sums.high:g} "
                f"on {row[DS]}",
                f"values within {LARGEST:g}, so that sums are exact",
                "declare a transform: Log1p, Clip or Scale",
            )
        by_field[row["field"]][row[DS]] = sums
    return by_field


def _buckets_as_of(
    history: CountHistory, dataset: Dataset, dates: Sequence[str]
) -> Iterator[tuple[str, dict[str, Buckets]]]:
    """Each of the dates, ascending, and by field the counts by bucket up to it."""
    names = tuple(f.name for f in dataset.measured)
    step = partial(_rows_with_buckets, names, tuple(dates))
    counts = history.mapped(step, _BUCKETS, added_up)
    order = [(name, "ascending") for name in ("day", "field", "bucket")]
    counts = counts.sort_by(order).combine_chunks()
    limits = np.searchsorted(counts["day"].to_numpy(), np.arange(len(dates) + 1))
    running: dict[str, Buckets] = dict.fromkeys(names, ())
    for ds, (low, high) in zip(dates, pairwise(limits.tolist()), strict=True):
        for place, pairs in _pairs(counts.slice(low, high - low)):
            running[names[place]] = merged([running[names[place]], pairs])
        yield ds, dict(running)


def _pairs(counts: pa.Table) -> Iterator[tuple[int, Buckets]]:
    """The counts of each field of a day, in order of the fields."""
    fields, starts = np.unique(counts["field"].to_numpy(), return_index=True)
    limits = pairwise([*starts.tolist(), counts.num_rows])
    for place, (low, high) in zip(fields.tolist(), limits, strict=True):
        own = counts.slice(low, high - low)
        yield place, tuple(zip(own["bucket"].to_pylist(), own["rows"].to_pylist(), strict=True))


def _rows_with_buckets(names: Sequence[str], dates: Sequence[str], table: pa.Table) -> pa.Table:
    """Counts by bucket, of the first of the dates that is not before the file's."""
    rows = of_fields(table, names)
    rows = rows.filter(rows["value"].is_valid())
    if not rows.num_rows:
        return _BUCKETS.empty_table()
    day = bisect_left(dates, rows[DS][0].as_py())
    days = pa.repeat(pa.scalar(day, pa.int32()), rows.num_rows)
    fields = pc.index_in(rows["field"], value_set=pa.array(names, pa.string()))
    columns = [days, fields, rows["value"].cast(pa.int32()), rows["count"]]
    return pa.table(columns, schema=_BUCKETS)


def _stats(sums: FieldSums, buckets: Buckets) -> NumericStats:
    """Mean and population deviation, rounded to float64 once, at the end."""
    if not sums.count:
        return empty_stats(sums.nulls)
    with decimal.localcontext(decimal.Context(prec=80)):
        mean = decimal.Decimal(sums.total) / UNIT / sums.count
        squares = decimal.Decimal(sums.squares) / UNIT / sums.count
        std = max(squares - mean * mean, decimal.Decimal(0)).sqrt()
        return NumericStats(
            count=sums.count,
            nulls=sums.nulls,
            mean=float(mean),
            std=float(std),
            min=sums.low,
            max=sums.high,
            buckets=buckets,
        )


def _reaches(entries: pa.Table) -> dict[str, dict[str, _Reach]]:
    found: dict[str, dict[str, _Reach]] = {}
    for name in pc.unique(entries["field"]).to_pylist():
        own = entries.filter(pc.equal(entries["field"], name))
        content = _content(own)
        days = whole(pc.dictionary_encode(own["from_ds"]))
        places, ids = days.indices.to_numpy(), own["id"].to_numpy()
        for number, ds in enumerate(days.dictionary.to_pylist()):
            of_day = places == number
            found.setdefault(name, {})[ds] = _Reach(
                int(of_day.sum()),
                int(content[of_day].view(np.uint64).sum(dtype=np.uint64)),
                int(ids[of_day].max()),
            )
    return found


def _content(entries: pa.Table) -> np.ndarray:
    """A hash of each entry [n], some at a time: all texts may be more than an array holds."""
    batches = entries.select(["value", "id"]).to_batches()
    return np.concatenate([np.zeros(0, np.int64), *(xxhash64_of_rows(b.columns) for b in batches)])


def _vocabulary(f: WithIds, reach: _Reach) -> Vocabulary:
    return Vocabulary(
        entries=reach.entries,
        rows=1 + max(f.first_value_id - 1, reach.highest),
        content=reach.content,
    )


def state_entries(lake: Lake, state: State) -> pa.Table:
    """The id log's entries that a state knows: `field`, `value`, `id`, `from_ds`.

    Raises:
        DataRefused: the log no longer holds them.
    """
    log = read_entries(lake.table("id_log"), state.id_log_version)
    entries = log.filter(pc.less_equal(log["from_ds"], state.ds))
    reaches = _reaches(entries)
    for name, vocabulary in state.vocabulary.items():
        found = sum(reach.content for reach in reaches.get(name, {}).values()) % UINT64
        if found != vocabulary.content:
            raise DataRefused(
                f"the id log of {lake.url} has other entries for field {name!r}",
                f"those of state {state.digest}",
                "restore the table id_log, or refit",
            )
    return entries
