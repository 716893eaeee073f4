"""What ranks add up: sums and rows of tables, for any rows on any number of ranks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jobs.train.exchange import exchange as exchanges
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.exchange.packing import pack_ids, rounded, unpack_ids
from jobs.train.exchange.rows import TableRows
from tests.builders.batches import in_ranks
from tests.builders.devices import DEVICES

TABLE_ROWS = 40
ids_of_ranks = st.lists(
    st.lists(st.integers(0, TABLE_ROWS - 1), max_size=60), min_size=1, max_size=4
)


def values_for(ids: list[int], seed: int) -> Tensor:
    """Whole numbers, so that every order of adding up gives the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-9, 9, (len(ids), 3), generator=generator).double()


def merged(sent: list[TableRows], dtype: torch.dtype | None, exchange: Exchange) -> TableRows:
    return exchange.start_rows("table", [sent[exchange.rank]], dtype).result()


def in_all(sent: list[TableRows], dtype: torch.dtype | None) -> list[TableRows]:
    if len(sent) == 1:
        return [merged(sent, dtype, Alone())]
    return in_ranks(partial(merged, sent, dtype), len(sent))


@given(ids_of_ranks, st.sampled_from([torch.float64, torch.float32]), st.sampled_from(DEVICES))
def test_rows_of_all_ranks_are_added_up_by_id(
    ids: list[list[int]], dtype: torch.dtype, device: str
) -> None:
    values = [values_for(of_rank, seed) for seed, of_rank in enumerate(ids)]
    expected = torch.zeros(TABLE_ROWS, 3, dtype=torch.float64)
    for of_rank, own in zip(ids, values, strict=True):
        expected.index_add_(0, torch.tensor(of_rank, dtype=torch.int64), own)
    sent = [
        TableRows(torch.tensor(of_rank, dtype=torch.int64, device=device), own.to(device, dtype))
        for of_rank, own in zip(ids, values, strict=True)
    ]
    touched = sorted({i for of_rank in ids for i in of_rank})
    for found in in_all(sent, None):
        assert found.ids.tolist() == touched
        assert found.values.dtype == dtype
        assert torch.equal(found.values.cpu().double(), expected[touched])


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("device", DEVICES)
def test_sums_sent_as_float16_are_rounded_and_added_up_in_float32(size: int, device: str) -> None:
    ids = torch.tensor([7, 7, 2], device=device)
    # 1 + 2^-12 is no float16, and 2^-12 twice is nothing beside 1 in it.
    values = torch.tensor([[1.0], [2**-12], [1e6]], device=device)
    first, *others = in_all([TableRows(ids, values)] * size, torch.float16)
    assert first.values.dtype == torch.float32
    assert first.values.flatten().tolist() == [65_504.0 * size, 1.0 * size]
    assert all(torch.equal(first.values, other.values) for other in others)


def test_a_sum_of_small_numbers_sent_as_float16_is_not_lost() -> None:
    ids, values = torch.tensor([0]), [torch.tensor([[x]]) for x in (1.0, 2**-11, 2**-11)]
    for found in in_all([TableRows(ids, value) for value in values], torch.float16):
        assert found.values.tolist() == [[1 + 2**-10]]


def summed(tensors: list[list[Tensor]], exchange: Exchange) -> list[Tensor]:
    return exchange.start_sums(tensors[exchange.rank]).result()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.int32])
@pytest.mark.parametrize("small_bytes", [0, 1 << 20], ids=["allreduce", "allgather"])
def test_sums_keep_shapes_and_dtype(
    dtype: torch.dtype, small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "_ALLGATHER_BYTES", small_bytes)
    tensors = [
        [torch.full((2, 3), rank + 1, dtype=dtype), torch.tensor(10 * rank, dtype=dtype)]
        for rank in range(3)
    ]
    for first, second in in_ranks(partial(summed, tensors), 3):
        assert torch.equal(first, torch.full((2, 3), 6, dtype=dtype))
        assert torch.equal(second, torch.tensor(30, dtype=dtype))
        assert first.dtype == second.dtype == dtype


# What is sent


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=200), min_size=1, max_size=4))
def test_packed_ids_of_all_ranks_are_told_apart(ids: list[list[int]]) -> None:
    sent = [torch.tensor(of_rank, dtype=torch.int32) for of_rank in ids]
    packed = torch.cat([pack_ids(of_rank) for of_rank in sent])
    assert [found.tolist() for found in unpack_ids(packed)] == ids


@given(st.integers(0, 10**7))
def test_rounded_lengths_are_few_and_near(length: int) -> None:
    found = rounded(length)
    assert length <= found <= length * 17 / 16
    assert rounded(found) == found
    assert len({rounded(n) for n in range(length, 2 * length, max(1, length // 100))}) <= 34


# Pieces for each rank


def swapped(pieces: list[list[list[int]]], exchange: Exchange) -> list[list[int]]:
    own = [torch.tensor(piece, dtype=torch.int32) for piece in pieces[exchange.rank]]
    return [piece.tolist() for piece in exchange.start_alltoall("pieces", own).result()]


def test_each_rank_gets_the_pieces_for_it_also_those_without_values() -> None:
    pieces = [[[1], [2, 3], []], [[], [], []], [[4, 5], [], [6]]]
    assert in_ranks(partial(swapped, pieces), 3) == [
        [[1], [], [4, 5]],
        [[2, 3], [], []],
        [[], [], [6]],
    ]
    assert swapped([[[7, 8]]], Alone()) == [[7, 8]]
