"""Reading through Petastorm's pool from any store that fsspec knows; memory for windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import DataRefused
from jobs.train.batch import Layout
from jobs.train.decode import Selection
from jobs.train.memory import Buffers, Memory, Recycled
from jobs.train.plan import EpochPlan
from jobs.train.reader import Reader, Stopped
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


def memory_of(layout: Layout) -> Memory:
    return Memory(
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
    selection = Selection(f"unsteady://{examples.url}", examples.shards())
    layout = Layout(CLICKS)
    reader = Reader(selection, layout, memory_of(layout), timeout_s=60)
    plan = EpochPlan(selection.group_rows, streams=1, window_rows=1000, seed=7, epoch=0)
    window = next(plan.windows(0))
    rows = reader.request(window, 0, np.zeros((100, layout.words), np.int32))
    reader.send()
    try:
        while rows.waiting:
            reader.receive()
    finally:
        reader.close()
    return layout.batch(rows.words, np.arange(100)).row_id.numpy()


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
        Selection(examples.url, examples.shards()), Layout(CLICKS), memory_of(Layout(CLICKS)), 60
    )

    reader.stop()

    with pytest.raises(Stopped):
        reader.receive()
    reader.close()


def test_row_groups_are_numbered_by_date_split_and_shard(tmp_path: Path) -> None:
    places = {("2026-01-02", "train"): [[3], [], [4, 5]], ("2026-01-01", "train"): [[6]]}
    examples = write_examples(tmp_path, places)
    selection = Selection(examples.url, examples.shards())

    found = [(s.ds, s.number, group) for s, group in map(selection.locate, range(4))]

    assert selection.group_rows.tolist() == [6, 3, 4, 5]
    assert found == [
        ("2026-01-01", 0, 0),
        ("2026-01-02", 0, 0),
        ("2026-01-02", 2, 0),
        ("2026-01-02", 2, 1),
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=60))
def test_buffers_never_hold_more_than_their_limit(wishes: list[tuple[bool, int]]) -> None:
    """And always give what fits beside the largest that are in use."""
    row_words, limit_rows = 3, 100
    buffers = Buffers(limit_rows * (4 * row_words + 8), row_words)
    used: list[np.ndarray] = []
    for gives_back, rows in wishes:
        if gives_back and used:
            buffers.give(used.pop(0))
        words = buffers.take(rows)
        if words is not None:
            assert words.shape == (rows, row_words)
            used.append(words)
        else:
            assert 40 * len(used) + rows > limit_rows
    assert sum(len(words) for words in used) <= limit_rows


def test_buffers_are_used_again() -> None:
    buffers = Buffers(1 << 20, row_words=3)
    words = buffers.take(50)
    assert words is not None
    buffers.give(words)

    again = buffers.take(40)

    assert again is not None
    assert np.shares_memory(words, again)


def test_memory_of_batches_is_used_again_when_nothing_refers_to_it() -> None:
    recycled = Recycled()
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
