"""Groups of rows: all rows once, in order, within both limits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.rows.base.groups import ChunkedRows, bytes_of_rows, cut_rows, portions, texts_of


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


def test_values_behind_a_dictionary_count_as_what_they_are() -> None:
    coded = pa.chunked_array([["ab", None, "abcd"], ["ab"]]).dictionary_encode()
    rows = pa.table({"text": coded, "none": pa.nulls(4, pa.string()).dictionary_encode()})
    assert bytes_of_rows(rows).tolist() == [2, 0, 4, 2]
    assert texts_of(pa.schema([("text", pa.string()), ("n", pa.int32())])) == ["text"]


@pytest.mark.slow
def test_rows_whose_dictionary_hides_more_than_an_array_holds_come_in_portions() -> None:
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_500, np.int32)), ["x" * (1 << 20)])
    rows = pa.table({"text": text, "n": np.arange(2_500)})
    found = list(portions(rows, ["text"]))
    assert [part.num_rows for part in found] == [512] * 4 + [452]
    assert all(part["text"].cast(pa.string()).num_chunks == 1 for part in found)
