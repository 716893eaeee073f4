"""Rows of pieces that ranks send to each other for keeping, some megabytes at a time.

A rank's *pieces* are its rows of all tables and of their moments: table -> name -> [rows owned,
...], where the name is `rows` or that of a moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.models.tables.buckets import Buckets
from jobs.models.tables.pieces import ROWS
from jobs.train.exchange.exchange import Exchange
from jobs.train.tables.room import Room

Pieces = dict[str, dict[str, Tensor]]
# Sent by a rank in one message: each has the whole deadline, and all lie in memory beside the rows.
_MESSAGE_BYTES = 4 << 20


@dataclass(frozen=True)
class ChangedRows:
    """Some rows of a piece of a table.

    Attributes:
        places: int64 [k], their indices in the piece.
        tensors: [k, ...], by the names of the piece's tensors.
    """

    places: Tensor
    tensors: dict[str, Tensor]


class Gathered:
    """Rows of a piece that come some at a time, in room for all that is made at once.

    To keep each as it comes would leave holes in the memory, between what is kept and what passes.

    Args:
        like: tensors of the piece.
        count: of the rows that will come.
    """

    def __init__(self, like: Mapping[str, Tensor], count: int, room: Room) -> None:
        self.rows = ChangedRows(room.zeros((count,), torch.int64), room.zeros_like(like, count))
        self._end = 0

    def add(self, some: ChangedRows) -> None:
        begin, self._end = self._end, self._end + len(some.places)
        self.rows.places[begin : self._end] = some.places
        for name, of in some.tensors.items():
            self.rows.tensors[name][begin : self._end] = of


def told(exchange: Exchange, own: Sequence[int]) -> list[list[int]]:
    """What each rank says: as many whole numbers, by rank. All ranks must call this."""
    table = torch.zeros(exchange.size, len(own), dtype=torch.int64)
    table[exchange.rank] = torch.tensor(own, dtype=torch.int64)
    (said,) = exchange.start_sums([table]).result()
    found: list[list[int]] = said.tolist()
    return found


def sent_counts(exchange: Exchange, places: Mapping[str, Tensor]) -> list[dict[str, int]]:
    """How many rows of each table each rank sends, by rank; all ranks must call this.

    Args:
        places: table -> int64 [k], of the rows that this rank sends.
    """
    names = sorted(places)
    counts = told(exchange, [len(places[name]) for name in names])
    return [dict(zip(names, of, strict=True)) for of in counts]


def passed_on(
    exchange: Exchange,
    pieces: Pieces,
    places: Mapping[str, Tensor],
    counts: Sequence[Mapping[str, int]],
) -> Iterator[tuple[str, ChangedRows, ChangedRows | None]]:
    """Sends rows of this rank's pieces to the next rank; all ranks must call this.

    Args:
        places: table -> int64 [k], of the rows to send.
        counts: see `sent_counts`.

    Yields:
        A table, copies on the CPU of some of the rows that are sent, and of those that the rank
        before sends; None at a single rank.
    """
    before = counts[exchange.rank - 1]
    for name in sorted(pieces):
        step = max(1, _MESSAGE_BYTES // row_bytes(pieces[name]))
        for begin in range(0, max(of[name] for of in counts), step):
            own = rows_at(pieces[name], places[name][begin : begin + step])
            count = max(0, min(step, before[name] - begin))
            yield name, own, _swapped(exchange, own, count) if exchange.size > 1 else None


def row_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of a row, in all tensors of a piece."""
    return sum(of.itemsize * of.shape[1:].numel() for of in tensors.values())


def rows_at(tensors: Mapping[str, Tensor], places: Tensor) -> ChangedRows:
    """Copies of a piece's rows, on the CPU."""
    found = {name: of.index_select(0, places.to(of.device)) for name, of in tensors.items()}
    return ChangedRows(places.cpu(), {name: of.cpu() for name, of in found.items()})


