"""Buckets: each row of a table has one place, at any number of ranks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.base.errors import ConfigError
from jobs.models.tables.buckets import Buckets

tables = st.builds(Buckets, st.integers(0, 300), st.integers(1, 40))


@given(tables, st.data())
def test_each_row_is_in_one_piece_where_places_says(buckets: Buckets, data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, buckets.count))
    seen = []
    for rank in range(ranks):
        ids = buckets.ids(rank, ranks)
        assert len(ids) == buckets.piece_rows(rank, ranks)
        assert torch.equal(buckets.owners(ids, ranks), torch.full_like(ids, rank))
        assert torch.equal(buckets.places(ids, ranks), torch.arange(len(ids)))
        seen.append(ids)
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(buckets.rows))


@given(tables, st.data())
def test_a_bucket_is_a_slice_of_its_owners_piece(buckets: Buckets, data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, buckets.count))
    for bucket in range(buckets.count):
        begin, rows = buckets.begin(bucket, ranks), buckets.rows_of(bucket)
        ids = buckets.ids(bucket % ranks, ranks)[begin : begin + rows]
        assert ids.tolist() == list(range(bucket, buckets.rows, buckets.count))


@given(st.integers(1, 64), st.integers(0, 10_000), st.integers(1, 10_000))
def test_a_row_keeps_its_bucket_and_slot_when_the_table_grows(
    count: int, rows: int, more: int
) -> None:
    small, large = Buckets(rows, count), Buckets(rows + more, count)
    for bucket in range(count):
        found = large.ids(bucket, count)[: small.rows_of(bucket)]
        assert torch.equal(found, small.ids(bucket, count))


def test_more_ranks_than_buckets_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.table_buckets"):
        Buckets(100, 4).owned(0, 5)
