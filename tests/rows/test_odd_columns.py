"""Parquet columns with what DuckDB has no type, no text or no time for."""

from __future__ import annotations

import gc
import json
import warnings
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.base.errors import DataRefused
from jobs.rows.judge.judged import Judged
from schemas.dataset import Column, Source
from tests.rows.engines import files_of, judged, raw_rows, reasons_of, values_of
from tests.rows.test_columnar import declared

MOST, LEAST = 2**63 - 1, -(2**63)
EPOCH, MICRO = datetime(1970, 1, 1), timedelta(microseconds=1)


def found_of(
    values: pa.Array | pa.ChunkedArray, type_: str, folder: Path, **writing: Any
) -> Judged:
    source = Source("odd", (Column("v", type_), Column("n", "bigint")), format="parquet")
    table = pa.table({"v": values, "n": range(len(values))})
    pq.write_table(table, folder / "a", **writing)
    return judged(declared(source), folder / "a")


def utf8_or_not(*texts: bytes) -> pa.Array:
    """Texts as a broken writer leaves them."""
    return pa.Array.from_buffers(pa.string(), len(texts), pa.array(texts, pa.binary()).buffers())


def test_moments_of_twelve_bytes_are_those_of_eight(tmp_path: Path) -> None:
    # As Spark writes them by default.
    moments = [datetime(9999, 12, 31), datetime(1, 1, 1), datetime(2024, 5, 1, 12, 0, 0, 7), None]
    found = found_of(
        pa.array(moments, pa.timestamp("us")),
        "timestamp",
        tmp_path,
        use_deprecated_int96_timestamps=True,
    )
    assert values_of(found, "v_") == moments


@pytest.mark.parametrize(
    ("type_", "declared_", "odd", "sound"),
    [
        # Parquet keeps seconds as milliseconds.
        (pa.timestamp("s"), "timestamp", (2**50, -(2**50)), (0, EPOCH)),
        (pa.timestamp("ms"), "timestamp", (MOST, LEAST, 2**62), (1, EPOCH + 1_000 * MICRO)),
        (pa.timestamp("us"), "timestamp", (MOST, -MOST, LEAST), (-1, EPOCH - MICRO)),
        (pa.timestamp("us", "Asia/Tokyo"), "timestamp", (MOST, LEAST), (1, EPOCH + MICRO)),
        (pa.timestamp("ns"), "timestamp", (MOST, -MOST), (1999, EPOCH + MICRO)),
        (pa.timestamp("ns"), "timestamp", (LEAST,), (-1, EPOCH - MICRO)),
        (pa.timestamp("ns", "Asia/Tokyo"), "timestamp", (MOST,), (-1999, EPOCH - 2 * MICRO)),
        (pa.date32(), "date", (2**31 - 1, 2_932_897), (2_932_896, date(9999, 12, 31))),
        (pa.date32(), "timestamp", (2**31 - 1, -(2**31)), (0, EPOCH)),
    ],
)
def test_a_moment_of_no_year_is_unparsable_alone(
    type_: pa.DataType, declared_: str, odd: tuple[int, ...], sound: tuple[int, Any], tmp_path: Path
) -> None:
    number = pa.int32() if type_ == pa.date32() else pa.int64()
    values = pa.array([*odd, sound[0], None], number).cast(type_)
    found = found_of(values, declared_, tmp_path)
    assert values_of(found, "v_") == [sound[1], None]
    assert [*reasons_of(found).values()] == [["unparsable:v"]] * len(odd)
    shown = [json.loads(row)["v"] for row in reasons_of(found)]
    assert all(text.endswith(" from 1970") for text in shown)
    # Beside nothing odd, and in the same process.
    alone = found_of(values.slice(len(odd)), declared_, tmp_path)
    assert values_of(alone, "v_") == [sound[1], None]


