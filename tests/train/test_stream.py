"""Laws 5, 6, 7 and 12 on real shards: order, every row once, resume, refusals within a deadline."""

from __future__ import annotations

import gc
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import ConfigError, DataRefused
from jobs.examples import Examples
from jobs.manifest import Shard
from jobs.sections import StreamSettings
from jobs.train.batch import Batch, batch_from_arrow
from jobs.train.decode import DecodeWorker, Selection
from jobs.train.reader import StoreTimeout
from jobs.train.stream import Stream
from schemas.dataset import Column, Dataset, Source
from schemas.field import Label, Numeric
from tests.builders.examples import CLICKS, columns_of, write_examples

# Row groups of 1, 7 and 997 rows, empty ones, an empty shard, a shard without row groups.
UNEVEN = {
    ("2026-01-01", "train"): [[997, 1, 7], [0], [], [500, 500]],
    ("2026-01-01", "test"): [[64]],
    ("2026-01-02", "train"): [[65] * 12, [1] * 9],
}
ROWS = 997 + 1 + 7 + 1000 + 65 * 12 + 9


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), UNEVEN)


def stream_of(examples: Examples, dataset: Dataset = CLICKS, **changes: Any) -> Stream:
    defaults = {"split": "train", "batch_rows": 64, "streams": 16, "window_rows": 50}
    return Stream(examples, dataset, **{**defaults, **changes})


def steps_of(
    examples: Examples, size: int, epoch: int = 0, start_row: int = 0, **changes: Any
) -> list[list[Batch]]:
    """For each step the pieces of all ranks; fails when ranks take unequal numbers of steps."""
    streams = [stream_of(examples, rank=rank, size=size, **changes) for rank in range(size)]
    epochs = [stream.epoch(epoch, start_row) for stream in streams]
    return [list(pieces) for pieces in zip(*epochs, strict=True)]


def global_batch(pieces: list[Batch]) -> list[int]:
    """Row ids of a global batch, in the order of their positions."""
    position = torch.cat([piece.position[piece.is_row] for piece in pieces])
    row_id = torch.cat([piece.row_id[piece.is_row] for piece in pieces])
    return [int(row) for row in row_id[position.argsort()]]


def global_batches(examples: Examples, size: int, **changes: Any) -> list[list[int]]:
    return [global_batch(pieces) for pieces in steps_of(examples, size, **changes)]


def rows_of(examples: Examples, size: int = 1, **changes: Any) -> list[int]:
    return [row for batch in global_batches(examples, size, **changes) for row in batch]


