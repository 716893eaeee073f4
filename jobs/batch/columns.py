"""One column of Arrow to numbers of one type and shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.errors import DataRefused


def arrow_type(spark_type: str) -> pa.DataType | None:
    """What Arrow calls the type of an input's column; None for columns that are no inputs."""
    known = {
        "bigint": pa.int64(),
        "float": pa.float32(),
        "int": pa.int32(),
        "binary": pa.binary(),
        "array<float>": pa.list_(pa.float32()),
        "array<int>": pa.list_(pa.int32()),
    }
    return known.get(spark_type)


def as_type(column: pa.Array, name: str, wanted: pa.DataType) -> pa.Array:
    """The column with the wanted type, by a conversion that loses nothing.

    Raises:
        DataRefused: there is none.
    """
    # A list's item is named by its writer: `element`, `item`; that makes no other type.
    if pa.types.is_list(column.type) and column.type.value_type == wanted.value_type:
        return column
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataRefused(f"column {name!r} is {column.type}: {error}", str(wanted)) from error


def values(column: pa.Array) -> npt.NDArray[Any]:
    """As NumPy, with NaN for null; not copied where there is no null."""
    if column.null_count and pa.types.is_floating(column.type):
        column = pc.fill_null(column, math.nan)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def fixed_shape(column: pa.Array, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Lists of one length as a matrix [n, length].

    Raises:
        DataRefused: a list of another length, or a null in one.
    """
    length = math.prod(shape)
    numbers = values(column.flatten())
    if len(numbers) != len(column) * length or np.any(np.diff(column.offsets) != length):
        raise DataRefused(f"tensor {name!r} has rows of other lengths", f"{length} numbers")
    if column.flatten().null_count:
        raise DataRefused(f"tensor {name!r} holds nulls", "none")
    return numbers.reshape(-1, length)


def padded(
    column: pa.Array, name: str, length: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Lists as a matrix [n, length] with zeros behind their end, and their lengths, int32 [n].

    Raises:
        DataRefused: a longer list, or a null in one.
    """
    elements = column.flatten()
    if elements.null_count:
        raise DataRefused(f"list {name!r} holds nulls", "none")
    lengths = np.diff(column.offsets).astype(np.int32)
    if len(lengths) and lengths.max() > length:
        raise DataRefused(f"list {name!r} has {lengths.max()} elements", f"at most {length}")
    matrix = np.zeros((len(lengths), length), elements.type.to_pandas_dtype())
    matrix[np.arange(length) < lengths[:, None]] = values(elements)
    return matrix, lengths


def decoded(
    column: pa.Array,
    name: str,
    shape: tuple[int, ...],
    decode: Callable[[bytes], npt.NDArray[np.uint8]],
) -> npt.NDArray[np.uint8]:
    """Images as a matrix [n, bytes of an image]; decoded one by one, as codecs do.

    Raises:
        DataRefused: what is no image, or one of another shape.
    """
    pixels = np.empty((len(column), math.prod(shape)), np.uint8)
    for row, content in enumerate(column):
        try:
            image = decode(content.as_py())
        except Exception as error:
            raise DataRefused(f"an image of {name!r} cannot be decoded: {error}") from error
        if image.shape != shape:
            raise DataRefused(f"an image of {name!r} has shape {image.shape}", str(shape))
        pixels[row] = image.reshape(-1)
    return pixels