def test_moments_inside_nested_values(tmp_path: Path) -> None:
    kind = pa.list_(pa.struct([("t", pa.timestamp("us")), ("name", pa.string())]))
    rows = [[{"t": 5, "name": "é"}], [{"t": MOST, "name": "é"}], None]
    moments = pa.array(rows, pa.list_(pa.struct([("t", pa.int64()), ("name", pa.string())])))
    found = found_of(moments.cast(kind), "string", tmp_path)
    assert values_of(found, "v_") == [
        '[{"t":"1970-01-01 00:00:00.000005","name":"é"}]',
        f'[{{"t":{MOST},"name":"é"}}]',
        None,
    ]


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"caf\xe9"])
def test_nested_texts_that_are_no_utf8_refuse_their_row_alone(bad: bytes, tmp_path: Path) -> None:
    texts = utf8_or_not(b"ok", bad, "é".encode(), b"x")
    shown = "".join(chr(c) if c < 128 else f"\\x{c:02X}" for c in bad)
    lists = pa.ListArray.from_arrays([0, 2, 3, 4], texts)
    nested = {
        "list": (lists, ["ok", shown]),
        "struct": (pa.StructArray.from_arrays([lists], ["a"]), {"a": ["ok", shown]}),
        "map": (
            pa.MapArray.from_arrays([0, 2, 3, 4], pa.array("abcd"), texts),
            {"a": "ok", "b": shown},
        ),
    }
    for values, expected in nested.values():
        found = found_of(values, "string", tmp_path)
        assert [json.loads(row) for row in reasons_of(found)] == [{"v": expected, "n": 0}]
        assert [*reasons_of(found).values()] == [["encoding"]]
        assert values_of(found, "n_") == [1, 2]
        assert "é" in values_of(found, "v_")[0]


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        (pa.array([Decimal("1.5"), None], pa.decimal256(50, 2)), "double", [1.5, None]),
        (pa.array([Decimal("1.5")], pa.decimal256(50, 2)), "string", ["1.50"]),
        (pa.array([Decimal("12")], pa.decimal256(50, 0)), "bigint", [12]),
        (pa.array([1.5, None], pa.float16()), "double", [1.5, None]),
        (pa.array([1.5], pa.float16()), "float", [1.5]),
        (pa.array([[1.5]], pa.list_(pa.float16())), "string", ["[1.5]"]),
        (pa.array([[Decimal("1.5")]], pa.list_(pa.decimal256(50, 2))), "string", ['["1.50"]']),
        (
            pa.array([[("a", 1.5), ("b", None)], None], pa.map_(pa.string(), pa.float16())),
            "string",
            ['{"a":1.5,"b":null}', None],
        ),
        (pa.array([["a", "b"]], pa.large_list(pa.string_view())), "string", ['["a","b"]']),
    ],
)
def test_types_that_duckdb_has_not(
    values: pa.Array, type_: str, expected: list[Any], tmp_path: Path
) -> None:
    found = found_of(values, type_, tmp_path)
    assert reasons_of(found) == {}
    assert values_of(found, "v_") == expected


def test_values_that_nothing_can_show_refuse_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="a cannot be read: Conversion"):
        found_of(pa.array([MOST], pa.duration("s")), "string", tmp_path)


def test_a_file_that_is_none_stays_not_open(tmp_path: Path) -> None:
    (tmp_path / "torn").write_bytes(b"PAR1 and no more")
    source = Source("odd", (Column("v", "string"),), format="parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for format_ in ("parquet", "orc"):
            with pytest.raises(DataRefused, match="torn cannot be read"):
                raw_rows(replace(source, format=format_), files_of(tmp_path))  # type: ignore[arg-type]
        gc.collect()


@pytest.mark.slow
def test_a_row_group_of_more_than_two_gib_is_refused(tmp_path: Path) -> None:
    long = pa.chunked_array([pa.array(["x" * (64 << 20)])] * 40)
    with pytest.raises(DataRefused, match="row group has more than 2 GiB of texts"):
        found_of(long, "string", tmp_path, compression="zstd")
