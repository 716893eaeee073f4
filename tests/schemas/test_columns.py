"""Names of raw columns: those of Millstream's own tables are free, those of the engine are not."""

from __future__ import annotations

import pytest

from schemas.dataset import Column, Dataset, DeclarationError, Join, Source
from schemas.field import Carried, Categorical, Label, Numeric
from schemas.source import DUCKDB_OF_TYPE, NUMPY_OF_TYPE

OURS = ("ordinal", "malformed", "raw", "ds", "split", "reasons", "source_file", "miscoded")


def declared(*columns: str, **changes: object) -> Dataset:
    source = Source("rows", (Column("y", "int"), *(Column(name, "string") for name in columns)))
    fields = (Label("label", "y"), Numeric("number", "y"))
    whole = {"sources": (source,), "rows": "rows", "key": (), "fields": fields}
    return Dataset("made_up", **{**whole, **changes})  # type: ignore[arg-type]


def test_a_raw_column_may_be_called_like_one_of_millstreams() -> None:
    assert set(OURS) < set(declared(*OURS, "corrupt").row_source.column_names)


def test_but_not_a_key_or_a_field() -> None:
    with pytest.raises(DeclarationError, match="Millstream's own columns: raw"):
        declared("raw", key=("raw",))
    with pytest.raises(DeclarationError, match="Millstream's own columns: Split"):
        declared("x", fields=(Label("y"), Categorical("Split", "x")))


def test_two_underscores_in_front_are_the_engines() -> None:
    with pytest.raises(DeclarationError, match=r"begin with two underscores.*: __x; give them"):
        declared("_x", "x__", "__x")


def test_names_differ_by_more_than_their_case() -> None:
    with pytest.raises(DeclarationError, match="has columns twice: A, a"):
        declared("a", "A")
    with pytest.raises(DeclarationError, match="named twice, or as a key column: A, a"):
        declared("a", key=("a",), fields=(Label("y"), Categorical("A", "a")))
    parent = Source("Word", (Column("word", "string"),))
    with pytest.raises(DeclarationError, match="parent 'Word' is also a column"):
        declared(
            "word",
            sources=(declared("word").row_source, parent),
            joins=(Join("Word", on=(("word", "word"),)),),
        )


def test_each_type_of_a_column_has_one_of_duckdb() -> None:
    assert NUMPY_OF_TYPE.keys() < DUCKDB_OF_TYPE.keys()
    with pytest.raises(DeclarationError, match="field 'c' has type 'quark'"):
        declared("x", fields=(Label("y"), Numeric("n", "y"), Carried("c", "x", type="quark")))
