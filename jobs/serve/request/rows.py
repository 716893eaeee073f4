"""Rows of a request as the row engine takes them: a text a column, as if they stood in a file.

A number becomes the shortest text that means it, so that it is judged as a line of a file with this
text would be; a whole number of an integer column has no point, since pandas makes such columns
floating where a value is missing. NaN, null in JSON, an empty text and the source's `null_value`
are null.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.rows.base.names import MARKS, ROW_DS, ROW_FILE, ROW_TEXT, UNREAD, mark
from jobs.rows.base.types import arrow_type
from jobs.serve.request.errors import RequestError
from jobs.serve.request.tensors import BYTES, NamedTensor
from schemas.dataset import Dataset
from schemas.source import Column, Join, Source

Values = Sequence[Any] | np.ndarray
_NAMED = 5


@dataclass(frozen=True)
class RawRows:
    """Rows of a request, to be judged.

    Attributes:
        table: as `jobs.rows.read` gives rows, parents' columns in a struct each.
    """

    table: pa.Table

    @property
    def signature(self) -> object:
        """Rows of one signature may be judged together."""
        return self.table.schema

    def __len__(self) -> int:
        return int(self.table.num_rows)


def raw_rows(dataset: Dataset, columns: Mapping[str, Values], looked_up: set[str]) -> RawRows:
    """The rows that have these columns.

    Args:
        columns: values by a raw column's name, or by PARENT.COLUMN [n].
        looked_up: parents that are known here; of the others rows bring the columns.

    Raises:
        RequestError: a column is missing, is not known, or has a value that is none.
    """
    source = dataset.row_source
    parents = {join.source: dataset.source(join.source) for join in dataset.joins}
    refuse_other_columns(dataset, columns.keys())
    counts = {len(values) for values in columns.values()}
    if len(counts) != 1:
        raise RequestError("the columns have different numbers of rows")
    count = counts.pop()
    arrays = {c.name: _column(c, source, columns.get(c.name), count) for c in source.columns}
    for join in dataset.joins:
        own = {c: columns.get(f"{join.source}.{c}") for c in parents[join.source].column_names}
        if any(values is not None for values in own.values()):
            arrays[join.source] = _parent(parents[join.source], own, count)
        elif join.source not in looked_up:
            raise RequestError(_lacks_parent(join, parents[join.source]))
    no = pa.array(np.zeros(count, bool))
    marks = dict.fromkeys([*map(mark, MARKS), UNREAD], no)
    text = pa.array([""] * count)
    today = pa.array([datetime.now(UTC).date().isoformat()] * count)
    return RawRows(pa.table({**arrays, ROW_TEXT: text, ROW_FILE: text, ROW_DS: today, **marks}))


def refuse_other_columns(dataset: Dataset, names: Collection[str]) -> None:
    """
    Raises:
        RequestError: a column is missing, or not declared.
    """
    own = dataset.row_source.columns
    needed = {column.name for column in own if not column.of_label}
    known = {column.name for column in own}
    for join in dataset.joins:
        known.update(f"{join.source}.{name}" for name in dataset.source(join.source).column_names)
    if missing := sorted(needed.difference(names)):
        raise RequestError(f"columns are missing: {', '.join(missing[:_NAMED])}")
    if unknown := sorted(set(names) - known):
        raise RequestError(f"{len(unknown)} columns are not declared, one is {unknown[0][:64]!r}")


def _lacks_parent(join: Join, parent: Source) -> str:
    names = ", ".join(f"{join.source}.{name}" for name in parent.column_names[:_NAMED])
    return f"rows of {join.source!r} are not looked up here: give their columns, {names}"


def _parent(parent: Source, own: Mapping[str, Values | None], count: int) -> pa.Array:
    """A struct a row; null where the row has no parent, that is none of its values.

    Raises:
        RequestError: a value is not of its column's type; parents have no quarantine.
    """
    arrays = []
    for column in parent.columns:
        found = _column(column, parent, own[column.name], count)
        kind = arrow_type(column.type)
        try:
            arrays.append(found if found.type == kind else found.cast(kind))
        except pa.ArrowInvalid as error:
            raise RequestError(
                f"{parent.name}.{column.name}: a value is no {column.type}"
            ) from error
    absent = np.ones(count, bool)
    for array in arrays:
        absent &= np.asarray(array.is_null())
    return pa.StructArray.from_arrays(
        arrays, names=list(parent.column_names), mask=pa.array(absent)
    )


def _column(column: Column, source: Source, values: Values | None, count: int) -> pa.Array:
    kind = arrow_type(column.type)
    binary = pa.types.is_binary(kind)
    if values is None:
        return pa.nulls(count, kind if binary else pa.string())
    if binary:
        return _binary(column, values)
    texts = _texts(column.name, values, pa.types.is_integer(kind))
    null = pc.is_in(texts, value_set=pa.array(["", source.null_value]))
    return pc.if_else(null, pa.scalar(None, pa.string()), texts)


def _binary(column: Column, values: Values) -> pa.Array:
    """Bytes, or their base64 where JSON brings them."""
    try:
        # MLflow's client breaks its lines.
        found = [
            b64decode(v.replace("\n", ""), validate=True) if isinstance(v, str) else v
            for v in values
        ]
        return pa.array(found, pa.binary())
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise RequestError(
            f"column {column.name!r}: a value is neither bytes nor base64"
        ) from error


def _texts(name: str, values: Values, whole: bool) -> pa.StringArray:
    """
    Args:
        whole: of an integer column.
    """
    if isinstance(values, np.ndarray):
        floating = values.dtype.kind == "f"
        if not floating or not whole:
            found = pa.array(values, from_pandas=floating)
            return found.cast(pa.string())
        values = values.tolist()
    try:
        return pa.array([_text(value, whole) for value in values], pa.string())
    except (pa.ArrowException, UnicodeDecodeError, UnicodeEncodeError, ValueError) as error:
        raise RequestError(f"column {name!r}: a value is no text or number") from error


def _text(value: Any, whole: bool) -> str | None:
    match value:
        case None | str():
            return value
        case bytes():
            return value.decode()
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            if math.isnan(value):
                return None
            return str(int(value)) if whole and value.is_integer() else repr(value)
    raise ValueError


def columns_of_tensors(tensors: Sequence[NamedTensor]) -> dict[str, Values]:
    """A column a tensor.

    Raises:
        RequestError: a tensor stands twice.
    """
    columns: dict[str, Values] = {}
    for tensor in tensors:
        if tensor.name in columns:
            raise RequestError(f"input {tensor.name!r} stands twice")
        columns[tensor.name] = _column_of(tensor)
    return columns


def _column_of(tensor: NamedTensor) -> Values:
    """Values [n] of a tensor [n], [n, 1], or lists of one [n, m]."""
    flat = len(tensor.shape) == 1 or tensor.shape[1:] == (1,)
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.reshape(-1) if flat else list(tensor.data.tolist())
    if not flat:
        raise RequestError(f"input {tensor.name!r}: give a list of {BYTES} as [rows]")
    return tensor.data