def _swapped(exchange: Exchange, own: ChangedRows, count: int) -> ChangedRows:
    """Sends rows to the next rank, and returns the `count` rows of the rank before."""
    names = sorted(own.tensors)
    message = _bytes([own.places, *(own.tensors[name] for name in names)])
    messages = [message[:0]] * exchange.size
    messages[(exchange.rank + 1) % exchange.size] = message
    pending = exchange.start_alltoall("rows to keep", messages)
    reader = _Reader(pending.result()[(exchange.rank - 1) % exchange.size])
    places = reader.next(own.places, count)
    return ChangedRows(places, {name: reader.next(own.tensors[name], count) for name in names})


def _bytes(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors' bytes, one after the other, uint8."""
    flat = [of.contiguous().view(-1).view(torch.uint8) for of in tensors]
    return torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8)


class _Reader:
    """Reads tensors from a message of bytes, uint8."""

    def __init__(self, message: Tensor) -> None:
        self._message, self._begin = message, 0

    def next(self, like: Tensor, rows: int) -> Tensor:
        """The next [rows, ...] of the message, of the dtype and row shape of `like`."""
        shape = (rows, *like.shape[1:])
        end = self._begin + like.itemsize * torch.Size(shape).numel()
        # A copy, because its memory must be aligned.
        found = self._message[self._begin : end].clone().view(like.dtype).view(shape)
        self._begin = end
        return found


@dataclass(frozen=True)
class Holder:
    """The rank that has a piece of former ranks, and whether it was its own."""

    rank: int
    is_own: bool


def holders_of(places: Sequence[tuple[int, int]]) -> list[Holder] | None:
    """Who has the pieces of the ranks that there were.

    Args:
        places: for each present rank, which rank it was, of how many; -1 where it is new.

    Returns:
        For each former rank; None where a piece is lost with a rank and the next one.
    """
    former = {was: rank for rank, (was, _) in enumerate(places) if was >= 0}
    count, found = max(of for _, of in places), []
    for was in range(count):
        if was in former:
            found.append(Holder(former[was], True))
        elif count > 1 and (was + 1) % count in former:
            found.append(Holder(former[(was + 1) % count], False))
        else:
            return None
    return found


@dataclass(frozen=True)
class Regrouping:
    """Pieces of former ranks that become those of the present ones, bucket by bucket.

    Attributes:
        exchange: of the present ranks.
        holders: of the former ranks' pieces.
        own: this rank's piece when it was a former one; without rows if it was none.
        previous: that of the former rank before it.
    """

    exchange: Exchange
    holders: Sequence[Holder]
    own: Mapping[str, Tensor]
    previous: Mapping[str, Tensor]

    def piece(self, buckets: Buckets, rows: Tensor) -> dict[str, Tensor]:
        """This rank's new piece of a table; all ranks must call this.

        Args:
            rows: [rows of the piece, E], which are overwritten; moments are made beside them.
        """
        moments = {name: of for name, of in self.own.items() if name != ROWS}
        found = {ROWS: rows} | {
            name: rows.new_empty(len(rows), *of.shape[1:], dtype=of.dtype)
            for name, of in moments.items()
        }
        largest = max(1, buckets.rows_of(0) * row_bytes(self.own))
        step = max(1, _MESSAGE_BYTES // largest) * self.exchange.size
        for begin in range(0, buckets.count, step):
            self._move(buckets, range(begin, min(buckets.count, begin + step)), found)
        return found

    def _move(self, buckets: Buckets, some: range, found: dict[str, Tensor]) -> None:
        size, former = self.exchange.size, len(self.holders)
        messages: list[list[Tensor]] = [[] for _ in range(size)]
        for bucket in some:
            holder = self.holders[bucket % former]
            if holder.rank == self.exchange.rank:
                piece = self.own if holder.is_own else self.previous
                begin, rows = buckets.begin(bucket, former), buckets.rows_of(bucket)
                messages[bucket % size] += [piece[n][begin : begin + rows] for n in sorted(piece)]
        sent = [_bytes(parts) for parts in messages]
        received = self.exchange.start_alltoall("buckets", sent).result()
        readers = [_Reader(message) for message in received]
        for bucket in some:
            if bucket % size == self.exchange.rank:
                reader, rows = readers[self.holders[bucket % former].rank], buckets.rows_of(bucket)
                begin = buckets.begin(bucket, size)
                for name in sorted(found):
                    found[name][begin : begin + rows] = reader.next(found[name], rows)
