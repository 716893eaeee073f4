"""Tensors of the Open Inference Protocol: JSON, or bytes behind it, to NumPy and back.

https://github.com/kserve/open-inference-protocol and its extension for binary tensors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.serve.request.errors import RequestError

DATATYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
BYTES = "BYTES"
_LENGTH = struct.Struct("<I")
_MOST_NAME, _MOST_DIMENSIONS = 256, 8
# NumPy refuses some shapes without values too.
_MOST_VALUES = 1 << 48
# What values of JSON may be; of other datatypes numbers.
_KINDS: dict[str, set[type]] = {
    name: {bool} if kind is np.bool_ else {int}
    for name, kind in DATATYPES.items()
    if not issubclass(kind, np.floating)
}


@dataclass(frozen=True)
class NamedTensor:
    """A tensor of a request or an answer.

    Attributes:
        data: an array of this shape; of BYTES, and where JSON has nulls, a flat list of values.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any] | list[Any]

    @property
    def rows(self) -> int:
        return self.shape[0]


def checked_shape(name: Any, datatype: Any, shape: Any) -> tuple[int, ...]:
    """The shape of a tensor whose name, datatype and shape are what the protocol allows.

    Raises:
        RequestError: they are not.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME:
        raise RequestError(f"an input's name must be a text of at most {_MOST_NAME} characters")
    if not isinstance(datatype, str) or (datatype != BYTES and datatype not in DATATYPES):
        raise RequestError(
            f"input {name!r}: no such datatype; one of BYTES, {', '.join(DATATYPES)}"
        )
    sizes = list(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else []
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not sizes or len(sizes) > _MOST_DIMENSIONS or not whole or min(sizes) < 0:
        raise RequestError(f"input {name!r}: its shape must be a list of sizes, rows first")
    if math.prod(size or 1 for size in sizes) > _MOST_VALUES:
        raise RequestError(f"input {name!r}: its shape is too large")
    return tuple(sizes)


def of_json(tree: Any) -> NamedTensor:
    """A tensor whose data are in the JSON.

    Raises:
        RequestError: it is not as the protocol says.
    """
    if not isinstance(tree, Mapping) or "data" not in tree:
        raise RequestError("each input needs name, datatype, shape and data")
    name, datatype = tree.get("name"), tree.get("datatype")
    shape = checked_shape(name, datatype, tree.get("shape"))
    values, kinds = _flat(tree["data"])
    if len(values) != math.prod(shape):
        raise RequestError(f"input {name!r} has {len(values)} values, its shape {list(shape)}")
    if datatype == BYTES or type(None) in kinds:
        return NamedTensor(str(name), str(datatype), shape, values)
    if not kinds <= _KINDS.get(str(datatype), {int, float}):
        raise RequestError(f"input {name!r}: not all of its values are of {datatype}")
    return of_numbers(str(name), str(datatype), shape, values)


def of_numbers(name: str, datatype: str, shape: tuple[int, ...], values: list[Any]) -> NamedTensor:
    """A tensor of these numbers, as many as its shape has.

    Raises:
        RequestError: one is too large for the datatype.
    """
    try:
        array = _array(values, DATATYPES[datatype]).reshape(shape)
    except (OverflowError, ValueError, struct.error) as error:
        raise RequestError(f"input {name!r}: a value does not fit into {datatype}") from error
    return NamedTensor(name, datatype, shape, array)


def _array(values: list[Any], kind: type[np.generic]) -> npt.NDArray[Any]:
    """Numbers [n], which may not be writable."""
    whole = kind is np.int64
    if not whole and not issubclass(kind, np.floating):
        return np.array(values, kind)
    # A third of the time that NumPy takes to read a list.
    packed = struct.pack(f"{len(values)}{'q' if whole else 'd'}", *values)
    return np.frombuffer(packed, np.int64 if whole else np.float64).astype(kind, copy=False)


def _flat(data: Any) -> tuple[list[Any], set[type]]:
    """Values of lists within lists, in order, and their types.

    Raises:
        RequestError: the lists are deeper than a shape may be long.
    """
    values = data if isinstance(data, list) else [data]
    for _ in range(_MOST_DIMENSIONS):
        kinds = set(map(type, values))
        if list not in kinds:
            return values, kinds
        parts = (one if isinstance(one, list) else (one,) for one in values)
        values = list(chain.from_iterable(parts))
    raise RequestError(f"data may have lists {_MOST_DIMENSIONS} deep at most")


def of_bytes(name: str, datatype: str, shape: tuple[int, ...], content: memoryview) -> NamedTensor:
    """A tensor whose data are little-endian bytes; of BYTES each value behind its length.

    Raises:
        RequestError: they are of another size than the shape says.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        values = _lengths_and_texts(name, content)
        if len(values) != count:
            raise RequestError(f"input {name!r} has {len(values)} values, its shape {list(shape)}")
        return NamedTensor(name, datatype, shape, values)
    kind = np.dtype(DATATYPES[datatype]).newbyteorder("<")
    if len(content) != count * kind.itemsize:
        wanted = count * kind.itemsize
        raise RequestError(f"input {name!r} has {len(content)} bytes, its shape asks {wanted}")
    return NamedTensor(name, datatype, shape, np.frombuffer(content, kind).reshape(shape))


def _lengths_and_texts(name: str, content: memoryview) -> list[Any]:
    values, place = [], 0
    while place < len(content):
        if place + _LENGTH.size > len(content):
            raise RequestError(f"input {name!r} ends within a length")
        (length,) = _LENGTH.unpack_from(content, place)
        place += _LENGTH.size
        if place + length > len(content):
            raise RequestError(f"input {name!r} ends within a value")
        values.append(bytes(content[place : place + length]))
        place += length
    return values


def as_bytes(tensor: NamedTensor) -> bytes:
    """The data as `of_bytes` takes them."""
    if isinstance(tensor.data, np.ndarray):
        kind = np.dtype(DATATYPES[tensor.datatype]).newbyteorder("<")
        return tensor.data.astype(kind, copy=False).tobytes()
    if set(tensor.data) <= {"", b""}:
        return bytes(_LENGTH.size * len(tensor.data))
    texts = [value if isinstance(value, bytes) else str(value).encode() for value in tensor.data]
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def as_json(tensor: NamedTensor) -> dict[str, Any]:
    """The tensor with flat data. JSON has no NaN: null stands for it."""
    if isinstance(tensor.data, np.ndarray):
        flat = tensor.data.reshape(-1)
        values = flat.tolist()
        if np.issubdtype(flat.dtype, np.floating) and not np.isfinite(flat).all():
            values = [value if math.isfinite(value) else None for value in values]
    else:
        values = [v.decode() if isinstance(v, bytes) else v for v in tensor.data]
    shape = list(tensor.shape)
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": values}
