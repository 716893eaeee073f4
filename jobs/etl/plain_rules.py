"""Rules of a source's columns, judged by Arrow on whole columns as Spark's expressions judge them.

What cannot be judged alike, to the last bit, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.etl.reasons import one_class
from schemas.dataset import Column

Mask = npt.NDArray[np.bool_]

_TYPES = {
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
}


def type_of(column: Column) -> pa.DataType | None:
    """Arrow's type of a column; None of one that Arrow reads otherwise than Spark."""
    return _TYPES.get(column.type.strip().lower())


def knows(column: Column) -> bool:
    """Whether the rules of a column can be judged by Arrow as Spark judges them."""
    type_ = type_of(column)
    bounds = [bound for bound in (column.min, column.max) if bound is not None]
    if type_ is None or not all(_bounds(bound, type_) for bound in bounds):
        return False
    if column.pattern is not None:
        of_class = one_class(column.pattern)
        # RE2 takes no longer repetition.
        if type_ != pa.string() or of_class is None or of_class[1] > 1000:
            return False
    return column.allowed is None or all(_compares(value, type_) for value in column.allowed)


def broken_rules(column: Column, values: pa.ChunkedArray) -> Mask:
    """Where a value breaks its column's rules."""
    broken = np.zeros(len(values), bool)
    if not column.nullable:
        broken |= np.asarray(values.is_null())
    tests = []
    # Whole numbers of 64 bits are compared as such, all others as doubles.
    wide = pa.int64() if values.type == pa.int64() else pa.float64()
    if column.min is not None:
        tests.append(pc.less(values.cast(wide), pa.scalar(column.min, wide)))
    if column.max is not None:
        tests.append(pc.greater(values.cast(wide), pa.scalar(column.max, wide)))
    if column.allowed is not None:
        allowed = _of_type(column.allowed, values.type)
        tests.append(pc.and_(pc.invert(pc.is_in(values, value_set=allowed)), values.is_valid()))
    if column.pattern is not None and not _all_match(column.pattern, values):
        tests.append(pc.invert(pc.match_substring_regex(values, column.pattern)))
    if pa.types.is_floating(values.type):
        tests.append(pc.invert(pc.is_finite(values)))
    for test in tests:
        broken |= np.asarray(pc.fill_null(test, False))
    return broken


def _bounds(bound: float, type_: pa.DataType) -> bool:
    """Whether a bound of a column of the type is what Spark compares with, without rounding."""
    if type_ == pa.int64():
        return isinstance(bound, int) and abs(bound) < 2**63
    if type_ == pa.string():
        return False
    if type_ == pa.float32() and isinstance(bound, int):
        # Spark makes it a float, too.
        return float(np.float32(bound)) == bound
    return float(bound) == bound


def _compares(value: str | int, type_: pa.DataType) -> bool:
    """Whether a value is compared with a column of the type as Spark does it, without rounding."""
    if isinstance(value, str):
        return bool(type_ == pa.string())
    exact = type_ == pa.float64() and abs(value) <= 2**53
    return isinstance(value, int) and bool(exact or pa.types.is_integer(type_))


def _of_type(allowed: Sequence[str | int], type_: pa.DataType) -> pa.Array:
    """Those of the values that a column of the type may hold."""
    if pa.types.is_integer(type_):
        limits = np.iinfo(type_.to_pandas_dtype())
        allowed = [value for value in allowed if limits.min <= int(value) <= limits.max]
    return pa.array(allowed, type_)


def _all_match(pattern: str, values: pa.ChunkedArray) -> bool:
    """Whether all texts match a pattern of one class, told from their bytes together."""
    found = one_class(pattern)
    assert found is not None
    members, size = found
    texts = values.combine_chunks()
    if len(texts.buffers()[2] or b"") == 0 or texts.offset:
        return False
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[: len(texts) + 1]
    lengths = np.diff(offsets)
    if not ((lengths == size) | (lengths == 0)).all():
        return False
    if ((lengths == 0) & np.asarray(texts.is_valid())).any():
        return False
    content = np.frombuffer(texts.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    outside = np.ones(len(content), bool)
    for first, last in _ranges(members):
        # Below the first, the difference of bytes starts again at 255.
        outside &= content - first > last - first
    return not outside.any()


def _ranges(members: str) -> Iterator[tuple[np.uint8, np.uint8]]:
    """First and last of each unbroken range of characters."""
    codes = np.array(sorted(map(ord, members)), np.uint8)
    breaks = np.flatnonzero(np.diff(codes) != 1) + 1
    for part in np.split(codes, breaks):
        yield part[0], part[-1]