@pytest.fixture(scope="module")
def whole(examples: Examples) -> list[int]:
    """The uninterrupted epoch 0 of one rank."""
    return rows_of(examples)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The row groups that are decoded from now on: folder of the shard, and number there."""
    found: list[tuple[str, int]] = []
    decode = DecodeWorker._decoded

    def recorded(worker: DecodeWorker, shard: Shard, number: int) -> Iterator[pa.RecordBatch]:
        found.append((shard.path.split("/")[-2], number))
        return decode(worker, shard, number)

    monkeypatch.setattr(DecodeWorker, "_decoded", recorded)
    return found


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


def test_ranks_own_streams_and_positions_say_which(examples: Examples) -> None:
    for pieces in steps_of(examples, 3):
        for rank, piece in enumerate(pieces):
            streams = piece.position[piece.is_row] % 16
            assert (streams % 3 == rank).all()
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


# Resume


@pytest.mark.parametrize("start_row", [0, 64, 100, 1, 997, ROWS - 1, ROWS])
def test_resume_is_the_rest_with_other_ranks_and_batches(
    examples: Examples, whole: list[int], start_row: int
) -> None:
    rest = global_batches(examples, 3, batch_rows=32, start_row=start_row)

    assert rest == [whole[low : low + 32] for low in range(start_row, ROWS, 32)]
    assert len(rest) == stream_of(examples, batch_rows=32).steps(start_row)


def test_resume_again_and_again(examples: Examples, whole: list[int]) -> None:
    seen: list[int] = []
    for size, batch_rows in [(1, 64), (4, 16), (16, 128), (2, 48), (5, 64)] * 8:
        if len(seen) < ROWS:
            streams = [
                stream_of(examples, rank=rank, size=size, batch_rows=batch_rows)
                for rank in range(size)
            ]
            epochs = [stream.epoch(0, len(seen)) for stream in streams]
            seen += global_batch([next(epoch) for epoch in epochs])

    assert seen == whole[: len(seen)]
    assert len(seen) > 2000


def test_resume_reads_only_what_is_needed(tmp_path: Path) -> None:
    """Shards whose rows were all consumed may even be gone."""
    places = {("2026-01-01", "train"): [[10]] * 40}
    examples = write_examples(tmp_path, places)
    order: dict[str, Any] = {"streams": 2, "batch_rows": 20, "window_rows": 20}
    whole = rows_of(examples, **order)

    needed = {row // 10 for row in whole[200:]}
    consumed = set(range(40)) - needed
    for shard in consumed:
        next(Path(examples.url).glob(f"run=*/*/*/shard={shard}/*.parquet")).unlink()

    assert len(consumed) >= 15
    assert rows_of(examples, start_row=200, **order) == whole[200:]


@pytest.mark.parametrize("start_row", [0, 3, 120, 255, 390])
def test_a_start_in_the_middle_decodes_only_what_is_needed(
    tmp_path: Path, decoded: list[tuple[str, int]], start_row: int
) -> None:
    """Each row group once; the one that the bound of the two streams cuts may be needed twice."""
    examples = write_examples(tmp_path, {("2026-01-01", "train"): [[10, 7, 13]] * 13})
    order: dict[str, Any] = {"streams": 2, "batch_rows": 20, "window_rows": 20}
    ends = np.cumsum([10, 7, 13] * 13)
    whole = rows_of(examples, **order)
    decoded.clear()

    rest = rows_of(examples, start_row=start_row, **order)

    groups = np.unique(np.searchsorted(ends, whole[start_row:], side="right")).tolist()
    assert rest == whole[start_row:]
    assert set(decoded) == {(f"shard={group // 3}", group % 3) for group in groups}
    assert len(decoded) <= len(groups) + 1


def test_a_start_beyond_the_epoch_is_refused(examples: Examples) -> None:
    with pytest.raises(ValueError, match=f"start_row is {ROWS + 1}; the epoch has {ROWS} rows"):
        next(stream_of(examples).epoch(0, ROWS + 1))


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


def test_a_shared_row_group_is_decoded_once(tmp_path: Path, decoded: list[tuple[str, int]]) -> None:
    examples = write_examples(tmp_path, {("2026-01-01", "train"): [[500, 500]]})

    assert sorted(rows_of(examples)) == list(range(1000))
    assert sorted(decoded) == [("shard=0", 0), ("shard=0", 1)]


# Memory

NUMBERS = Dataset(
    name="numbers",
    sources=(Source("numbers", columns=(Column("key", "bigint"), Column("y", "double"))),),
    rows="numbers",
    key=("key",),
    fields=(Label("y"), *(Numeric(f"n{i}", "y") for i in range(60))),
)


def numbers(rows: int) -> pa.Table:
    columns: dict[str, pa.Array] = {"row_id": pa.array(np.arange(rows))}
    columns["key"] = columns["row_id"]
    for field in NUMBERS.fields:
        columns[field.name] = pa.array(np.arange(rows, dtype=np.float32) % 251)
    return pa.table(columns)


def test_the_budget_is_kept_by_shrinking_prefetch(tmp_path: Path) -> None:
    place = ("2026-01-01", "train")
    examples = write_examples(
        tmp_path,
        {place: [[5_000] * 60]},
        dataset=NUMBERS,
        tables={place: numbers(300_000)},
    )
    peaks = {}
    for memory_mb in (44, 400):
        stream = stream_of(
            examples, NUMBERS, streams=8, window_rows=5_000, batch_rows=512, memory_mb=memory_mb
        )
        pa.default_memory_pool().release_unused()
        tracemalloc.start()
        rows = sum(batch.rows for batch in stream.epoch(0))
        peaks[memory_mb] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == 300_000

    assert peaks[44] < 44 << 20 < peaks[400]


def test_epochs_leave_no_memory_behind(tmp_path: Path) -> None:
    """Without help from Python's collector of circles, which comes late for a few large arrays."""
    place = ("2026-01-01", "train")
    examples = write_examples(
        tmp_path, {place: [[5_000] * 4]}, dataset=NUMBERS, tables={place: numbers(20_000)}
    )
    stream = stream_of(examples, NUMBERS, streams=8, window_rows=2_000, batch_rows=512)
    left = []
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for epoch in range(5):
            assert sum(batch.rows for batch in stream.epoch(epoch)) == 20_000
            left.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        gc.enable()

    # Up to four blocks of batches, of half a megabyte, exist at once, and are kept.
    assert left[-1] - left[0] < 4 * 600_000


def test_what_cannot_fit_is_refused_naming_rows_bytes_and_settings(tmp_path: Path) -> None:
    place = ("2026-01-01", "train")
    examples = write_examples(
        tmp_path, {place: [[50_000]]}, dataset=NUMBERS, tables={place: numbers(50_000)}
    )

    with pytest.raises(ConfigError) as refused:
        stream_of(examples, NUMBERS, streams=4, window_rows=20_000, batch_rows=512, memory_mb=8)

    message = str(refused.value)
    assert "4 open windows of up to 12500 rows are 50000 rows" in message
    assert "8388608 bytes (stream.memory_mb)" in message
    assert "stream.window_rows" in message
    needed = int(message.split("raise stream.memory_mb to ")[1].split(",")[0])
    stream = stream_of(
        examples, NUMBERS, streams=4, window_rows=20_000, batch_rows=512, memory_mb=needed
    )
    assert sum(batch.rows for batch in stream.epoch(0)) == 50_000


# Refusals


