"""Slices: a rank has whole ones, and a tree adds them up in one order at any number of ranks."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.base.errors import ConfigError
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.exchange.ordered import PartialSums
from jobs.train.order.share import RankShare
from jobs.train.order.slices import Slices, nodes_of
from tests.builders.batches import in_ranks

calm = settings(deadline=None)


@calm
@given(count=st.integers(2, 40), width=st.integers(1, 4), size=st.integers(1, 40))
def test_each_slice_and_its_streams_have_one_rank(count: int, width: int, size: int) -> None:
    size = min(size, count)
    shares = [Slices(count, count * width, rank, size) for rank in range(size)]
    assert [number for own in shares for number in own.owned] == list(range(count))
    assert [stream for own in shares for stream in own.owned_streams] == list(range(count * width))
    assert all(len(own.owned) for own in shares)
    for own in shares:
        share = RankShare(1000, count * width, count * width, own.rank, size, count)
        assert share.owned.tolist() == list(own.owned_streams)


@calm
@given(count=st.integers(1, 70), begin=st.integers(0, 70))
def test_nodes_are_the_slices_once_in_order_and_as_few_as_can_be(count: int, begin: int) -> None:
    nodes = nodes_of(range(begin, begin + count))
    covered = [n for node in nodes for n in range(node.first, node.first + node.width)]
    assert covered == list(range(begin, begin + count))
    assert all(node.width.bit_count() == 1 and node.first % node.width == 0 for node in nodes)
    assert not any(a.is_left_of(b) for a, b in itertools.pairwise(nodes))


@pytest.mark.parametrize("count", [2, 5, 6, 8])
def test_sums_have_the_same_bits_at_any_number_of_ranks(count: int) -> None:
    values = torch.randn(count, 1000, generator=torch.Generator().manual_seed(1))

    def work(exchange: Exchange) -> list[torch.Tensor]:
        slices = Slices(count, count, exchange.rank, exchange.size)
        sums = PartialSums(exchange, slices)
        for number in slices.owned:
            sums.add([values[number, :600].view(2, 300), values[number, 600:]])
        return sums.start().result()

    known = work(Alone())
    assert [tuple(own.shape) for own in known] == [(2, 300), (400,)]
    flat = torch.cat([own.reshape(-1) for own in known])
    assert torch.allclose(flat, values.double().sum(0).float(), atol=1e-5)
    for size in range(2, count + 1):
        for found in in_ranks(work, size):
            assert all(torch.equal(own, of) for own, of in zip(found, known, strict=True))


def test_the_order_is_that_of_pairs() -> None:
    values = torch.tensor([1e8, 1.0, -1e8, 1.0, 0.5])
    sums = PartialSums(Alone(), Slices(5, 5))
    for value in values:
        sums.add([value.view(1)])
    (total,) = sums.start().result()
    # (1e8 + 1) is 1e8 in float32, and so is its negative.
    assert total.item() == 0.5


def test_more_ranks_than_slices_are_refused_by_both_numbers() -> None:
    with pytest.raises(
        ConfigError, match=r"3 ranks .*, 2 slices \(train\.gradient_slices\)"
    ) as own:
        RankShare(1000, 64, 128, rank=0, size=3, gradient_slices=2)
    assert own.value.exit_code == 2


def test_streams_that_slices_cannot_share_are_refused_by_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"stream\.streams is 64, train\.gradient_slices 6"):
        RankShare(1000, 64, 128, rank=0, size=2, gradient_slices=6)
