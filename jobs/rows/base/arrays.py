"""Arrow's columns as one array each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.base.errors import DataRefused

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array; of dictionaries one that all rows share.

    Raises:
        DataRefused: it holds more than an array can.
    """
    if not isinstance(column, pa.ChunkedArray):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    try:
        return column.combine_chunks()
    except pa.ArrowInvalid as error:
        raise too_long() from error


def too_long() -> DataRefused:
    return DataRefused(
        "a row group has more than 2 GiB of texts",
        "row groups that fit into memory",
        "write the file with smaller row groups",
    )


def without_dictionaries(table: pa.Table) -> pa.Table:
    """The same values, in columns that agree in type with those of other tables."""
    columns = [
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, table.column_names)


def at(column: pa.ChunkedArray, rows: Ints) -> pa.Array:
    """The column's values in these rows, ascending."""
    return whole(taken(column, rows))


def taken(column: pa.ChunkedArray, rows: Ints) -> pa.ChunkedArray:
    """The same, in as many arrays as the column is: nothing is copied where all rows are asked."""
    return column if len(rows) == len(column) else column.take(pa.array(rows))


def spread(mask: Mask, rows: Ints, count: int) -> Mask:
    """A mask of some of the rows as one of all of them [count]."""
    found = np.zeros(count, bool)
    found[rows] = mask
    return found
