"""Reading through Petastorm's pool from any store that fsspec knows; memory for windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from jobs.base.errors import DataRefused
from jobs.batch.layout import Layout
from jobs.train.order.plan import EpochPlan
from jobs.train.read.memory import MemoryBudget, ReusedMemory, RowMemory, WindowBuffer
from jobs.train.read.reader import Reader, Stopped
from jobs.train.read.row_groups import RowGroups
from tests.builders.examples import CLICKS, columns_of, write_examples


class UnsteadyStore(LocalFileSystem):
    """A store of local files whose first `failures` requests for each file fail."""

    protocol = "unsteady"
    failures: ClassVar[int] = 0
    error: ClassVar[type[OSError]] = OSError
    requests: ClassVar[dict[str, int]] = {}

    def open(self, path: str, *args: Any, **options: Any) -> Any:
        self.requests[path] = self.requests.get(path, 0) + 1
        if self.requests[path] <= self.failures:
            raise self.error("503 slow down")
        return fsspec.filesystem("file").open(path, "rb")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[UnsteadyStore]:
    fsspec.register_implementation("unsteady", UnsteadyStore, clobber=True)
    monkeypatch.setattr(UnsteadyStore, "requests", {})
    return UnsteadyStore


def budget_of(layout: Layout) -> MemoryBudget:
    return MemoryBudget(
        total=32 << 20,
        row_bytes=layout.row_bytes,
        window_rows=100,
        streams=1,
        block_rows=10,
        threads=2,
    )


def read_all(tmp_path: Path, shards: list[list[int]]) -> np.ndarray:
    """Row ids of all 100 rows of some shards, read from the unsteady store."""
    examples = write_examples(tmp_path, {("2026-01-01", "train"): shards})
    groups = RowGroups(f"unsteady://{examples.url}", examples.shards())
    layout = Layout(CLICKS)
    reader = Reader(groups, layout, budget_of(layout), timeout_s=60)
    plan = EpochPlan(groups.group_rows, streams=1, window_rows=1000, seed=7, epoch=0)
    window = next(plan.windows(0))
    buffer = budget_of(layout).window_buffer(layout.words, RowMemory())
    rows = reader.request(window, 0, 0, buffer)
    reader.send()
    try:
        while not rows.is_ready:
            reader.receive()
    finally:
        reader.close()
    return layout.batch(buffer.rows[buffer.index[:100]], np.arange(100)).row_id.numpy()


def test_a_store_that_fails_for_a_moment_is_asked_again(
    tmp_path: Path, store: type[UnsteadyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "failures", 2)

    row_id = read_all(tmp_path, [[30, 20], [50]])

    assert sorted(row_id.tolist()) == list(range(100))
    assert min(store.requests.values()) >= 3


@pytest.mark.parametrize(
    ("error", "requests"), [(OSError, 3), (PermissionError, 1), (FileNotFoundError, 1)]
)
def test_a_store_that_fails_for_good_is_named_with_the_cause(
    tmp_path: Path,
    store: type[UnsteadyStore],
    monkeypatch: pytest.MonkeyPatch,
    error: type[OSError],
    requests: int,
) -> None:
    monkeypatch.setattr(store, "failures", 10**6)
    monkeypatch.setattr(store, "error", error)

    with pytest.raises(DataRefused, match=rf"row group \d of shard .*: {error.__name__}: 503 slow"):
        read_all(tmp_path, [[100]])

    assert max(store.requests.values()) == requests


def test_a_stopped_reader_gives_up(tmp_path: Path) -> None:
    examples = write_examples(tmp_path, {("2026-01-01", "train"): [[5]]})
    reader = Reader(
        RowGroups(examples.url, examples.shards()), Layout(CLICKS), budget_of(Layout(CLICKS)), 60
    )

    reader.stop()

    with pytest.raises(Stopped):
        reader.receive()
    reader.close()


def test_row_groups_are_numbered_by_date_split_and_shard(tmp_path: Path) -> None:
    places = {("2026-01-02", "train"): [[3], [], [4, 5]], ("2026-01-01", "train"): [[6]]}
    examples = write_examples(tmp_path, places)
    groups = RowGroups(examples.url, examples.shards())

    found = [(s.ds, s.number, group) for s, group in map(groups.locate, range(4))]

    assert groups.group_rows.tolist() == [6, 3, 4, 5]
    assert found == [
        ("2026-01-01", 0, 0),
        ("2026-01-02", 0, 0),
        ("2026-01-02", 2, 0),
        ("2026-01-02", 2, 1),
    ]


def test_windows_are_apart_and_used_again() -> None:
    buffer = WindowBuffer(1_000, 10, streams=4, stream_rows=3, row_words=3, memory=RowMemory())

    taken = [buffer.take(rows) for rows in (5, 9, 7, 8, 10, 1)]
    copies = [buffer.first_copy(stream) for stream in range(4)]

    # 1,000 bytes are 5 times 10 rows of 3 words and a place.
    assert sorted(first for first in taken if first is not None) == [0, 10, 20, 30, 40]
    assert taken[5] is None
    assert copies == [50, 53, 56, 59]
    assert len(buffer.rows) == 62
    for first in taken[:5]:
        assert first is not None
        buffer.give(first)
    assert buffer.take(8) == taken[3], "the smallest whose pages are there"
    assert buffer.take(8) == taken[1]


def test_a_large_budget_holds_a_few_windows_of_a_stream() -> None:
    buffer = WindowBuffer(
        1 << 30, window_rows=10, streams=2, stream_rows=1, row_words=3, memory=RowMemory()
    )

    assert len(buffer.rows) == 4 * 2 * 10 + 2


def test_memory_of_batches_is_used_again_when_nothing_refers_to_it() -> None:
    recycled = ReusedMemory()
    tensor = torch.from_numpy(recycled.empty((4, 2), np.float32))
    part, address = tensor[1:], tensor.data_ptr()
    del tensor

    other = torch.from_numpy(recycled.empty((4, 2), np.float32))
    assert other.data_ptr() != address, "a part of it is still there"
    del part

    assert torch.from_numpy(recycled.empty((8,), np.int32)).data_ptr() == address


def test_columns_follow_from_row_ids() -> None:
    """What every comparison of values here relies on."""
    rows = columns_of(np.array([3, 4]))

    assert rows["age"].to_pylist() == [None, 1.25]
    assert rows["city"].to_pylist() == ["city3", "city4"]
