"""What commits keep of sharded tables: any rank may be lost, and all go back to one commit."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jobs.models.tables.buckets import Buckets
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.snapshot import Snapshot
from jobs.train.step.history import Position
from jobs.train.tables import copies
from jobs.train.tables.copies import Pieces
from jobs.train.tables.kept import KeptTables
from jobs.train.tables.room import MEMORY, Room
from tests.builders.batches import in_ranks

DISK = Room(is_disk=True)
# More rows than buckets, as many, fewer; a table that nobody touches.
SIZES = {"a": 41, "b": 7, "c": 3, "untouched": 20}


@dataclass
class Tables:
    """Whole tables that change, and what they held at each commit."""

    count: int
    now: Pieces = field(default_factory=dict)
    held: list[Pieces] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(5)
        self.now = {name: {"rows": torch.randn(rows, 2)} for name, rows in SIZES.items()}
        self.held.append(copy.deepcopy(self.now))

    @property
    def buckets(self) -> dict[str, Buckets]:
        return {name: Buckets(rows, self.count) for name, rows in SIZES.items()}

    def change(self) -> dict[str, Tensor]:
        """Trains some rows; moments begin with the first. Returns which rows."""
        touched = {name: torch.rand(rows) < 0.2 for name, rows in SIZES.items()}
        touched["untouched"][:] = False
        for name, tensors in self.now.items():
            rows = len(tensors["rows"])
            tensors.setdefault("sum", torch.zeros(rows, dtype=torch.float64))
            for of in tensors.values():
                some = touched[name]
                of[some] = torch.rand(int(some.sum()), *of.shape[1:], dtype=of.dtype)
        self.held.append(copy.deepcopy(self.now))
        return touched

    def piece(self, number: int, rank: int, ranks: int) -> Pieces:
        return {
            name: {key: of[self.buckets[name].ids(rank, ranks)] for key, of in tensors.items()}
            for name, tensors in self.held[number].items()
        }


def committed(
    tables: Tables, ranks: int, commits: int, room: Room = MEMORY
) -> list[list[KeptTables]]:
    """What each rank keeps after each of some commits."""
    touched = [tables.change() for _ in range(commits)]

    def work(exchange: Exchange) -> list[KeptTables]:
        place = exchange.rank, exchange.size
        kept = KeptTables.of(exchange, tables.buckets, tables.piece(0, *place), room)
        found = [copy.deepcopy(kept)]
        for number, rows in enumerate(touched, 1):
            own = {name: of[tables.buckets[name].ids(*place)] for name, of in rows.items()}
            kept.commit(exchange, tables.piece(number, *place), own)
            assert not any(of.any() for of in own.values())
            found.append(copy.deepcopy(kept))
        return found

    return [work(Alone())] if ranks == 1 else in_ranks(work, ranks)


def begun(memory: RankMemory, exchange: Exchange, known: Snapshot) -> KeptTables:
    """What a rank has of the commit that all go back to, as when ranks begin again."""
    memory.agree(exchange)
    last = memory.last or known.without_tensors()
    assert last.tables is not None
    return last.tables


def snapshot_of(kept: KeptTables) -> Snapshot:
    return Snapshot({}, {}, {}, torch.zeros(1, 8), Position(), kept)


@settings(max_examples=40, deadline=None)
@given(
    ranks=st.integers(1, 5),
    lost=st.sets(st.integers(0, 4), max_size=4),
    joined=st.integers(0, 2),
    commits=st.integers(0, 3),
    behind=st.sets(st.integers(0, 4)),
    count=st.integers(7, 12),
    message=st.sampled_from([1, 50, 1 << 20]),
    is_disk=st.booleans(),
)
def test_the_ranks_that_are_left_have_all_tables_as_of_the_last_commit_of_all(
    ranks: int,
    lost: set[int],
    joined: int,
    commits: int,
    behind: set[int],
    count: int,
    message: int,
    is_disk: bool,
) -> None:
    before, copies._MESSAGE_BYTES = copies._MESSAGE_BYTES, message
    tables = Tables(count)
    left = [rank for rank in range(ranks) if rank not in lost] or [0]
    found = committed(tables, ranks, commits, DISK if is_disk else MEMORY)
    # Ranks in the middle of the last commit when another was lost.
    last = [found[r][commits - (commits > 0 and r in behind)] for r in left]
    number = min(kept.number for kept in last)
    known = next(kept for kept in last if kept.number == number)
    memories = [RankMemory() for _ in range(len(left) + joined)]
    for memory, kept in zip(memories, last, strict=False):
        memory.last = snapshot_of(kept)

    def work(exchange: Exchange) -> Pieces | None:
        kept = begun(memories[exchange.rank], exchange, snapshot_of(known))
        holders = kept.holders(exchange)
        if holders is None:
            return None
        place = exchange.rank, exchange.size
        rows = {n: torch.empty(of.piece_rows(*place), 2) for n, of in tables.buckets.items()}
        return kept.regrouped(exchange, tables.buckets, holders, rows)

    try:
        pieces = [work(Alone())] if len(memories) == 1 else in_ranks(work, len(memories))
    finally:
        copies._MESSAGE_BYTES = before
    gone = set(range(ranks)) - set(left)
    if any((rank + 1) % ranks in gone for rank in gone):
        assert pieces == [None] * len(memories)
        return
    for rank, own in enumerate(pieces):
        expected = tables.piece(number, rank, len(memories))
        assert own is not None
        for name, tensors in expected.items():
            assert own[name].keys() == tensors.keys()
            assert all(torch.equal(own[name][key], of) for key, of in tensors.items())


def test_a_rank_that_has_regrouped_goes_back_where_others_have_not() -> None:
    tables = Tables(8)
    old = [found[-1] for found in committed(tables, 2, 2)]
    new = [found[-1] for found in committed(Tables(8), 2, 0)]
    new[0].number, new[0].before = old[0].number + 1, old[0]
    memories = [RankMemory(), RankMemory()]
    memories[0].last, memories[1].last = snapshot_of(new[0]), snapshot_of(old[1])
    roots = in_ranks(lambda exchange: memories[exchange.rank].agree(exchange), 2)
    assert roots == [1, 1]
    assert memories[0].last.tables is old[0]


@pytest.mark.parametrize("room", [MEMORY, DISK], ids=["memory", "disk"])
def test_copies_that_are_being_written_stay_until_they_are(room: Room) -> None:
    tables = Tables(8)
    touched = [tables.change() for _ in range(3)]
    kept = KeptTables.of(Alone(), tables.buckets, tables.piece(0, 0, 1), room)
    kept.commit(Alone(), tables.piece(1, 0, 1), _own(tables, touched[0]))
    kept.settle()
    kept.held, written = True, copy.deepcopy(kept.own)
    for number in (2, 3):
        kept.commit(Alone(), tables.piece(number, 0, 1), _own(tables, touched[number - 1]))
        kept.settle()
        assert _equal(kept.own, written) and _equal(kept.own, tables.piece(1, 0, 1))
    kept.held = False
    kept.settle()
    assert _equal(kept.own, tables.piece(3, 0, 1))
    # Rows of all three commits, since none was written.
    for name, rows in kept.unwritten().items():
        ids = tables.buckets[name].ids(0, 1)
        since = torch.stack([of[name] for of in touched]).any(0)[ids]
        assert torch.equal(rows.places, since.nonzero().squeeze(1))
        assert all(
            torch.equal(of, kept.own[name][key][rows.places]) for key, of in rows.tensors.items()
        )
    assert all(len(rows.places) == 0 for rows in kept.unwritten().values())

    assert all(_is_file(of) == room.is_disk for of in kept.own["a"].values())


def _is_file(tensor: Tensor) -> bool:
    """Whether a tensor lies in a file that is mapped, and has no name."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    for line in lines:
        begin, end = (int(place, 16) for place in line.split()[0].split("-"))
        if begin <= tensor.data_ptr() < end:
            return line.split()[1] == "rw-s" and line.endswith("(deleted)")
    raise AssertionError("a tensor is somewhere")


