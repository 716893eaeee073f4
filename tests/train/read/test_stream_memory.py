"""Law 12 on real shards: the budget is kept, and nothing is left behind."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.base.errors import ConfigError
from jobs.batch import layout
from jobs.batch.builder import BatchBuilder
from jobs.lake.examples import Examples
from jobs.train.read.memory import BLOCKS, RowMemory
from jobs.train.read.stream import Stream
from jobs.train.step.loop import together, with_next
from schemas.dataset import Column, Dataset, Source
from schemas.field import Label, Numeric
from tests.builders.examples import write_examples
from tests.builders.streams import (
    UNEVEN,
    stream_of,
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), UNEVEN)


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


def needed_mb(examples: Examples, **order: int) -> int:
    """What the refusal of too small a budget asks for."""
    with pytest.raises(ConfigError) as refused:
        stream_of(examples, NUMBERS, **order, memory_mb=1)
    return int(str(refused.value).split("raise stream.memory_mb to ")[1].split(",")[0])


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

    # Up to four blocks of batches, of half a megabyte, exist at once, and are kept; an epoch that
    # left one more each time would leave four.
    assert left[-1] - left[0] < 5 * 600_000


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


def test_streams_that_take_turns_share_one_budget(tmp_path: Path) -> None:
    places = ("2026-01-01", "train"), ("2026-01-01", "val")
    examples = write_examples(
        tmp_path,
        {place: [[5_000] * 40] for place in places},
        dataset=NUMBERS,
        tables=dict.fromkeys(places, numbers(200_000)),
    )
    memory, budget_mb = RowMemory(), 60
    train, val = (
        stream_of(
            examples,
            NUMBERS,
            split=split,
            streams=8,
            window_rows=window_rows,
            batch_rows=512,
            memory_mb=budget_mb,
            memory=memory,
        )
        # The second needs more of it than the first had taken.
        for split, window_rows in (("train", 3_000), ("val", 5_000))
    )
    alone = stream_of(examples, NUMBERS, streams=8, window_rows=3_000, batch_rows=512)
    expected = [batch.row_id.tolist() for batch in alone.epoch(1)]
    pa.default_memory_pool().release_unused()
    tracemalloc.start()
    for stream in (train, val):
        assert sum(batch.rows for batch in stream.epoch(0)) == 200_000
    found = [batch.row_id.tolist() for batch in train.epoch(1)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == expected
    # Besides, the row ids that are compared.
    assert peak < (budget_mb + 20) << 20


def test_fewer_ranks_read_the_same_rows_with_less_beside_the_windows(tmp_path: Path) -> None:
    place = ("2026-01-01", "train")
    examples = write_examples(
        tmp_path, {place: [[50_000]]}, dataset=NUMBERS, tables={place: numbers(50_000)}
    )
    sizes = {"streams": 8, "window_rows": 5_000, "batch_rows": 512}

    expected = [batch.row_id.tolist() for batch in stream_of(examples, NUMBERS, **sizes).epoch(0)]
    # With half of the streams the windows fit well, with all of them not quite, or not at all.
    for memory_mb in (needed_mb(examples, **sizes) - 1, needed_mb(examples, **sizes, size=4)):
        stream_of(examples, NUMBERS, **sizes, size=4, memory_mb=memory_mb)
        with pytest.raises(ConfigError, match="8 open windows"):
            stream_of(examples, NUMBERS, **sizes, memory_mb=memory_mb)
        left = stream_of(examples, NUMBERS, **sizes, memory_mb=memory_mb, must_fit=False)
        assert left.note.startswith("8 streams are read batch by batch, ")
        assert left.note.endswith(f"; stream.memory_mb is {memory_mb}")
        tracemalloc.start()
        found = [batch.row_id.tolist() for batch in left.epoch(0)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == expected
        said_mb = int(left.note.split(" in ")[1].split(" MiB")[0])
        assert peak < (said_mb + 5) << 20


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


def _peak_bytes(stream: Stream, count: int, is_known: bool) -> int:
    """Of an epoch whose batches training takes together, so many at a time."""
    pa.default_memory_pool().release_unused()
    tracemalloc.start()
    rows = 0
    for held, upcoming in with_next(together(stream.epoch(0), count), is_known):
        rows += sum(batch.rows for batch in held)
        del held, upcoming
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == stream.rows
    return found


@pytest.mark.parametrize("is_known", [False, True])
def test_batches_that_training_holds_are_counted(is_known: bool, tmp_path: Path) -> None:
    place = ("2026-01-01", "train")
    examples = write_examples(
        tmp_path, {place: [[500] * 1_000]}, dataset=NUMBERS, tables={place: numbers(500_000)}
    )
    order = {"streams": 8, "window_rows": 500, "batch_rows": 2_048}
    held = 96 * (1 + is_known) - 1
    memory_mb = needed_mb(examples, **order, held_batches=held)
    stream = stream_of(examples, NUMBERS, **order, held_batches=held, memory_mb=memory_mb)
    peak = _peak_bytes(stream, 96, is_known)
    assert needed_mb(examples, **order) << 20 < peak < memory_mb << 20


def test_blocks_of_batches_are_as_many_as_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("2026-01-01", "train")
    examples = write_examples(
        tmp_path, {place: [[5_000] * 12]}, dataset=NUMBERS, tables={place: numbers(60_000)}
    )
    living, most, made = set[int](), 0, threading.Condition()

    class Counted(BatchBuilder):
        def __init__(self, *given: Any, **more: Any) -> None:
            nonlocal most
            super().__init__(*given, **more)
            dense = self._named["dense"]
            with made:
                living.add(id(dense))
                weakref.finalize(dense, living.discard, id(dense))
                most = max(most, len(living))
                made.notify()

    monkeypatch.setattr(layout, "BatchBuilder", Counted)
    stream = stream_of(examples, NUMBERS, streams=8, window_rows=5_000, batch_rows=512)
    for _ in stream.epoch(0):
        with made:
            # Time for one too many.
            made.wait_for(lambda: len(living) > BLOCKS, timeout=0.02)
    assert 2 < most <= BLOCKS
