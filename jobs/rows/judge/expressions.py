"""Expressions of a declaration are bound before anything runs, and refused where they cannot be.

An expression may only follow from the row: one that asks the clock, a random number, other rows, a
file or a setting would give another result in the next run, on another host or in scoring.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import duckdb

from jobs.base.errors import ConfigError
from jobs.rows.base.duck import connection
from jobs.rows.base.names import ROW_DS, UNREAD
from jobs.rows.judge.casts import is_text
from jobs.rows.judge.functions import OWN, Catalogue, first_lines
from jobs.rows.judge.rules import allowed_values
from jobs.rows.judge.statement import (
    INPUT,
    PLACE,
    Statement,
    key_column,
    mask_column,
    parent_table,
)
from schemas.dataset import Dataset
from schemas.expect import Share
from schemas.field import (
    Carried,
    Categorical,
    CategoricalList,
    Field,
    Image,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Timestamp,
    Weight,
)
from schemas.hashed import Bucketized
from schemas.source import Source, duckdb_type, quoted

_MEMORY_MB = 64
_ROW, _ROW_ALONE, _STORED = "__row", "__row_alone", "__stored"

_INTEGERS = {
    f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")
} | {"INTEGER", "UINTEGER"}
# A text is a number, a date, ... where it can be read as one. An untyped NULL has the type "NULL".
_ANY = frozenset({"VARCHAR", '"NULL"'})
_NUMBERS = _ANY | _INTEGERS | {"BOOLEAN", "FLOAT", "DOUBLE", "DECIMAL"}
_MOMENTS = _ANY | {
    "DATE",
    *("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"),
}
_TEXTS = _NUMBERS | _MOMENTS | {"TIME", "INTERVAL", "UUID", "JSON"}
_OF_TYPE = {"string": _TEXTS, "date": _MOMENTS, "timestamp": _MOMENTS}


@dataclass(frozen=True)
class _Expression:
    """An expression of the declaration.

    Attributes:
        place: what it is of, for the message.
        relation: the table whose columns it sees.
        misfit: what is wrong with its type, given as DuckDB writes it; empty if nothing is.
    """

    place: str
    sql: str
    relation: str
    misfit: Callable[[str], str]


def refuse_bad_expressions(dataset: Dataset) -> None:
    """Refuses a declaration with an expression that cannot be made from the row alone.

    Raises:
        ConfigError: naming the field, `ds`, join or expectation, and the cause.
    """
    with closing(connection(_MEMORY_MB)) as duck:
        _create_relations(duck, dataset)
        expressions = list(_expressions(dataset))
        catalogue = Catalogue(duck)
        columns = {
            relation: {name.lower() for name, *_ in duck.execute(f"DESCRIBE {relation}").fetchall()}
            for relation in (_ROW, _ROW_ALONE, _STORED)
        }
        for e in expressions:
            if problem := catalogue.problem(e.sql, columns[e.relation]):
                _refuse(dataset, e, problem)
        for e, type_ in zip(expressions, _types(duck, dataset, expressions), strict=True):
            if problem := e.misfit(type_):
                _refuse(dataset, e, problem)
        _refuse_bad_values(duck, dataset)
        _bind_whole(duck, dataset)


def functions_of(expressions: Iterable[str]) -> frozenset[str]:
    """Names of the functions and operators that expressions call, those in macros included."""
    with closing(connection(_MEMORY_MB)) as duck:
        return frozenset(Catalogue(duck).functions(expressions))


def _refuse(dataset: Dataset, e: _Expression, problem: str) -> None:
    raise ConfigError(
        f"declaration {dataset.name!r}: {e.place}: {e.sql!r} {problem}",
        "DuckDB's SQL over the row, see docs/expressions.md",
    )


def _refuse_bad_values(duck: duckdb.DuckDBPyConnection, dataset: Dataset) -> None:
    for column in dataset.row_source.columns:
        if is_text(column) or not column.allowed:
            continue
        found = duck.execute(f"SELECT {', '.join(allowed_values(column))}").fetchone() or ()
        for value, read in zip(column.allowed, found, strict=True):
            if read is None:
                raise ConfigError(
                    f"declaration {dataset.name!r}: column {column.name!r} has {value!r} among its "
                    f"allowed values, which is none of type {column.type}",
                    "values as the column's texts have them, see docs/raw.md",
                )


def _bind_whole(duck: duckdb.DuckDBPyConnection, dataset: Dataset) -> None:
    """Binds the statement that judges rows: with rules of columns, and keys of joins.

    Raises:
        ConfigError: a rule's type has no bounds, or a key cannot be cast to its parent's column.
    """
    statement = Statement(dataset, (), with_label=True)
    columns = dataset.row_source.columns
    texts = [(c.name, "BLOB" if c.type == "binary" else "VARCHAR") for c in columns]
    masks = [(mask_column(n), "BOOLEAN") for n, rule in enumerate(statement.rules) if rule.masked]
    own = [(PLACE, "BIGINT"), (UNREAD, "BOOLEAN"), (ROW_DS, "VARCHAR")]
    duck.execute(f"CREATE TABLE {INPUT} ({_listed([*texts, *masks, *own])})")
    for join in dataset.joins:
        types = dict(_columns(dataset.source(join.source)))
        keys = [(key_column(n), types[theirs]) for n, (_, theirs) in enumerate(join.on)]
        struct = (join.source, f"STRUCT({_listed([*types.items()])})")
        listed = _listed([*keys, (ROW_DS, "VARCHAR"), struct])
        duck.execute(f"CREATE TABLE {parent_table(join.source)} ({listed})")
    try:
        for sql in (statement.values, statement.reasons):
            duck.execute(f"DESCRIBE {sql}")
    except duckdb.Error as error:
        raise ConfigError(
            f"declaration {dataset.name!r}: its rules or joins cannot be bound: "
            f"{first_lines(str(error))}",
            "bounds of numbers only, and keys that can be cast to the parent's columns",
        ) from error


# What is declared


def _create_relations(duck: duckdb.DuckDBPyConnection, dataset: Dataset) -> None:
    alone = _columns(dataset.row_source)
    parents = [
        (join.source, f"STRUCT({_listed(_columns(dataset.source(join.source)))})")
        for join in dataset.joins
    ]
    stored = [(f.name, _stored_type(f)) for f in dataset.fields]
    for relation, columns in (
        (_ROW_ALONE, alone),
        (_ROW, [*alone, *parents]),
        (_STORED, stored),
    ):
        duck.execute(f"CREATE TABLE {relation} ({_listed(columns)})")


def _columns(source: Source) -> list[tuple[str, str]]:
    return [(column.name, duckdb_type(column.type)) for column in source.columns]


def _listed(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{quoted(name)} {type_}" for name, type_ in columns)


def _stored_type(f: Field) -> str:
    """Of the value before it gets an id."""
    match f:
        case Carried():
            return duckdb_type(f.type)
        case Categorical():
            return "VARCHAR"
        case CategoricalList():
            return "VARCHAR[]"
        case NumericList() | Tensor():
            return "FLOAT[]"
        case Timestamp():
            return "TIMESTAMP"
        case Image():
            return "BLOB"
    return "FLOAT"


def _expressions(dataset: Dataset) -> Iterator[_Expression]:
    if dataset.ds is not None:
        yield _Expression("ds", dataset.ds, _ROW_ALONE, _takes("a date", _MOMENTS))
    for join in dataset.joins:
        types = {c.name: c.type for c in dataset.source(join.source).columns}
        for sql, theirs in join.on:
            place = f"join with {join.source!r}"
            yield _Expression(place, sql, _ROW_ALONE, _takes_type(types[theirs]))
    for f in dataset.fields:
        if not (isinstance(f, Categorical) and f.crossed):
            yield _Expression(f"field {f.name!r}", f.sql, _ROW, _misfit_of(f))
    for expectation in dataset.expectations:
        if isinstance(expectation, Share):
            place = f"expectation {expectation.name!r}"
            takes = _takes("true or false", frozenset({"BOOLEAN", '"NULL"'}))
            yield _Expression(place, expectation.where, _STORED, takes)


def _misfit_of(f: Field) -> Callable[[str], str]:
    match f:
        case Numeric() | Label() | Weight() | Bucketized():
            return _takes("a number", _NUMBERS)
        case Categorical():
            return _takes("one value", _TEXTS)
        case Carried():
            return _takes_type(f.type)
        case Timestamp():
            return _takes("a moment", _MOMENTS)
        case CategoricalList():
            return _takes("a list of values", _TEXTS, is_list=True)
        case NumericList() | Tensor():
            return _takes("a list of numbers", _NUMBERS, is_list=True)
        case Image():
            return _takes("BLOB, the bytes of an image,", frozenset({"BLOB"}))
    raise AssertionError(f)


def _takes_type(type_: str) -> Callable[[str], str]:
    declared = type_.strip().lower()
    return _takes(f"a value of type {declared}", _OF_TYPE.get(declared, _NUMBERS))


def _takes(what: str, types: frozenset[str], is_list: bool = False) -> Callable[[str], str]:
    """A check of a type: of the value, or of a list's elements."""

    def misfit(type_: str) -> str:
        element = re.fullmatch(r"(.*)\[\d*\]", type_)
        if is_list and type_ != '"NULL"':
            fits = element is not None and _base(element[1]) in types
        else:
            fits = _base(type_) in types
        return "" if fits else f"gives {type_}, where {what} is needed"

    return misfit


