"""The id log: values get ids in the order in which they became frequent enough.

By date, then by descending count up to that date, ties by value. The log is append-only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.etl.fit.history import CountHistory, of_fields
from jobs.lake.files import NewFile
from jobs.lake.tables import Table
from jobs.rows.base.groups import ChunkedRows
from jobs.rows.base.names import DS
from jobs.stores.files import write_stream
from schemas.dataset import Dataset
from schemas.field import WithIds

# (name, Spark type)
ID_LOG = (
    ("field", "string"),
    ("value", "string"),
    ("id", "int"),
    ("from_ds", "string"),
    ("run", "string"),
)
ENTRIES = pa.schema(
    [
        ("field", pa.string()),
        ("value", pa.string()),
        ("id", pa.int32()),
        ("from_ds", pa.string()),
    ]
)
_FREQUENT = pa.schema(
    [
        ("field", pa.string()),
        ("value", pa.string()),
        ("from_ds", pa.string()),
        ("seen", pa.int64()),
    ]
)


def read_entries(table: Table, version: int | None) -> pa.Table:
    """The id log of a version: `ENTRIES`; none where there is no table yet. Grows with
    vocabularies."""
    if not table.exists():
        return ENTRIES.empty_table()
    fs, root = fsspec.core.url_to_fs(table.url)

    def read(path: str) -> pa.Table:
        with fs.open(f"{root}/{path}", "rb") as file:
            return pq.read_table(file, columns=ENTRIES.names, use_threads=False).cast(ENTRIES)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(read, sorted(file.path for file in table.files(version))))
    return pa.concat_tables([ENTRIES.empty_table(), *found])


def stage_entries(new: pa.Table, table: Table, run: str) -> list[NewFile]:
    """Writes new entries into the run's folder; nothing is visible yet."""
    url = table.fresh_folder(run)
    if not new.num_rows:
        return []
    with write_stream(f"{url}/part-0.parquet") as file:
        pq.write_table(new, file, compression="zstd")
    return table.staged(run, ["run"])


def new_entries(
    history: CountHistory, entries: pa.Table, dataset: Dataset, dates: Sequence[str]
) -> pa.Table:
    """The id log's new entries when `dates` are fitted, as if one by one in order: `ENTRIES`.

    Args:
        history: contributions of all dates, those of `dates` included.
        entries: the id log so far.
        dates: the dates of this run, ascending.
    """
    fields = {f.log_name: f for f in dataset.counted}
    if not fields:
        return ENTRIES.empty_table()
    least = {name: f.min_count for name, f in fields.items()}
    several = len(history.dates) > 1
    choose = partial(_counts, tuple(fields), {} if several else least)
    became = partial(_became_frequent, least, tuple(sorted(dates)))
    frequent = history.reduced(choose, became, _FREQUENT)
    parts = [_placed(f, _of(frequent, name), _of(entries, name)) for name, f in fields.items()]
    return pa.concat_tables([ENTRIES.empty_table(), *parts])


def _of(table: pa.Table, name: str) -> pa.Table:
    return table.filter(pc.equal(table["field"], name))


def _counts(fields: Sequence[str], least: Mapping[str, int], table: pa.Table) -> pa.Table:
    """Counts of values in a file's rows.

    Args:
        least: of a field, where no other date's counts are added: rarer values are left out.
    """
    rows = of_fields(table, fields).select(["field", "value", "count", DS])
    rows = rows.filter(rows["value"].is_valid())
    return rows.filter(_at_least(rows, "count", least)) if least else rows


def _at_least(rows: pa.Table, column: str, least: Mapping[str, int]) -> pa.Array:
    """Whether a count is at least its field's [n]."""
    names = pa.array(list(least), pa.string())
    limits = pa.array(list(least.values()), pa.int64())
    places = pc.index_in(rows["field"], value_set=names)
    return pc.greater_equal(rows[column], limits.take(places.combine_chunks()))


def _became_frequent(least: Mapping[str, int], dates: Sequence[str], counts: pa.Table) -> pa.Table:
    """Values that reached their field's least count: the date of this run as of which, and their
    count by then."""
    total = counts.group_by(["field", "value"], use_threads=False).aggregate([("count", "sum")])
    often = total.filter(_at_least(total, "count_sum", least)).select(["field", "value"])
    rows = counts.join(often, ["field", "value"], join_type="left semi", use_threads=False)
    if not rows.num_rows:
        return _FREQUENT.empty_table()
    rows = rows.sort_by([("field", "ascending"), ("value", "ascending"), (DS, "ascending")])
    rows = rows.combine_chunks()
    starts = np.flatnonzero(np.append(True, _differs(rows["field"]) | _differs(rows["value"])))
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=rows.num_rows))
    running = np.cumsum(rows["count"].to_numpy())
    running -= np.append(0, running)[starts][group]
    from_day = _from_day(rows[DS], dates)
    reached = np.asarray(_at_least(rows.set_column(2, "count", pa.array(running)), "count", least))
    # The first row of each group that reached it, and the date of the run from which it counts.
    first = np.minimum.reduceat(np.where(reached, np.arange(len(reached)), len(reached)), starts)
    known = from_day[first] < len(dates)
    since = from_day[first]
    seen = np.maximum.reduceat(np.where(from_day <= since[group], running, 0), starts)
    found = rows.take(pa.array(starts[known]))
    return pa.table(
        {
            "field": found["field"],
            "value": found["value"],
            "from_ds": pa.array(dates, pa.string()).take(pa.array(since[known])),
            "seen": seen[known],
        },
        schema=_FREQUENT,
    )


def _differs(column: pa.ChunkedArray) -> np.ndarray:
    """Whether a row's value is another than that of the row before [n - 1]."""
    whole = column.combine_chunks()
    return np.asarray(pc.not_equal(whole.slice(1), whole.slice(0, len(whole) - 1)))


def _from_day(days: pa.ChunkedArray, dates: Sequence[str]) -> np.ndarray:
    """Of each row the place of the run's first date that is not before its own [n]; the number of
    dates where all are before."""
    named = pc.dictionary_encode(days.combine_chunks())
    places = np.searchsorted(np.array(dates), np.array(named.dictionary.to_pylist()))
    found: np.ndarray = places[named.indices.to_numpy()]
    return found


def _placed(f: WithIds, frequent: pa.Table, entries: pa.Table) -> pa.Table:
    """A field's new entries: of its frequent values those that the log lacks, in their order."""
    # All texts of a vocabulary may be more than an array of `string` holds.
    texts, known = (table["value"].cast(pa.large_string()) for table in (frequent, entries))
    new = frequent.filter(pc.invert(pc.is_in(texts, value_set=known)))
    by = [("from_ds", "ascending"), ("seen", "descending"), ("value", "ascending")]
    order = pc.sort_indices(new, sort_keys=by).to_numpy().astype(np.int64)
    new = ChunkedRows(new).take_in_groups(order[: max(0, f.max_size - entries.num_rows)])
    first = f.first_value_id + entries.num_rows
    ids = pa.array(np.arange(first, first + new.num_rows), pa.int32())
    return pa.table([new["field"], new["value"], ids, new["from_ds"]], schema=ENTRIES)
