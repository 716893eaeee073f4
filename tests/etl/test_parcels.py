"""Parcels: what a task sends to a part arrives there, in its order, however it is cut and held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.etl import parcels as module
from jobs.etl.parcels import gathered, opened, parcels, received

SCHEMA = pa.schema(
    [
        pa.field("n", pa.int64(), nullable=False),
        ("x", pa.float32()),
        ("text", pa.string()),
        ("list", pa.list_(pa.int32())),
        ("bytes", pa.binary()),
    ]
)


def _row(n: int) -> dict[str, Any]:
    """Nulls, empty values and long ones among them."""
    return {
        "n": n,
        "x": None if n % 3 == 0 else n / 7,
        "text": None if n % 5 == 0 else "é" * (n % 4),
        "list": [] if n % 2 else list(range(n % 6)),
        "bytes": b"\0" * (n % 11) if n % 7 else None,
    }


def _handed_over(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """As Spark hands them over: by part."""
    table = pa.Table.from_batches(batches).sort_by("part")
    yield from table.to_batches(max_chunksize=3)


@pytest.mark.parametrize("held_bytes", [0, 500, 1 << 30])
@pytest.mark.parametrize("parcel_bytes", [1, 300, 1 << 30])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_each_part_gets_its_rows_in_order(
    monkeypatch: pytest.MonkeyPatch, held_bytes: int, parcel_bytes: int, data: st.DataObject
) -> None:
    monkeypatch.setattr(module, "_HELD_BYTES", held_bytes)
    monkeypatch.setattr(module, "_PARCEL_BYTES", parcel_bytes)
    part = st.sampled_from([0, 1, 2, 7, 70_000])
    parts = np.array(data.draw(st.lists(part, min_size=1, max_size=60)), np.int32)
    first = data.draw(st.integers(0, 20))
    rows = pa.Table.from_pylist([_row(first + n) for n in range(len(parts))], schema=SCHEMA)
    order = data.draw(st.none() | st.permutations(range(len(parts))))
    sent = parcels(rows, parts, None if order is None else np.array(order))
    found = {
        number: pa.Table.from_batches(opened(contents, SCHEMA)).to_pylist()
        for number, contents in received(_handed_over(sent))
    }
    expected: dict[int, list[dict[str, Any]]] = {}
    for place in order or range(len(parts)):
        expected.setdefault(int(parts[place]), []).append(rows.slice(place, 1).to_pylist()[0])
    assert list(found) == sorted(expected)
    for number, own in expected.items():
        # Parcels of one part come in no order, but each in its own.
        assert sorted(map(repr, found[number])) == sorted(map(repr, own))
        if parcel_bytes == 1 << 30:
            assert found[number] == own


def test_rows_gathered_are_the_rows_that_came() -> None:
    tables = [pa.table({"x": np.arange(n, n + 5)}) for n in range(0, 50, 5)]
    (together,) = gathered(iter(tables))
    assert together["x"].to_pylist() == list(range(50))
    assert list(gathered(iter([]))) == []
