"""Failures to read are named on every rank within a deadline; refusals."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.base.errors import ConfigError, DataRefused
from jobs.lake.examples import Examples
from jobs.lake.manifest import Shard
from jobs.train.read.reader import StoreTimeout
from jobs.train.read.row_groups import RowGroups
from tests.builders.examples import CLICKS, write_examples
from tests.builders.streams import (
    ROWS,
    UNEVEN,
    stream_of,
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), UNEVEN)


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
    open_file = RowGroups.open

    def opened(groups: RowGroups, shard: Shard) -> pq.ParquetFile:
        if denied.as_posix().endswith(shard.path):
            raise PermissionError(13, "Permission denied", denied.as_posix())
        return open_file(groups, shard)

    monkeypatch.setattr(RowGroups, "open", opened)
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


def test_reading_goes_on_where_its_priority_cannot_be_lowered(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    assert sum(batch.rows for batch in stream_of(examples).epoch(0)) == ROWS


def test_a_thread_that_fails_at_its_start_is_told_of(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no thread")

    monkeypatch.setattr("jobs.train.read.stream.yield_to_training", fail)
    with pytest.raises(RuntimeError, match="no thread"):
        list(stream_of(examples).epoch(0))
