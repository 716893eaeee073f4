"""A declaration as the work order of `etl_duckdb.py`: plain SQL, and no code of Millstream's.

A work order is JSON, so that DuckDB's process starts without loading anything else. It says of the
row source and each parent where the files are, how they are laid out, and each column's type and
rules; of the fields, their SQL with the transforms in it.
"""

from __future__ import annotations

import re
from typing import Any

from jobs.settings.etl import EtlSettings
from schemas.dataset import Column, Dataset, Join, Source
from schemas.field import Carried, Categorical, Clip, Cyclic, Log1p, Numeric, Scale, Transform

WorkOrder = dict[str, Any]
_TYPES = {"string": "VARCHAR", "int": "INTEGER", "long": "BIGINT"}


def work_order(
    dataset: Dataset, raw: dict[str, str], date: str | None, row_group_rows: int
) -> WorkOrder:
    """What DuckDB has to do.

    Args:
        raw: path or glob of each source.
        date: of all rows, where the declaration leaves it to the path.
    """
    return {
        **_source(dataset.row_source, raw[dataset.rows]),
        "date": dataset.ds or f"DATE '{date}'",
        "key": dataset.key,
        "parents": [_parent(dataset, join, raw[join.source]) for join in dataset.joins],
        "labels": {dataset.label.name: dataset.label.sql},
        "numbers": {f.name: _number(f, dataset) for f in dataset.of_kind(Numeric)},
        "carried": {f.name: _flat(f.sql, dataset) for f in dataset.of_kind(Carried)},
        "categories": {f.name: _category(f, dataset) for f in dataset.of_kind(Categorical)},
        "row_group_rows": row_group_rows,
        "compression": EtlSettings.model_fields["compression"].default,
    }


def _source(source: Source, raw: str) -> WorkOrder:
    return {
        "name": source.name,
        "raw": raw,
        "delimiter": source.delimiter,
        "header": source.header,
        "quote": source.quote,
        "null_value": source.null_value,
        "columns": [_column(column) for column in source.columns],
    }


def _column(column: Column) -> WorkOrder:
    return {
        "name": column.name,
        "type": _TYPES.get(column.type, column.type.upper()),
        "nullable": column.nullable,
        "min": column.min,
        "max": column.max,
        "allowed": column.allowed,
        "pattern": column.pattern,
    }


def _parent(dataset: Dataset, join: Join, raw: str) -> WorkOrder:
    return {
        **_source(dataset.source(join.source), raw),
        "on": [[ours, f"{join.source}__{theirs}"] for ours, theirs in join.on],
        "required": join.required,
    }


def _category(field: Categorical, dataset: Dataset) -> WorkOrder:
    sql = _flat(field.sql, dataset)
    return {"sql": sql, "min_count": field.min_count, "buckets": field.oov_buckets}


def _number(field: Numeric, dataset: Dataset) -> WorkOrder:
    """`base` is null where there is nothing to transform."""
    base = value = _flat(field.sql, dataset)
    for transform in field.transforms:
        value = _transformed(f"({value})", transform)
    return {"sql": value, "base": base}


def _transformed(x: str, transform: Transform) -> str:
    match transform:
        case Log1p():
            return f"CASE WHEN {x} > -1 THEN ln(1 + CAST({x} AS DOUBLE)) END"
        case Clip(low, high):
            return f"CASE WHEN {x} < {low} THEN {low} WHEN {x} > {high} THEN {high} ELSE {x} END"
        case Scale(factor):
            return f"{x} * {factor!r}"
        case Cyclic(period, part):
            return f"{part}(2 * pi() * {x} / {period!r})"


def _flat(sql: str, dataset: Dataset) -> str:
    """A parent's columns by the names that they have in the peer's joined table."""
    for join in dataset.joins:
        sql = re.sub(rf"\b{join.source}\.(\w+)", rf"{join.source}__\1", sql)
    return sql