def _own(tables: Tables, touched: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: of[tables.buckets[name].ids(0, 1)] for name, of in touched.items()}


def _equal(ours: Pieces, theirs: Pieces) -> bool:
    return ours.keys() == theirs.keys() and all(
        tensors.keys() == theirs[name].keys()
        and all(torch.equal(of, theirs[name][key]) for key, of in tensors.items())
        for name, tensors in ours.items()
    )


@pytest.mark.parametrize("share", [0.001, 0.01])
def test_a_commit_sends_the_rows_that_changed_alone(share: float) -> None:
    rows, ranks = 20_000, 2
    buckets = {"a": Buckets(rows, 64)}

    def work(exchange: Exchange) -> int:
        own = {"a": {"rows": torch.zeros(buckets["a"].piece_rows(exchange.rank, ranks), 16)}}
        kept = KeptTables.of(exchange, buckets, own, MEMORY)
        sent = 0
        start = exchange.start_alltoall

        def counted(name: str, pieces: list[Tensor]) -> object:
            nonlocal sent
            sent += sum(piece.nbytes for piece in pieces)
            return start(name, pieces)

        exchange.start_alltoall = counted  # type: ignore[method-assign, assignment]
        touched = {"a": torch.zeros(len(own["a"]["rows"]), dtype=torch.bool)}
        touched["a"][: int(share * rows)] = True
        kept.commit(exchange, own, touched)
        return sent

    # A place and 16 values of each row.
    assert in_ranks(work, ranks) == [int(share * rows) * (8 + 64)] * ranks
