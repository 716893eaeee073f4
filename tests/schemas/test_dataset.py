"""Declarations: what contradicts itself is named, and the renderings agree with each other."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dataset import ROW_ID, Column, Dataset, DeclarationError, Join, Source
from schemas.field import (
    Carried,
    Categorical,
    Clip,
    Cyclic,
    Field,
    Image,
    Label,
    Log1p,
    Numeric,
    Tensor,
    Timestamp,
    Weight,
)
from schemas.flights import FLIGHTS
from tests.builders.visits import VISITS

names = st.text("abcdefghij", min_size=3, max_size=8)
fields = st.one_of(
    st.builds(Numeric, names, transforms=st.sampled_from([(), (Log1p(),), (Clip(0, 1),)])),
    st.builds(Categorical, names, min_count=st.integers(1, 9), oov_buckets=st.integers(1, 5)),
    st.builds(Carried, names, type=st.sampled_from(["string", "int", "double"])),
    st.builds(Timestamp, names),
    st.builds(Tensor, names, shape=st.sampled_from([(3,), (2, 4)])),
    st.builds(Image, names, shape=st.sampled_from([(8, 8), (8, 8, 3)])),
)


def laid_out(more: Column | None = None, **layout: Any) -> Source:
    columns = (Column("k", "int"), Column("x", "double"), *([more] if more else []))
    return Source("rows", columns, **layout)


TWO = (laid_out(), Source("air", (Column("k", "int"),)))


def declared(*more: Field, **changes: Any) -> Dataset:
    whole: dict[str, Any] = {
        "name": "made_up",
        "sources": (laid_out(),),
        "rows": "rows",
        "ds": "k",
        "key": ("k",),
        "fields": (Label("y", "x"), Numeric("x1", "x"), *more),
    }
    return Dataset(**{**whole, **changes})


@given(st.lists(fields, max_size=8, unique_by=lambda f: f.name))
def test_all_renderings_name_the_same_columns(more: list[Field]) -> None:
    dataset = declared(*more)
    stored = dataset.stored_columns()
    assert [c.name for c in stored] == [ROW_ID, "k", "y", "x1", *(f.name for f in more)]
    schema = dataset.examples_schema()
    assert schema.fieldNames() == [*(c.name for c in stored), "ds", "split"]
    sizes = dataset.input_sizes()
    assert sizes.num_dense == sum(isinstance(f, Numeric) for f in dataset.fields)
    assert sizes.num_sparse == sum(isinstance(f, Categorical) for f in dataset.fields)
    assert set(sizes.tensor_shapes) == {f.name for f in more if isinstance(f, Tensor | Image)}


@given(st.lists(fields, min_size=1, max_size=5, unique_by=lambda f: f.name), st.data())
def test_a_change_of_any_field_changes_the_digest_and_names_it(
    more: list[Field], data: st.DataObject
) -> None:
    dataset = declared(*more)
    place = data.draw(st.integers(0, len(more) - 1))
    changed = dataclasses.replace(more[place], expr="other")
    other = declared(*more[:place], changed, *more[place + 1 :])
    assert other.digest != dataset.digest
    differing = {n for n, d in other.field_digests.items() if d != dataset.field_digests[n]}
    assert differing == {changed.name}


def test_an_escape_that_is_the_quote_says_nothing() -> None:
    for quote in ('"', "'"):
        assert laid_out(quote=quote, escape=quote) == laid_out(quote=quote)
    assert declared(sources=(laid_out(escape='"'),)).digest == declared().digest


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rows": "nowhere"}, "rows='nowhere' is no source"),
        ({"key": ("z",)}, "key column 'z' is not in source 'rows'"),
        ({"entity": ("z",)}, "entity column 'z'"),
        ({"fields": (Numeric("x1", "x"),)}, "0 labels"),
        ({"fields": (Label("y", "x"),)}, "a model would see nothing"),
        ({"fields": (Label("y", "x"), Numeric("y", "x"))}, "named twice, or as a key column: y"),
        ({"fields": (Label("y", "x"), Numeric("k", "x"))}, "named twice, or as a key column: k"),
        ({"fields": (Label("y", "x"), Numeric("ds", "x"))}, "Millstream's own columns: ds"),
        ({"fields": (Label("y"), Numeric("x1"), Weight("a"), Weight("b"))}, "more than one weight"),
        ({"joins": (Join("nowhere", on=(("k", "k"),)),)}, "join with 'nowhere'"),
        ({"sources": (Source("rows", columns=(Column("k", "quark"),)),)}, "type 'quark'"),
        ({"sources": (laid_out(escape="^"),)}, "escape is '^'; it must be a backslash"),
        ({"sources": (laid_out(quote="'", escape='"'),)}, "escape is '\"'; it must be"),
        ({"sources": (laid_out(quote="“"),)}, "quote is '“'; it must be one"),
        ({"sources": (laid_out(quote="\n"),)}, "quote is '\\n'; it must be one"),
        *[
            ({"sources": (laid_out(delimiter=mark),)}, "delimiter is ")
            for mark in ("", "\0", "\n", "|\r", '"')
        ],
        *[
            ({"sources": (laid_out(encoding=name),)}, f"encoding {name!r}, which is none of texts")
            for name in ("rot13", "base64", "idna", "punycode", "undefined", "nope", "", "a\0")
        ],
        *[
            ({"sources": (laid_out(format="json", more=Column("c", "int", path=path)),)}, "a key *")
            for path in ("*", "x.*", "**.x")
        ],
        ({"sources": (laid_out(), Source("other", ()))}, "'other' has no columns"),
        ({"sources": (laid_out(), Source("", (Column("k", "int"),)))}, "a source has no name"),
        ({"sources": (laid_out(more=Column("", "int")),)}, "or one without a name"),
        ({"fields": (Label("y", "x"), Numeric("", "x"))}, "a field has no name"),
        *[
            ({"sources": (laid_out(Column("c", "int", **{bound: math.nan})),)}, f"c has {bound}=")
            for bound in ("min", "max")
        ],
        ({"sources": (laid_out(Column("c", "string", allowed=())),)}, "c has allowed="),
        ({"sources": TWO, "joins": (Join("air", ()),)}, "join with 'air' on nothing"),
        (
            {"sources": TWO, "joins": (Join("air", (("k", "k"),)), Join("air", (("x", "k"),)))},
            "two joins with air; declare the source twice, under two names",
        ),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(DeclarationError, match="declaration 'made_up'") as refused:
        declared(**changes)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Clip(1, 1),
        lambda: Cyclic(0, "sin"),
        lambda: Categorical("c", oov_buckets=0),
        lambda: Categorical("c", min_count=0),
        lambda: Tensor("t"),
        lambda: Image("i", shape=(4, 4, 2)),
    ],
)
def test_impossible_fields_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must|below|shape"):
        make()


def test_the_flights_use_nothing_known_only_after_departure() -> None:
    leaks = {c.name for c in FLIGHTS.row_source.columns if c.of_label}
    assert leaks == {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
    features = [f for f in FLIGHTS.fields if isinstance(f, Numeric | Categorical)]
    words = " ".join(
        f.sql.replace("sched_dep_time", "").replace("sched_arr_time", "") for f in features
    )
    assert not [leak for leak in leaks if leak in words]


def test_spark_types_of_a_source_are_the_declared_ones() -> None:
    types = {f.name: f.dataType.simpleString() for f in VISITS.row_source.struct_type()}
    assert types == {c.name: c.type for c in VISITS.row_source.columns}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"key": "k"}, "Dataset 'made_up': key is 'k'; it must be tuple[str, ...]; with one value"),
        ({"entity": "k"}, "entity is 'k'; it must be tuple[str, ...]; with one value it is ('k',)"),
        ({"fields": Label("y", "x")}, "fields is Label("),
        ({"name": 5}, "name is 5; it must be str"),
        ({"sources": (laid_out(Column("c", "string", allowed="ab")),)}, "Column 'c': allowed is"),
        ({"sources": (laid_out(Column("c", "int", min="3")),)}, "Column 'c': min is '3'; it must"),
        ({"sources": (laid_out(Column("c", "date", max="2020-01-01")),)}, "Column 'c': max is '20"),
        ({"sources": (laid_out(Column("c", "int", nullable=0)),)}, "Column 'c': nullable is 0"),
        ({"sources": (laid_out(Column("c", 5)),)}, "Column 'c': type is 5; it must be str"),
        ({"sources": (laid_out(format="tsv"),)}, "Source 'rows': format is 'tsv'; it must be Lit"),
        ({"joins": (Join("air", ("k", "k")),)}, "Join: on is ('k', 'k')"),
    ],
)
def test_a_value_of_another_type_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(named)):
        declared(**changes)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (Numeric("a", "x", transforms=Log1p()), "Numeric 'a': transforms is Log1p(); it must be"),
        (Numeric("a", "x", transforms=(Log1p,)), "Numeric 'a': transforms is (<class"),
        (Numeric("a", "x", transforms=(Clip("0", "1"),)), "Clip: low is '0'; it must be float"),
        (Categorical("a", 5), "Categorical 'a': expr is 5; it must be str"),
        (Categorical("a", crossed="bc"), "Categorical 'a': crossed is 'bc'; it must be tuple[str,"),
    ],
)
def test_so_is_one_of_a_field(more: Field, named: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(named)):
        declared(more)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a:b", "a\nb", "a\\b"])
def test_a_name_that_is_no_folder_and_no_models_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="is no name of a folder and of models"):
        declared(name=name)
