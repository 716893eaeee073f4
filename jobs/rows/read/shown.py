"""Values of Parquet and ORC files as DuckDB can take them and show them as JSON.

Files may hold types that it has not, texts that are no UTF-8, and moments that lie outside of its
time, on which it gives up altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.rows.base.arrays import whole
from jobs.rows.base.duck import registered, shared_connection
from schemas.source import quoted

Mask = npt.NDArray[np.bool_]

# Days from 1970: of the years 1 to 9999, as in texts.
_FIRST_DAY, _DAYS_END = -719_162, 2_932_897
_DAY_S = 86_400
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


# Types


def plain(value: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values without dictionaries, and in types that DuckDB has."""
    kind = _of_parts(value.type, _plain)
    return value if kind == value.type else value.cast(kind)


def _of_parts(kind: pa.DataType, part: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with others for those it is made of."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_of_parts(field.type, part)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_of_parts(kind.key_type, part), _of_parts(kind.item_type, part))
    if not _is_list(kind):
        return part(kind)
    element = kind.value_field.with_type(_of_parts(kind.value_type, part))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(element, kind.list_size)
    return pa.large_list(element) if pa.types.is_large_list(kind) else pa.list_(element)


def _is_list(kind: pa.DataType) -> bool:
    is_long = pa.types.is_large_list(kind)
    return bool(is_long or pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_float16(kind):
        return pa.float32()
    return pa.string() if pa.types.is_decimal256(kind) else kind


def _number(kind: pa.DataType) -> pa.DataType:
    """A number's type for that of a moment."""
    if pa.types.is_timestamp(kind):
        return pa.int64()
    return pa.int32() if pa.types.is_date32(kind) else kind


def _bytes(kind: pa.DataType) -> pa.DataType:
    """And that of bytes for that of a text."""
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return pa.large_binary() if is_text or pa.types.is_string_view(kind) else _number(kind)


# Moments


def in_time(moments: pa.ChunkedArray) -> pa.ChunkedArray:
    """The moments; as texts where one is of no year from 1 to 9999, and this one then spells none.

    Values of other types are as they are.
    """
    if _number(moments.type) == moments.type or not pc.any(_is_outside(moments)).as_py():
        return moments
    outside = _is_outside(moments)
    unit = moments.type.unit if pa.types.is_timestamp(moments.type) else "days"
    numbers = moments.cast(_number(moments.type)).cast(pa.string())
    known = pc.if_else(outside, pa.scalar(None, moments.type), moments)
    shown = pc.binary_join_element_wise(numbers, f"{unit} from 1970", " ")
    return pc.if_else(outside, shown, as_text(known))


def _is_outside(moments: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Which moments are of no year from 1 to 9999."""
    of_day = _DAY_S * _PER_SECOND[moments.type.unit] if pa.types.is_timestamp(moments.type) else 1
    numbers = moments.cast(_number(moments.type)).cast(pa.int64())
    # Nanoseconds do not reach so far, and what is at their ends DuckDB takes for infinite.
    low, end = max(1_000 - 2**63, _FIRST_DAY * of_day), min(2**63 - 1, _DAYS_END * of_day)
    return pc.or_(pc.less(numbers, low), pc.greater_equal(numbers, end))


# Nested values


def json_where_odd(value: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Mask]:
    """Nested values, as texts of JSON where DuckDB cannot show one of them; and which of them have
    a text that is no UTF-8 [n].

    Such a value has bytes for its texts, one with a moment of no year numbers for its moments.
    """
    none = np.zeros(len(value), bool)
    if all(_is_utf8(chunk) and _is_in_time(chunk) for chunk in value.chunks):
        return value, none
    each = [value.take(pa.array([row])).chunk(0) for row in range(len(value))]
    miscoded = np.array([not _is_utf8(one) for one in each])
    outside = np.array([not _is_in_time(one) for one in each]) & ~miscoded
    texts = as_json(value.take(pa.array(np.arange(len(value)), mask=miscoded | outside)))
    for mask, part in ((miscoded, _bytes), (outside, _number)):
        # In this order: Arrow ends the process on a cast of maps that were filtered.
        odd = value.cast(_of_parts(value.type, part)).filter(pa.array(mask))
        texts = pc.replace_with_mask(texts, pa.array(mask), whole(as_json(odd)))
    return texts, miscoded


def _is_utf8(value: pa.Array) -> bool:
    try:
        value.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_in_time(value: pa.Array) -> bool:
    return not any(
        pc.any(_is_outside(part)).as_py()
        for part in _innermost(value)
        if _number(part.type) != part.type
    )


def _innermost(value: pa.Array) -> Iterator[pa.Array]:
    """The arrays that a nested one is made of."""
    if pa.types.is_map(value.type):
        parts = [value.keys, value.items]
    elif pa.types.is_struct(value.type):
        parts = value.flatten()
    elif _is_list(value.type):
        parts = [value.flatten()]
    else:
        yield value
        return
    for part in parts:
        yield from _innermost(part)


# By DuckDB


def as_text(value: pa.ChunkedArray) -> pa.ChunkedArray:
    return _asked(pa.table({"value": value}), "CAST(value AS VARCHAR)")


def as_json(value: pa.ChunkedArray) -> pa.ChunkedArray:
    return _asked(pa.table({"value": value}), "CAST(to_json(value) AS VARCHAR)")


def rows_as_json(table: pa.Table, of_json: Collection[str]) -> pa.ChunkedArray:
    """Each row as JSON.

    Args:
        of_json: columns that are JSON, not texts.
    """
    parts = []
    for name in table.column_names:
        own = quoted(name)
        value = f"CAST(__values.{own} AS JSON)" if name in of_json else f"__values.{own}"
        parts.append(f"{own} := {value}")
    return _asked(table, f"CAST(to_json(struct_pack({', '.join(parts)})) AS VARCHAR)")


def _asked(table: pa.Table, sql: str) -> pa.ChunkedArray:
    with registered(shared_connection(), {"__values": table}) as duck:
        return duck.sql(f"SELECT {sql} AS found FROM __values").to_arrow_table()["found"]
