"""Laws 5 and 6 on real shards: order, every row once, every value."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.base.errors import ConfigError
from jobs.batch.layout import batch_from_arrow
from jobs.lake.examples import Examples
from jobs.settings.train import StreamSettings
from jobs.train.read.decode import DecodeWorker
from jobs.train.read.row_copier import RowCopier
from jobs.train.read.stream import Stream
from tests.builders.examples import CLICKS, columns_of, write_examples
from tests.builders.streams import (
    ROWS,
    UNEVEN,
    global_batches,
    rows_of,
    steps_of,
    stream_of,
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), UNEVEN)


@pytest.fixture(scope="module")
def whole(examples: Examples) -> list[int]:
    """The uninterrupted epoch 0 of one rank."""
    return rows_of(examples)


# Order, and every row once


def test_an_epoch_is_a_permutation_of_the_rows(examples: Examples, whole: list[int]) -> None:
    # Ids 0 .. 63 are those of the test split.
    assert sorted(whole) == list(range(64, 64 + ROWS))
    assert whole != sorted(whole)


@pytest.mark.parametrize("size", [2, 3, 5, 7, 16])
def test_any_number_of_ranks_gives_the_same_global_batches(
    examples: Examples, whole: list[int], size: int
) -> None:
    batches = global_batches(examples, size)

    assert batches == [whole[low : low + 64] for low in range(0, ROWS, 64)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority")
def test_reading_yields_to_the_thread_that_trains(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    nices: list[int] = []

    def seen(own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            nices.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return own(*given)

        return call

    monkeypatch.setattr(DecodeWorker, "_with_retries", seen(DecodeWorker._with_retries))
    monkeypatch.setattr(RowCopier, "_copy", seen(RowCopier._copy))
    for _ in stream_of(examples).epoch(0):
        pass

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert nices and set(nices) == {min(own + 10, 19)}


def test_ranks_own_streams_and_positions_say_which(examples: Examples) -> None:
    for pieces in steps_of(examples, 3):
        for rank, piece in enumerate(pieces):
            streams = piece.position[piece.is_row] % 16
            first, end = 16 * rank // 3, 16 * (rank + 1) // 3
            assert ((first <= streams) & (streams < end)).all()
            assert (piece.position[piece.is_row].diff() > 0).all()


def test_ranks_without_rows_take_the_step_with_padding(tmp_path: Path) -> None:
    examples = write_examples(tmp_path, {("2026-01-01", "train"): [[18]]})

    steps = steps_of(examples, 16, batch_rows=16)

    assert [sum(piece.rows for piece in pieces) for pieces in steps] == [16, 2]
    for piece in steps[1][2:]:
        assert (len(piece), piece.rows, float(piece.weight.sum())) == (1, 0, 0.0)


def test_fewer_rows_than_streams_and_none_at_all(tmp_path: Path) -> None:
    few = write_examples(tmp_path, {("2026-01-01", "train"): [[3]]})
    none = stream_of(few, split="val")

    assert sorted(rows_of(few, 5)) == [0, 1, 2]
    assert (none.rows, none.steps(), list(none.epoch(0))) == (0, 0, [])


def test_epochs_and_seeds_differ_and_come_again(examples: Examples, whole: list[int]) -> None:
    orders = [rows_of(examples, epoch=epoch, seed=seed) for seed in (0, 7) for epoch in (0, 1)]

    assert orders[2] == whole
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == sorted(whole) for order in orders)


def test_threads_and_memory_change_nothing(examples: Examples, whole: list[int]) -> None:
    assert rows_of(examples, decode_threads=1, memory_mb=12) == whole
    assert rows_of(examples, decode_threads=7, memory_mb=4000) == whole


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    layout=st.lists(st.lists(st.integers(0, 30), max_size=5), min_size=1, max_size=4),
    size=st.integers(1, 5),
    piece=st.integers(1, 4),
    window_rows=st.integers(1, 40),
    start=st.integers(0, 200),
)
def test_any_layout_and_any_start(
    tmp_path_factory: pytest.TempPathFactory,
    layout: list[list[int]],
    size: int,
    piece: int,
    window_rows: int,
    start: int,
) -> None:
    examples = write_examples(tmp_path_factory.mktemp("any"), {("2026-01-01", "train"): layout})
    rows = sum(map(sum, layout))
    start = min(start, rows)
    order: dict[str, Any] = {"streams": 5, "window_rows": window_rows}

    whole = rows_of(examples, 1, batch_rows=5, **order)
    rest = global_batches(examples, size, batch_rows=5 * piece, start_row=start, **order)

    assert sorted(whole) == list(range(rows))
    assert rest == [whole[low : low + 5 * piece] for low in range(start, rows, 5 * piece)]


# What is read


def test_batches_that_are_kept_stay_as_they_were(tmp_path: Path) -> None:
    """The memory of a block of batches is used again only when all its batches are gone."""
    place = ("2026-01-01", "train")
    examples = write_examples(tmp_path, {place: [[4_000] * 5]})
    stream = stream_of(examples, batch_rows=512)
    fresh = [batch.dense.clone() for batch in stream.epoch(0)]

    every_other = [batch for n, batch in enumerate(stream.epoch(0)) if n % 2]
    ids = torch.cat([batch.row_id for batch in stream.epoch(0)])
    del stream

    assert len(fresh) == 40
    for batch, before in zip(every_other, fresh[1::2], strict=True):
        torch.testing.assert_close(batch.dense, before, rtol=0, atol=0, equal_nan=True)
    assert sorted(ids.tolist()) == list(range(20_000))


def test_every_value_is_that_of_its_row(examples: Examples) -> None:
    for batch in stream_of(examples).epoch(0):
        expected = batch_from_arrow(columns_of(batch.row_id.numpy()), CLICKS)
        torch.testing.assert_close(batch.dense, expected.dense, rtol=0, atol=0, equal_nan=True)
        for name in ("sparse", "label", "weight"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))


def test_splits_and_dates_select(examples: Examples) -> None:
    assert sorted(rows_of(examples, split="test")) == list(range(64))
    assert stream_of(examples, first_ds="2026-01-02").rows == 65 * 12 + 9
    assert sorted(rows_of(examples, last_ds="2026-01-01")) == list(range(64, 2069))


def test_partition_columns_select(examples: Examples) -> None:
    both = {"ds": ["2026-01-01", "2026-01-02"], "split": ["test", "train"]}
    assert sorted(rows_of(examples, split=None, where=both)) == list(range(64 + ROWS))
    assert sorted(rows_of(examples, where={"ds": "2026-01-01"})) == list(range(64, 2069))
    with pytest.raises(ConfigError, match=r"names label, which.*\n.*here ds, split"):
        stream_of(examples, where={"label": 1})


def test_columns_are_projected(examples: Examples) -> None:
    batch = next(stream_of(examples, columns=["price", "ad"]).epoch(0))

    expected = batch_from_arrow(columns_of(batch.row_id.numpy()), CLICKS)
    assert torch.equal(batch.sparse, expected.sparse[:, :1])
    torch.testing.assert_close(batch.dense, expected.dense[:, 1:], equal_nan=True)


def test_settings_give_the_same_stream(examples: Examples, whole: list[int]) -> None:
    section = StreamSettings(streams=16, window_rows=50)

    stream = Stream.from_settings(examples, CLICKS, section, split="train", batch_rows=64)

    assert [row for batch in stream.epoch(0) for row in batch.row_id.tolist()] == whole
