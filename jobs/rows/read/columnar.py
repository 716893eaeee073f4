"""Parquet and ORC files: checked against the declaration, read a row group (a stripe) at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.orc as orc
import pyarrow.parquet as pq

from jobs.base.errors import DataRefused
from jobs.rows.base.arrays import too_long
from jobs.rows.base.names import ENCODING, MALFORMED, REPEATED_HEADER, ROW_TEXT, UNREAD, mark
from jobs.rows.base.types import arrow_type
from jobs.rows.read.shown import as_json, as_text, in_time, json_where_odd, plain, rows_as_json
from schemas.source import Column, Source

_MOST_BYTES = 2**31 - 1


class ColumnarFile:
    """An open Parquet or ORC file: its row groups (stripes) by number."""

    def __init__(self, path: str, source: Source) -> None:
        self._file = fsspec.open(path, "rb").open()
        try:
            self._reader: Any = _reader(self._file, source)
        except BaseException:
            self._file.close()
            raise
        self._source = source
        self.schema: pa.Schema = (
            self._reader.schema if source.format == "orc" else self._reader.schema_arrow
        )

    def __enter__(self) -> ColumnarFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def groups(self) -> int:
        return int(
            self._reader.nstripes if self._source.format == "orc" else self._reader.num_row_groups
        )

    def read(self, group: int) -> pa.Table:
        """A row group's rows, or a stripe's.

        Raises:
            OSError: they are not as many as the footer says, which counts rows for itself.
        """
        names = list(dict.fromkeys(column.place[0] for column in self._source.columns))
        if self._source.format == "orc":
            return pa.Table.from_batches([self._reader.read_stripe(group, names)])
        table = self._reader.read_row_group(group, names, use_threads=False)
        counted = self._reader.metadata.row_group(group).num_rows
        if table.num_rows != counted:
            raise OSError(f"row group {group} has {table.num_rows} rows; its footer says {counted}")
        return table


def _reader(file: Any, source: Source) -> Any:
    if source.format == "orc":
        return orc.ORCFile(file)
    # Nanoseconds, into which the moments of 12 bytes are made otherwise, end in 2262.
    return pq.ParquetFile(file, coerce_int96_timestamp_unit="us")


def refuse_other_columns(
    path: str, schema: pa.Schema, source: Source, optional: frozenset[str]
) -> frozenset[str]:
    """Refuses a file that lacks a declared column or has another.

    Returns:
        Which of the optional columns it is without.

    Raises:
        DataRefused: it names file and columns.
    """
    declared = {column.place[0] for column in source.columns}
    absent = [c for c in source.columns if _leaf(schema, c.place) is None]
    missing = [".".join(c.place) for c in absent if c.name not in optional]
    unknown = [name for name in schema.names if name not in declared]
    if missing or unknown:
        raise DataRefused(
            f"{path}: the columns of source {source.name!r} differ: "
            f"missing {', '.join(missing) or 'none'}; unknown {', '.join(unknown) or 'none'}",
            ", ".join(".".join(column.place) for column in source.columns),
            "correct the file, or the source's columns in the declaration",
        )
    return frozenset(c.name for c in absent)


def _leaf(schema: pa.Schema, place: Sequence[str]) -> pa.DataType | None:
    found: pa.DataType = pa.struct(list(schema))
    for name in place:
        if not pa.types.is_struct(found) or (number := found.get_field_index(name)) < 0:
            return None
        found = found.field(number).type
    return found


def columnar_rows(table: pa.Table, source: Source) -> pa.Table:
    """The rows of a row group [n]: declared columns, the row as JSON, and the marks of reading.

    A value of another type than declared goes through its text. A text that is no UTF-8 is null,
    and shown as `\\x` and its bytes in hexadecimal. A moment of no year from 1 to 9999 is a text
    that spells none.

    Raises:
        DataRefused: their texts are longer than an array can be.
    """
    if table.nbytes > _MOST_BYTES:
        raise too_long()
    columns, shown, of_json = {}, {}, set()
    miscoded = np.zeros(table.num_rows, bool)
    for column in source.columns:
        value, bad = in_time(_inside(table, column)), np.zeros(0, bool)
        if _is_text(value.type):
            value, bad = _valid_text(value)
        elif pa.types.is_nested(value.type):
            value, bad = json_where_odd(value)
            of_json |= set() if pa.types.is_nested(value.type) else {column.name}
        shown[column.name] = value
        if bad.any():
            miscoded |= bad
            value = pc.if_else(pa.array(bad), pa.scalar(None, pa.string()), value)
        columns[column.name] = _declared(value, column)
    no = np.zeros(table.num_rows, bool)
    return pa.table(
        {
            **columns,
            ROW_TEXT: rows_as_json(pa.table(shown), of_json),
            mark(ENCODING): miscoded,
            mark(MALFORMED): no,
            mark(REPEATED_HEADER): no,
            UNREAD: no,
        }
    )


def _inside(table: pa.Table, column: Column) -> pa.ChunkedArray:
    value = table[column.place[0]]
    for name in column.place[1:]:
        value = pc.struct_field(value, name)
    return plain(value)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _valid_text(value: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The texts, those that are no UTF-8 as hexadecimal digits, and which these are."""
    raw = value.cast(pa.binary())
    bad = np.zeros(len(raw), bool)
    try:
        return raw.cast(pa.string()), bad
    except pa.ArrowInvalid:
        shown = []
        for place, content in enumerate(raw.to_pylist()):
            try:
                shown.append(None if content is None else content.decode())
            except UnicodeDecodeError:
                bad[place] = True
                shown.append("\\x" + content.hex().upper())
        return pa.chunked_array([pa.array(shown, pa.string())]), bad


def _declared(value: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """In the declared type where the file has it, else as text."""
    declared = arrow_type(column.type)
    if value.type == declared or pa.types.is_string(value.type):
        return value
    if pa.types.is_timestamp(value.type) and pa.types.is_timestamp(declared):
        if value.type.unit == "ns" and pc.any(pc.less(value.cast(pa.int64()), 0)).as_py():
            # Before 1970 a cast alone would cut towards it, and texts are cut the other way.
            value = pc.floor_temporal(value, unit="microsecond")
        return value.cast(pa.timestamp("us", value.type.tz), safe=False).cast(declared)
    if pa.types.is_nested(value.type):
        return as_json(value)
    return value.cast(pa.string()) if pa.types.is_null(value.type) else as_text(value)
