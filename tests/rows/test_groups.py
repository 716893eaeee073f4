"""Groups of rows: all rows once, in order, within both limits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.rows.base.groups import ChunkedRows, bytes_of_rows, cut_rows


@given(st.lists(st.integers(0, 9)), st.integers(1, 7), st.integers(1, 20))
def test_groups_are_as_large_as_the_limits_let_them(
    sizes: list[int], most_rows: int, most_bytes: int
) -> None:
    groups = list(cut_rows(np.array(sizes, np.int64), most_rows, most_bytes))
    assert [row for group in groups for row in range(group.start, group.stop)] == list(
        range(len(sizes))
    )
    for group in groups:
        own = sizes[group]
        assert len(own) == 1 or (len(own) <= most_rows and sum(own) <= most_bytes)
        if group.stop < len(sizes):
            assert len(own) == most_rows or sum(own) + sizes[group.stop] > most_bytes


def test_a_rows_bytes_are_those_of_its_values() -> None:
    rows = pa.table(
        {
            "number": pa.array([1, 2, None], pa.int32()),
            "text": ["ab", None, "abcd"],
            "image": pa.array([b"", b"xyz", b"x"]),
            "ids": pa.array([[1], [1, 2], None], pa.list_(pa.int64())),
        }
    )
    assert bytes_of_rows(rows).tolist() == [4 + 2 + 8, 4 + 3 + 16, 4 + 4 + 1]
    (batch,) = rows.slice(1).to_batches()
    assert bytes_of_rows(batch).tolist() == [4 + 3 + 16, 4 + 4 + 1]


@given(st.lists(st.integers(0, 29), max_size=40), st.lists(st.integers(0, 12), max_size=3))
def test_rows_of_many_chunks_are_taken_as_of_one(places: list[int], cuts: list[int]) -> None:
    table = pa.table({"n": np.arange(30), "text": [["a" * (n % 5)] * (n % 3) for n in range(30)]})
    edges = [0, *np.cumsum(cuts).clip(0, 30).tolist(), 30]
    chunks = pa.concat_tables([table.slice(a, b - a) for a, b in pairwise(edges)])
    asked = np.array(places, np.int64)
    assert ChunkedRows(chunks).take(asked).equals(table.take(asked))


def test_rows_are_taken_of_more_texts_than_an_array_holds() -> None:
    one = pa.array(["x" * (1 << 20)] * 64)
    rows = ChunkedRows(pa.table({"text": pa.chunked_array([one] * 40)}))
    assert rows.take(np.array([2559, 0])).num_rows == 2
