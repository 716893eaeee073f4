"""Parquet and ORC: columns of other types than declared, nested ones, and files that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from jobs.base.errors import DataRefused
from jobs.rows.base.names import ROW_TEXT
from schemas.dataset import Column, Dataset, Source
from schemas.field import Carried, Label, Numeric
from tests.rows.engines import files_of, judged, marks_of, raw_rows, reasons_of, values_of

THINGS = Source(
    "things",
    format="parquet",
    columns=(Column("id", "bigint", nullable=False), Column("name", "string")),
)


def declared(source: Source) -> Dataset:
    fields = [
        Carried(f"{column.name}_", f'"{column.name}"', type=column.type)
        for column in source.columns
    ]
    inputs = (Label("y", "1"), Numeric("n", "1"))
    return Dataset("things", (source,), source.name, (), (*inputs, *fields))


def written(table: pa.Table, file: Path, format_: str = "parquet", **more: Any) -> Path:
    (pq.write_table if format_ == "parquet" else orc.write_table)(table, file, **more)
    return file


@pytest.mark.parametrize("format_", ["parquet", "orc"])
def test_columns_of_other_types_are_read_strictly(format_: Any, tmp_path: Path) -> None:
    folder = tmp_path / "day=2024-01-01"
    folder.mkdir()
    as_declared = pa.table({"name": ["x", None], "id": pa.array([1, 2], pa.int64())})
    written(as_declared, folder / "a", format_)
    written(pa.table({"id": ["3", "4.5"], "name": ["y", "z"]}), folder / "b", format_)
    found = judged(declared(replace(THINGS, format=format_)), folder)
    assert values_of(found, "id_", "name_") == [(1, "x"), (2, None), (3, "y")]
    (bad,) = found.refused.to_pylist()
    assert bad["reasons"] == ["unparsable:id"]
    assert json.loads(bad["raw"]) == {"id": "4.5", "name": "z"}
    assert bad["source_file"] == f"{folder}/b"
    raw = raw_rows(replace(THINGS, format=format_), files_of(folder / "a"))
    assert [json.loads(row) for row in raw[ROW_TEXT].to_pylist()] == [
        {"id": 1, "name": "x"},
        {"id": 2, "name": None},
    ]


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        (pa.array([1, -1, None], pa.int8()), "bigint", [1, -1, None]),
        (pa.array([1, 300, -1], pa.int32()), "tinyint", [1, "unparsable", -1]),
        (pa.array([1.0, 2.5]), "int", ["unparsable", "unparsable"]),
        (pa.array([True, False, None]), "int", ["unparsable", "unparsable", None]),
        (pa.array([True, False, None]), "boolean", [True, False, None]),
        (pa.array([1, 0]), "boolean", [True, False]),
        (pa.array([Decimal("1.50"), Decimal("-2.00")]), "double", [1.5, -2.0]),
        (pa.array([Decimal("1.50")]), "string", ["1.50"]),
        (pa.array([0.1], pa.float32()), "double", [0.1]),
        (pa.array([0.1, 1e300]), "float", [pytest.approx(0.1), "unparsable"]),
        (pa.array([float("nan"), float("inf"), 1.0]), "double", ["unparsable", "unparsable", 1.0]),
        (pa.array([2**64 - 1], pa.uint64()), "bigint", ["unparsable"]),
        (pa.array(["a", "b", "a", None]).dictionary_encode(), "string", ["a", "b", "a", None]),
        (pa.array(["1", "x", None]).dictionary_encode(), "int", [1, "unparsable", None]),
        (pa.array(["a"], pa.large_string()), "string", ["a"]),
        (pa.array([b"a"], pa.binary()), "string", ["a"]),
        (pa.array([None, None]), "int", [None, None]),
        (pa.array([None, None]), "string", [None, None]),
        (pa.array([date(2024, 5, 1)]), "date", [date(2024, 5, 1)]),
        (pa.array([date(2024, 5, 1)]), "string", ["2024-05-01"]),
        (pa.array([datetime(2024, 5, 1, 12)]), "timestamp", [datetime(2024, 5, 1, 12)]),
        (pa.array([date(2024, 5, 1)]), "timestamp", [datetime(2024, 5, 1)]),
        (pa.array(["2024-05-01T01:00:00+02:00"]), "timestamp", [datetime(2024, 4, 30, 23)]),
        (pa.array([[1, 2]]), "string", ["[1,2]"]),
        (pa.array([{"a": 1.5}]), "string", ['{"a":1.5}']),
    ],
)
def test_types(values: pa.Array, type_: str, expected: list[Any], tmp_path: Path) -> None:
    source = replace(THINGS, columns=(Column("v", type_), Column("n", "bigint")))
    table = pa.table({"v": values, "n": range(len(values))})
    found = judged(declared(source), written(table, tmp_path / "a"))
    got = dict(values_of(found, "n_", "v_"))
    bad = {json.loads(row)["n"] for row in reasons_of(found)}
    assert all(reasons == ["unparsable:v"] for reasons in reasons_of(found).values())
    assert ["unparsable" if n in bad else got[n] for n in range(len(values))] == expected


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_a_timestamp_with_a_zone_is_the_moment_in_utc(
    unit: str, zone: str | None, tmp_path: Path
) -> None:
    moments = pa.array([1_714_550_400, None, -1], pa.int64()).cast(pa.timestamp("s"))
    moments = pa.array(moments.cast(pa.int64()), pa.timestamp("s", zone)).cast(
        pa.timestamp(unit, zone)
    )
    source = replace(THINGS, columns=(Column("t", "timestamp"), Column("u", "string")))
    table = pa.table({"t": moments, "u": ["", "", ""]})
    found = judged(declared(source), written(table, tmp_path / "a"))
    assert values_of(found, "t_") == [
        datetime(2024, 5, 1, 8),
        None,
        datetime(1969, 12, 31, 23, 59, 59),
    ]


def test_texts_that_are_no_utf8(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff\xc3", None, b"caf\xe9"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 4, texts.buffers())
    found = judged(
        declared(THINGS), written(pa.table({"id": [1, 2, 3, 4], "name": bad}), tmp_path / "a")
    )
    assert values_of(found, "id_", "name_") == [(1, "a"), (3, None)]
    rows = found.refused.to_pylist()
    assert [json.loads(row["raw"]) for row in rows] == [
        {"id": 2, "name": "\\xFFC3"},
        {"id": 4, "name": "\\x636166E9"},
    ]
    assert [row["reasons"] for row in rows] == [["encoding"], ["encoding"]]


def test_several_row_groups_are_the_file(tmp_path: Path) -> None:
    table = pa.table({"id": range(100), "name": [str(n) for n in range(100)]})
    for format_, more in (("parquet", {"row_group_size": 7}), ("orc", {"stripe_size": 64})):
        source = replace(THINGS, format=format_)  # type: ignore[arg-type]
        files = files_of(written(table, tmp_path / format_, format_, **more))
        for piece_bytes in (1, 300, 1 << 40):
            raw = raw_rows(source, files, piece_bytes)
            assert raw["id"].to_pylist() == [*range(100)]
            assert not any(marks_of(raw))


NESTED = Source(
    "nested",
    format="parquet",
    columns=(
        Column("id", "bigint"),
        Column("name", "string", path="user.name"),
        Column("city", "string", path="user.address.city"),
    ),
)


@pytest.mark.parametrize("format_", ["parquet", "orc"])
def test_nested_columns(format_: Any, tmp_path: Path) -> None:
    rows = [
        {"id": 1, "user": {"name": "ann", "address": {"city": "Bonn"}}},
        {"id": 2, "user": {"name": None, "address": None}},
        {"id": 3, "user": None},
    ]
    file = written(pa.Table.from_pylist(rows), tmp_path / "a", format_)
    source = replace(NESTED, format=format_)
    found = judged(declared(source), file)
    assert values_of(found, "id_", "name_", "city_") == [
        (1, "ann", "Bonn"),
        (2, None, None),
        (3, None, None),
    ]
    other = replace(source, columns=(*NESTED.columns, Column("zip", "int", path="user.zip")))
    with pytest.raises(DataRefused, match=r"missing user\.zip; unknown none"):
        judged(declared(other), file)


@pytest.mark.parametrize("format_", ["parquet", "orc"])
def test_a_file_with_other_columns_is_refused_by_name(format_: Any, tmp_path: Path) -> None:
    source = replace(THINGS, format=format_)
    written(pa.table({"id": [1], "name": ["x"]}), tmp_path / "good", format_)
    written(pa.table({"id": [1], "nome": ["x"]}), tmp_path / "other", format_)
    with pytest.raises(DataRefused, match=r"other: .* missing name; unknown nome"):
        raw_rows(source, files_of(tmp_path))
    (tmp_path / "torn").write_bytes((tmp_path / "good").read_bytes()[:-7])
    with pytest.raises(DataRefused, match="torn cannot be read"):
        raw_rows(source, files_of(tmp_path / "torn"))
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(DataRefused, match="empty cannot be read"):
        raw_rows(source, files_of(tmp_path / "empty"))
    no_rows = pa.table({"id": pa.array([], pa.int64()), "name": pa.array([], pa.string())})
    written(no_rows, tmp_path / "no_rows", format_)
    assert raw_rows(source, files_of(tmp_path / "no_rows")).num_rows == 0
