"""Values in their types, as SQL: of raw columns from their texts, of fields from expressions."""

from __future__ import annotations

from schemas.field import (
    Carried,
    Categorical,
    CategoricalList,
    Field,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Timestamp,
    Weight,
)
from schemas.hashed import Bucketized
from schemas.source import Column, duckdb_type


def is_text(column: Column) -> bool:
    return is_text_type(column.type.strip().lower())


def is_text_type(kind: str) -> bool:
    return kind in ("string", "binary")


def is_whole(column: Column) -> bool:
    return duckdb_type(column.type) in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")


def cast(name: str, type_: str, as_declared: bool) -> str:
    """SQL of a column's value in its type, null where it is none: of its text, or as it is."""
    kind = type_.strip().lower()
    if as_declared or is_text_type(kind):
        value = name
    elif kind == "timestamp":
        value = moment_in_time(name)
    elif kind == "boolean":
        # Of the casts this one alone minds spaces.
        value = f"TRY_CAST(trim({name}) AS BOOLEAN)"
    else:
        value = f"TRY_CAST({name} AS {duckdb_type(kind)})"
    return f"CASE WHEN isfinite({value}) THEN {value} END" if kind in ("float", "double") else value


def moment_of(sql: str) -> str:
    """A moment in UTC, of a text too: by way of the type with a zone, since the other leaves an
    offset out of account."""
    return f"CAST(TRY_CAST({sql} AS TIMESTAMPTZ) AS TIMESTAMP)"


def moment_in_time(sql: str) -> str:
    """The same, null where it is of no year from 1 to 9999."""
    bounds = "TIMESTAMP '0001-01-01' AND TIMESTAMP '9999-12-31 23:59:59.999999'"
    return f"CASE WHEN {moment_of(sql)} BETWEEN {bounds} THEN {moment_of(sql)} END"


def cast_of_field(f: Field, base: str) -> str:
    match f:
        case Numeric() | Bucketized():
            return f"TRY_CAST({base} AS DOUBLE)"
        case Weight() | Label():
            return f"TRY_CAST({base} AS FLOAT)"
        case Categorical():
            return f"CAST({base} AS VARCHAR)"
        case Carried():
            moment = f.type.strip().lower() == "timestamp"
            return moment_in_time(base) if moment else f"TRY_CAST({base} AS {duckdb_type(f.type)})"
        case Timestamp():
            return moment_in_time(base)
        case NumericList() | CategoricalList():
            element = "FLOAT" if isinstance(f, NumericList) else "VARCHAR"
            values = f"coalesce(TRY_CAST({base} AS {element}[]), [])"
            return f"{values}[1:{f.max_length}]" if f.too_long == "keep_first" else values
        case Tensor():
            return f"TRY_CAST({base} AS FLOAT[])"
        case _:
            return f"CAST({base} AS BLOB)"
