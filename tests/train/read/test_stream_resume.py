"""Law 7 on real shards: resume is the rest of the epoch, and decodes no more than that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.lake.examples import Examples
from jobs.lake.manifest import Shard
from jobs.train.read.decode import DecodeWorker
from tests.builders.examples import write_examples
from tests.builders.streams import (
    ROWS,
    UNEVEN,
    global_batch,
    global_batches,
    rows_of,
    stream_of,
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), UNEVEN)


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


def test_a_shared_row_group_is_decoded_once(tmp_path: Path, decoded: list[tuple[str, int]]) -> None:
    examples = write_examples(tmp_path, {("2026-01-01", "train"): [[500, 500]]})

    assert sorted(rows_of(examples)) == list(range(1000))
    assert sorted(decoded) == [("shard=0", 0), ("shard=0", 1)]
