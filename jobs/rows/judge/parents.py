"""Parents: rows of joined sources, each key once a date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.errors import DataRefused
from jobs.rows.base.arrays import whole
from jobs.rows.base.duck import registered, shared_connection
from jobs.rows.base.names import ROW_DS, ROW_FILE, ROW_TEXT, UNREAD
from jobs.rows.base.types import arrow_type
from jobs.rows.judge.statement import INPUT, PLACE, REASONS_FOUND, key_column, source_statement
from jobs.rows.judge.strict import strict
from jobs.rows.read.files import RawFile
from jobs.rows.read.pieces import cut, read_rows
from schemas.source import Join, Source

_PIECE_BYTES = 64 << 20
# What an array of Arrow holds, less some room.
_MOST_BYTES = (2 << 30) - (64 << 20)


def parent_rows(files: Sequence[RawFile], source: Source, join: Join) -> pa.Table:
    """All rows of a parent: see `keyed_rows`.

    Raises:
        DataRefused: a row does not parse as declared, or a key stands twice within a date.
    """
    pieces = cut(files, source, _PIECE_BYTES)
    tables: list[pa.Table] = []
    sizes = Counter[str]()
    for raw in read_rows(pieces, source):
        tables.append(typed_rows(raw, source))
        sizes.update({name: tables[-1][name].nbytes for name in source.column_names})
        _refuse_large(sizes, source, sum(file.size_bytes for file in files))
    found = keyed_rows(tables, source, join)
    refuse_repeated(found, source, join)
    return found


def _refuse_large(sizes: Mapping[str, int], source: Source, size_bytes: int) -> None:
    """Compressed files may hold more than their size tells."""
    name = max(sizes, key=lambda name: sizes[name])
    if sizes[name] > _MOST_BYTES:
        raise DataRefused(
            f"source {source.name!r}: its files take {size_bytes:,} bytes, the values of column "
            f"{name} more than {_MOST_BYTES:,} in memory",
            "a parent that each worker can hold",
            f"set etl.broadcast_parent_mb to {max(0, (size_bytes >> 20) - 1)} or less: then a "
            "shuffle brings its rows together with the others",
        )


def keyed_rows(typed: Sequence[pa.Table], source: Source, join: Join) -> pa.Table:
    """A parent's rows: `__key_0`, ... in the order of the join, `__ds` (empty where the parent is
    of no date), and all columns as one struct, named as the source.

    Args:
        typed: rows as `typed_rows` makes them.
    """
    rows = pa.concat_tables([_nothing(source), *typed]).combine_chunks()
    keys = {key_column(n): _without_sign(rows[theirs]) for n, (_, theirs) in enumerate(join.on)}
    columns = [whole(rows[name]) for name in source.column_names]
    struct = pa.StructArray.from_arrays(columns, list(source.column_names))
    return pa.table({**keys, ROW_DS: rows[ROW_DS], source.name: struct})


def _without_sign(key: pa.ChunkedArray) -> pa.ChunkedArray:
    """The key with 0.0 for -0.0, which SQL holds to be equal."""
    return pc.add(key, pa.scalar(0, key.type)) if pa.types.is_floating(key.type) else key


def is_dated(keyed: pa.Table) -> bool:
    """Whether a parent's rows are of one date each."""
    return bool(pc.any(pc.not_equal(keyed[ROW_DS], "")).as_py())


def typed_rows(raw: pa.Table, source: Source) -> pa.Table:
    """The declared columns of raw rows in their types, and `__ds`.

    Raises:
        DataRefused: a row does not parse as declared.
    """
    native = {c.name for c in source.columns if raw[c.name].type == arrow_type(c.type)}
    table = raw.drop_columns([ROW_TEXT, ROW_FILE, ROW_DS, UNREAD])
    for place, name in enumerate(table.column_names):
        column = next((c for c in source.columns if c.name == name), None)
        if column is not None and name not in native - _texts(source):
            table = table.set_column(place, name, strict(table[name], column.type))
    table = table.append_column(PLACE, pa.array(np.arange(table.num_rows)))
    with registered(shared_connection(), {INPUT: table}) as duck:
        found = duck.sql(source_statement(source, native)).to_arrow_table()
    bad = pc.greater(pc.list_value_length(found[REASONS_FOUND]), 0)
    if count := pc.sum(bad).as_py():
        line = pc.min(raw[ROW_TEXT].filter(bad)).as_py()
        raise DataRefused(
            f"source {source.name!r} has {count} malformed rows, one is: {line}",
            "rows that parse as declared, since parents have no quarantine",
            "correct the file, or the source's columns in the declaration",
        )
    return found.select(list(source.column_names)).append_column(
        ROW_DS, raw[ROW_DS].cast(pa.string())
    )


def _texts(source: Source) -> set[str]:
    return {c.name for c in source.columns if c.type.strip().lower() == "string"}


def _nothing(source: Source) -> pa.Table:
    columns = {c.name: pa.array([], arrow_type(c.type)) for c in source.columns}
    return pa.table({**columns, ROW_DS: pa.array([], pa.string())})


def refuse_repeated(keyed: pa.Table, source: Source, join: Join) -> None:
    """Refuses a key that stands twice within a date; a key with a null is none.

    Raises:
        DataRefused: it names the number of such keys, and one of them.
    """
    places = [key_column(n) for n in range(len(join.on))]
    known = keyed.select([*places, ROW_DS])
    for name in places:
        known = known.filter(known[name].is_valid())
    counts = known.group_by([*places, ROW_DS]).aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1))
    if repeated.num_rows:
        first = repeated.sort_by([(name, "ascending") for name in (ROW_DS, *places)]).slice(0, 1)
        row = first.to_pylist()[0]
        of_date = f" on {row[ROW_DS]}" if row[ROW_DS] else ""
        names = ", ".join(theirs for _, theirs in join.on)
        raise DataRefused(
            f"source {source.name!r}: {repeated.num_rows} keys ({names}) stand in more "
            f"than one row{of_date}, one is ({', '.join(str(row[name]) for name in places)})",
            "one row a key, since the join must not multiply rows",
            "make the parent unique before it lands",
        )
