"""What commits keep of sharded tables: every row twice, at its rank and at the next one.

A commit copies only the rows that changed since the one before. They wait beside the copies until
all ranks are known to have that commit: when ranks are lost in the middle of one, all others can
still go back to the one before. All of it is in memory, or on the rank's disk (`room.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.models.tables.buckets import Buckets
from jobs.models.tables.pieces import ROWS
from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.rows import indices_of
from jobs.train.tables.copies import (
    ChangedRows,
    Gathered,
    Holder,
    Pieces,
    Regrouping,
    holders_of,
    passed_on,
    sent_counts,
    told,
)
from jobs.train.tables.room import MEMORY, Room

NOBODY = -1


@dataclass
class CommitChanges:
    """What a commit changes of each table: in this rank's piece, and in that of the rank before."""

    own: dict[str, ChangedRows]
    previous: dict[str, ChangedRows]


class KeptTables:
    """A rank's copies of its pieces and of those of the rank before, as of the last commit.

    Args:
        rank, ranks: whose pieces they are, of how many; rank -1 has none.
        number: of the commit; the same on all ranks.
        own, previous: the pieces, on the CPU; `previous` is empty at a single rank.
        room: for these, and what changes them.

    Attributes:
        before: what was kept when there were other ranks, as long as some may have no newer.
        held: whether the copies must stay as they are, because they are being written.
    """

    def __init__(
        self,
        rank: int,
        ranks: int,
        number: int,
        own: Pieces,
        previous: Pieces | None = None,
        room: Room = MEMORY,
    ) -> None:
        self.rank, self.ranks, self.number, self._room = rank, ranks, number, room
        self._own, self._previous = own, previous or {}
        self._waiting: list[CommitChanges] = []
        # Rows that changed since the last checkpoint: table -> bool [rows owned].
        self._unwritten = {name: _none_of(tensors) for name, tensors in own.items()}
        self.before: KeptTables | None = None
        self.held = False

    @classmethod
    def of(
        cls, exchange: Exchange, buckets: Mapping[str, Buckets], pieces: Pieces, room: Room
    ) -> KeptTables:
        """Copies whole pieces, as commit 0; all ranks must call this.

        Args:
            buckets: of each table.
            pieces: that are being trained.
            room: for the copies.
        """
        rank, ranks = exchange.rank, exchange.size
        rows = {name: of.piece_rows(rank, ranks) for name, of in buckets.items()}
        before = {name: of.piece_rows((rank - 1) % ranks, ranks) for name, of in buckets.items()}
        own = {name: room.zeros_like(of, rows[name]) for name, of in pieces.items()}
        previous = {
            name: room.zeros_like(of, before[name]) for name, of in pieces.items() if ranks > 1
        }
        kept = cls(rank, ranks, 0, own, previous, room)
        every = {name: torch.arange(len(of[ROWS])) for name, of in pieces.items()}
        counts = sent_counts(exchange, every)
        for name, sent, received in passed_on(exchange, pieces, every, counts):
            kept._change(own, name, sent)
            if received is not None:
                kept._change(previous, name, received)
        return kept

    def outline(self) -> KeptTables:
        """The same for a rank that has no copies: tensors without rows."""
        return KeptTables(NOBODY, self.ranks, self.number, _outline(self._settled_own()))

    def _settled_own(self) -> Pieces:
        """This rank's pieces with all tensors that waiting changes would add, not their values."""
        found = {name: dict(tensors) for name, tensors in self._own.items()}
        for change in self._waiting:
            for name, rows in change.own.items():
                found[name] = rows.tensors
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's own pieces."""
        return sum(of.nbytes for tensors in self._own.values() for of in tensors.values())

    @property
    def own(self) -> Pieces:
        """This rank's pieces as of the last commit for which `settle` was called."""
        return self._own

    def commit(self, exchange: Exchange, pieces: Pieces, touched: Mapping[str, Tensor]) -> None:
        """Copies the rows that changed since the last commit; all ranks must call this.

        Every rank is known to have that one: it has exchanged something since.

        Args:
            pieces: that are being trained.
            touched: table -> bool [rows owned], the rows that changed; unset afterwards.
        """
        self.settle()
        places = {name: indices_of(of) for name, of in touched.items()}
        counts = sent_counts(exchange, places)
        # Also of tables that nobody touched, so that moments are known that began since.
        own = {n: Gathered(of, counts[self.rank][n], self._room) for n, of in pieces.items()}
        before = counts[self.rank - 1]
        previous = {n: Gathered(pieces[n], before[n], self._room) for n in self._previous}
        for name, sent, received in passed_on(exchange, pieces, places, counts):
            own[name].add(sent)
            if received is not None:
                previous[name].add(received)
        change = CommitChanges(
            {name: of.rows for name, of in own.items()},
            {name: of.rows for name, of in previous.items()},
        )
        for name, of in touched.items():
            of[places[name]] = False
            self._unwritten[name][places[name].cpu()] = True
        self._waiting.append(change)
        self.number += 1

    def settle(self) -> None:
        """Makes the waiting changes, unless the copies are held; all ranks have the last commit."""
        self.before = None
        if not self.held:
            self._make_changes()

    def _make_changes(self) -> None:
        for change in self._waiting:
            for pieces, changes in ((self._own, change.own), (self._previous, change.previous)):
                for name, rows in changes.items():
                    self._change(pieces, name, rows)
        self._waiting = []

    def _change(self, pieces: Pieces, name: str, rows: ChangedRows) -> None:
        tensors = pieces[name]
        for key, values in rows.tensors.items():
            if key not in tensors:
                # A moment that began after the piece was copied; untouched rows have none yet.
                shape = len(tensors[ROWS]), *values.shape[1:]
                tensors[key] = self._room.zeros(shape, values.dtype)
            tensors[key].index_copy_(0, rows.places, values)

    def back_to(self, number: int) -> KeptTables:
        """What was kept at a commit: the last one, or the one before where some lack the last."""
        if number == self.number:
            return self
        assert number == self.number - 1, "ranks are at most one commit apart"
        if self.before is not None:
            return self.before
        self._waiting.pop()
        self.number = number
        return self

    def unwritten(self) -> dict[str, ChangedRows]:
        """Copies of the rows that changed since this, or `forget_unwritten`, was last called."""
        places = {name: indices_of(of) for name, of in self._unwritten.items()}
        found = {
            name: ChangedRows(places[name], self._room.rows_at(tensors, places[name]))
            for name, tensors in self._own.items()
        }
        self.forget_unwritten()
        return found

    def forget_unwritten(self) -> None:
        """All rows are written."""
        for of in self._unwritten.values():
            of.zero_()

    def holders(self, exchange: Exchange) -> list[Holder] | None:
        """Who has the former ranks' pieces; None where one is lost. All ranks must call this."""
        places = told(exchange, [self.rank, self.ranks])
        return holders_of([(was, of) for was, of in places])

    def regrouped(
        self,
        exchange: Exchange,
        buckets: Mapping[str, Buckets],
        holders: list[Holder],
        rows: Mapping[str, Tensor],
    ) -> Pieces:
        """This rank's pieces among the present ranks; all ranks must call this.

        Args:
            buckets: of each table.
            rows: of each table, room for the rows of this rank's piece, which they are put into.
        """
        assert not self.held
        self._make_changes()
        found = {}
        for name in sorted(self._own):
            own, previous = self._own[name], self._previous.get(name, {})
            found[name] = Regrouping(exchange, holders, own, previous).piece(
                buckets[name], rows[name]
            )
        return found


def _none_of(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.zeros(len(tensors[ROWS]), dtype=torch.bool)


def _outline(pieces: Pieces) -> Pieces:
    return {
        name: {key: torch.empty(0, *of.shape[1:], dtype=of.dtype) for key, of in tensors.items()}
        for name, tensors in pieces.items()
    }