def _base(type_: str) -> str:
    """A type without its digits; one in brackets, of a list, stays whole and is in no set."""
    return re.sub(r"^DECIMAL\(\d+,\s*\d+\)$", "DECIMAL", type_)


def _types(
    duck: duckdb.DuckDBPyConnection, dataset: Dataset, expressions: Sequence[_Expression]
) -> list[str]:
    """The type of each expression, as DuckDB writes it.

    Raises:
        ConfigError: one that cannot be bound.
    """
    types: dict[tuple[str, str], str] = {}
    for relation in (_ROW, _ROW_ALONE, _STORED):
        wanted = list(dict.fromkeys(e.sql for e in expressions if e.relation == relation))
        try:
            found = _described(duck, relation, wanted)
        except duckdb.Error:
            # One of them; which?
            for e in expressions:
                if e.relation == relation:
                    try:
                        _described(duck, relation, [e.sql])
                    except duckdb.Error as error:
                        _refuse(dataset, e, f"cannot be bound: {first_lines(str(error))}")
            raise
        types |= {(relation, sql): type_ for sql, type_ in zip(wanted, found, strict=True)}
    return [types[e.relation, e.sql] for e in expressions]


def _described(
    duck: duckdb.DuckDBPyConnection, relation: str, expressions: Sequence[str]
) -> list[str]:
    if not expressions:
        return []
    listed = ", ".join(f"({sql}) AS {OWN}{i}" for i, sql in enumerate(expressions))
    rows = duck.execute(f"DESCRIBE SELECT {listed} FROM {relation}").fetchall()
    return [str(row[1]) for row in rows]