def shard_file(examples: Examples, shard: int) -> Path:
    return next(Path(examples.url).glob(f"run=*/ds=2026-01-01/*/shard={shard}/*.parquet"))


@pytest.fixture
def own_examples(tmp_path: Path) -> Examples:
    return write_examples(tmp_path, {("2026-01-01", "train"): [[100, 100], [100, 100]]})


def flip_a_bit(file: Path, row_group: int, column: int) -> None:
    """In the middle of a column's data."""
    chunk = pq.ParquetFile(file).metadata.row_group(row_group).column(column)
    content = bytearray(file.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 16
    file.write_bytes(content)


@pytest.mark.parametrize("column", [0, 2, 4, 7])
def test_one_wrong_bit_is_named_with_its_cause(
    own_examples: Examples, capfd: pytest.CaptureFixture[str], column: int
) -> None:
    flip_a_bit(shard_file(own_examples, 1), 1, column)

    with pytest.raises(DataRefused, match=r"row group 1 of shard .*shard=1/part-1\.parquet: ") as e:
        list(stream_of(own_examples).epoch(0))
    assert "run the ETL of 2026-01-01 again" in str(e.value)
    assert capfd.readouterr().err == ""


def test_a_vanished_shard_is_named_on_every_rank(own_examples: Examples) -> None:
    shard_file(own_examples, 0).unlink()

    for rank in range(3):
        with pytest.raises(DataRefused, match=r"shard=0/part-0\.parquet: FileNotFoundError"):
            list(stream_of(own_examples, rank=rank, size=3).epoch(0))


def test_a_corrupt_row_group_is_named_on_every_rank(own_examples: Examples) -> None:
    """Streams of all ranks need it, so no rank waits for one that failed."""
    for shard in (0, 1):
        for row_group in (0, 1):
            flip_a_bit(shard_file(own_examples, shard), row_group, 4)

    for rank in range(3):
        with pytest.raises(DataRefused, match=r"row group \d of shard .*\.parquet: "):
            list(stream_of(own_examples, rank=rank, size=3).epoch(0))


def test_a_shard_with_other_row_groups_is_refused(own_examples: Examples) -> None:
    file = shard_file(own_examples, 0)
    pq.write_table(pq.read_table(file, partitioning=None), file, row_group_size=50)

    with pytest.raises(DataRefused, match="50 rows are there\n  expected: 100"):
        list(stream_of(own_examples).epoch(0))


def test_a_shard_without_a_column_is_refused(own_examples: Examples) -> None:
    file = shard_file(own_examples, 0)
    rows = pq.read_table(file, partitioning=None).drop_columns(["site"])
    pq.write_table(rows, file, row_group_size=100)

    with pytest.raises(DataRefused, match="no column 'site' among"):
        list(stream_of(own_examples).epoch(0))


def test_a_denied_store_is_named_on_every_rank(
    own_examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = shard_file(own_examples, 1)
    open_file = Selection.open

    def opened(selection: Selection, shard: Shard) -> pq.ParquetFile:
        if denied.as_posix().endswith(shard.path):
            raise PermissionError(13, "Permission denied", denied.as_posix())
        return open_file(selection, shard)

    monkeypatch.setattr(Selection, "open", opened)
    began = time.monotonic()

    for rank in range(3):
        pattern = r"row group \d of shard .*shard=1/part-1\.parquet: PermissionError"
        with pytest.raises(DataRefused, match=pattern):
            list(stream_of(own_examples, rank=rank, size=3, timeout_s=60).epoch(0))

    assert time.monotonic() - began < 60, "a lasting failure waits for no deadline"


def test_a_slow_store_is_named_on_every_rank_within_the_deadline(own_examples: Examples) -> None:
    file = shard_file(own_examples, 1)
    file.unlink()
    os.mkfifo(file)  # opening it waits for a writer that does not come

    try:
        for rank in range(3):
            began = time.monotonic()
            pattern = r"row group \d of shard .*shard=1/part-1\.parquet is being read for \d+ s"
            with pytest.raises(StoreTimeout, match=pattern):
                list(stream_of(own_examples, rank=rank, size=3, timeout_s=0.5).epoch(0))
            assert time.monotonic() - began < 5
    finally:
        file.open("wb").close()


def test_another_declaration_is_refused(examples: Examples) -> None:
    other = replace(CLICKS, fields=CLICKS.fields[:-1])

    with pytest.raises(DataRefused, match="have declaration"):
        stream_of(examples, other)


def test_more_ranks_than_streams_are_refused(examples: Examples) -> None:
    with pytest.raises(ConfigError, match=r"17 ranks \(size\), 16 streams"):
        stream_of(examples, rank=0, size=17)


def test_leaving_an_epoch_ends_its_threads(examples: Examples) -> None:
    before = set(threading.enumerate())
    epoch = stream_of(examples, streams=1, batch_rows=256).epoch(0)
    next(epoch)
    started = set(threading.enumerate()) - before

    epoch.close()
    for thread in started:
        thread.join(timeout=10)

    assert len(started) >= 1
    assert not any(thread.is_alive() for thread in started)
