"""Row groups that stay decoded change no batch, are not read again, and keep to their memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.lake.examples import Examples
from jobs.train.read.decode import DecodeWorker
from jobs.train.read.kept import KeptGroups
from jobs.train.read.memory import RowMemory
from jobs.train.read.stream import Stream
from tests.builders.examples import CLICKS, write_examples
from tests.builders.streams import UNEVEN, stream_of

MIB = 1 << 20


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), UNEVEN)


def batches(stream: Stream, epoch: int, start_row: int = 0) -> list[tuple[bytes, ...]]:
    return [
        tuple(part.numpy().tobytes() for part in (one.row_id, one.label, one.dense, one.sparse))
        for one in stream.epoch(epoch, start_row)
    ]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The row groups that are decoded from now on."""
    found, whole = [], DecodeWorker._decoded

    def counted(self: DecodeWorker, shard: object, number: int) -> object:
        found.append((shard.path, number))
        return whole(self, shard, number)

    monkeypatch.setattr(DecodeWorker, "_decoded", counted)
    return found


def test_they_are_not_decoded_again_and_change_no_batch(
    examples: Examples, decoded: list[tuple[str, int]]
) -> None:
    expected = [batches(stream_of(examples), epoch, start) for epoch, start in ((0, 0), (1, 128))]
    kept = KeptGroups(MIB)
    # Streams of trainings that come one after the other.
    for _ in range(2):
        decoded.clear()
        stream = stream_of(examples, memory=RowMemory(kept))
        found = [batches(stream, epoch, start) for epoch, start in ((0, 0), (1, 128))]
        assert found == expected
    assert not decoded


def test_those_without_room_are_decoded_each_time(
    examples: Examples, decoded: list[tuple[str, int]]
) -> None:
    row_bytes = stream_of(examples)._layout.row_bytes
    expected = batches(stream_of(examples), 0)
    kept = KeptGroups(100 * row_bytes)
    for _ in range(2):
        groups = set(decoded)
        decoded.clear()
        assert batches(stream_of(examples, memory=RowMemory(kept)), 0) == expected
    assert set() < set(decoded) < groups
    assert sum(rows.nbytes for rows in kept._groups.values()) <= kept.limit_bytes


def test_groups_of_other_columns_or_examples_are_not_taken_for_them(
    examples: Examples, tmp_path: Path
) -> None:
    kept, others = KeptGroups(MIB), write_examples(tmp_path, UNEVEN)
    one = CLICKS.numeric[0].name
    columns = [one, *(field.name for field in CLICKS.categorical)]
    for choice in ({}, {"columns": columns}):
        for where in (examples, others, examples):
            expected = batches(stream_of(where, **choice), 0)
            assert batches(stream_of(where, memory=RowMemory(kept), **choice), 0) == expected


def test_what_the_order_needs_comes_before_what_is_kept(examples: Examples) -> None:
    memory = RowMemory(KeptGroups(64 * MIB))
    stream = stream_of(examples, memory=memory, memory_mb=64)
    assert memory.kept is None
    assert batches(stream, 0) == batches(stream_of(examples), 0)
