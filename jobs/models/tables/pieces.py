"""Embedding tables as files: a piece of a table each, which any number of ranks writes or reads.

    tables/<table>/buckets-<rank>-of-<ranks>.safetensors   its rows
    moments/<table>/buckets-<rank>-of-<ranks>.safetensors  what the optimizer keeps of them

Each file has tensors of the piece's rows, one after the other as in the piece. A bucket is a slice
of them, so that whoever reads copies slices, or looks up rows in the mapped files. The digest of a
table follows from those of its buckets: it is the same whatever the number of files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from jobs.models.tables.buckets import Buckets
from jobs.stores.tensors import Torn, bytes_of, header_of, mapped, write_tensors

ROWS = "rows"
# Folders of rows (and of all that a checkpoint has of a table), and of moments.
TABLES, MOMENT_TABLES = "tables", "moments"
# Files of a table that one process writes whole are about so large.
_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class StoredTable:
    """A table in files.

    Attributes:
        name: of its parameter.
        rows, count: of the table, and of its buckets.
        ranks: that wrote it, a file each.
        shapes: of each tensor, its dtype's name and the shape of a row.
        digests: of each tensor, those of the buckets, in order.
        folder: TABLES, or MOMENT_TABLES.
    """

    name: str
    rows: int
    count: int
    ranks: int
    shapes: Mapping[str, tuple[str, tuple[int, ...]]]
    digests: Mapping[str, tuple[str, ...]]
    folder: str = TABLES

    @property
    def buckets(self) -> Buckets:
        return Buckets(self.rows, self.count)

    @property
    def nbytes(self) -> int:
        """Of all files, without their headers."""
        return self.rows * self.row_bytes

    @property
    def model_bytes(self) -> int:
        """Of all rows in a model's memory, where they are float32."""
        return 4 * self.rows * torch.Size(self.shapes[ROWS][1]).numel()

    @property
    def files(self) -> list[str]:
        """Their names, relative to the folder of the model or checkpoint."""
        return [self.file(rank) for rank in range(self.ranks)]

    def file(self, rank: int) -> str:
        """The name of a rank's file."""
        return piece_file(self.name, rank, self.ranks, self.folder)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, in all tensors."""
        return sum(
            _dtype(dtype).itemsize * torch.Size(shape).numel()
            for dtype, shape in self.shapes.values()
        )

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        rows = (self.buckets.piece_rows(rank, self.ranks) for rank in range(self.ranks))
        return {
            file: len(self.header(rank)) + own * self.row_bytes
            for rank, (file, own) in enumerate(zip(self.files, rows, strict=True))
        }

    def digest(self, tensor: str = ROWS) -> str:
        """Of the values of all rows; it does not depend on the number of files."""
        dtype, shape = self.shapes[tensor]
        text = f"{self.name} {self.rows} {self.count} {dtype} {list(shape)} "
        return hashlib.sha256((text + " ".join(self.digests[tensor])).encode()).hexdigest()[:32]

    def header(self, rank: int) -> bytes:
        """What a rank's file begins with."""
        rows = self.buckets.piece_rows(rank, self.ranks)
        shapes = {
            tensor: (_dtype(dtype), (rows, *shape))
            for tensor, (dtype, shape) in self.shapes.items()
        }
        facts = {"rows": self.rows, "buckets": self.count, "rank": rank, "ranks": self.ranks}
        return header_of(shapes, {"table": self.name, **{k: str(v) for k, v in facts.items()}})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> StoredTable:
        shapes = {name: (dtype, tuple(shape)) for name, (dtype, shape) in tree["shapes"].items()}
        digests = {name: tuple(of) for name, of in tree["digests"].items()}
        return cls(**{**tree, "shapes": shapes, "digests": digests})


def piece_file(table: str, rank: int, ranks: int, folder: str = TABLES) -> str:
    """The name of the file with a rank's piece."""
    return f"{folder}/{table}/buckets-{rank}-of-{ranks}.safetensors"


def write_piece(
    file: IO[bytes],
    name: str,
    buckets: Buckets,
    rank: int,
    ranks: int,
    piece: Mapping[str, Tensor],
    folder: str = TABLES,
) -> StoredTable:
    """Writes a rank's piece of a table.

    Args:
        piece: tensors [rows of the piece, ...], contiguous and on the CPU.
        folder: that the file is in, see `StoredTable`.

    Returns:
        The table with the digests of the rank's buckets alone; see `joined`.
    """
    own = StoredTable(
        name,
        buckets.rows,
        buckets.count,
        ranks,
        {key: (_named(of.dtype), tuple(of.shape[1:])) for key, of in piece.items()},
        {key: tuple(bucket_digests(of, buckets, rank, ranks)) for key, of in piece.items()},
        folder,
    )
    write_tensors(file, piece, own.header(rank))
    return own


def joined(parts: Sequence[StoredTable]) -> StoredTable:
    """The table, of what `write_piece` returned on each rank, in their order."""
    first, ranks = parts[0], len(parts)
    digests = {
        key: tuple(parts[b % ranks].digests[key][b // ranks] for b in range(first.count))
        for key in first.digests
    }
    return replace(first, digests=digests)


def write_table(folder: Path, name: str, rows: Tensor, count: int) -> StoredTable:
    """Writes a whole table [rows, ...] into a local folder, in as many files as its size asks."""
    buckets = Buckets(len(rows), count)
    ranks = min(count, max(1, -(-rows.nbytes // _FILE_BYTES)))
    parts = []
    for rank in range(ranks):
        path = folder / piece_file(name, rank, ranks)
        path.parent.mkdir(parents=True, exist_ok=True)
        piece = rows.index_select(0, buckets.ids(rank, ranks))
        with path.open("wb") as file:
            parts.append(write_piece(file, name, buckets, rank, ranks, {ROWS: piece}))
    return joined(parts)


def copy_buckets(
    buckets: Buckets,
    source: Tensor,
    theirs: tuple[int, int],
    target: Tensor,
    ours: tuple[int, int],
) -> None:
    """Copies the buckets that two pieces of a table have in common.

    Args:
        source, target: tensors [rows of the piece, ...].
        theirs, ours: the rank whose piece each is, and of how many.
    """
    for bucket in buckets.owned(*theirs):
        if bucket % ours[1] == ours[0]:
            rows = buckets.rows_of(bucket)
            begin, to = buckets.begin(bucket, theirs[1]), buckets.begin(bucket, ours[1])
            target[to : to + rows] = source[begin : begin + rows]


class TableFiles:
    """A table's mapped files.

    Args:
        folder: local, of the model or checkpoint.

    Raises:
        Torn: a file is missing, of another size, or has another header.
    """

    def __init__(self, folder: Path, table: StoredTable) -> None:
        self.table, self.buckets = table, table.buckets
        self._pieces = [mapped(folder / f, table.header(r)) for r, f in enumerate(table.files)]

    def verify(self) -> None:
        """Reads all values.

        Raises:
            Torn: a bucket has other bytes than were written; names its file.
        """
        table = self.table
        for rank, piece in enumerate(self._pieces):
            for key, values in piece.items():
                found = bucket_digests(values, self.buckets, rank, table.ranks)
                owned = self.buckets.owned(rank, table.ranks)
                for bucket, digest in zip(owned, found, strict=True):
                    if digest != table.digests[key][bucket]:
                        raise Torn(
                            f"{table.file(rank)}: {key} of bucket "
                            f"{bucket} have another checksum than they were written with"
                        )

    def rows(self, ids: Tensor, tensor: str = ROWS) -> Tensor:
        """A copy of the rows `ids` [k], [k, ...]."""
        if len(self._pieces) == 1:
            return self._pieces[0][tensor].index_select(0, self.buckets.places(ids, 1))
        owners = self.buckets.owners(ids, len(self._pieces))
        places = self.buckets.places(ids, len(self._pieces))
        dtype, shape = self.table.shapes[tensor]
        found = torch.empty((len(ids), *shape), dtype=_dtype(dtype))
        for rank in set(owners.tolist()):
            here = (owners == rank).nonzero().squeeze(1)
            found[here] = self._pieces[rank][tensor].index_select(0, places[here])
        return found

    def piece(self, rank: int, ranks: int, tensor: str = ROWS) -> Tensor:
        """A copy of a rank's piece, for any number of ranks."""
        dtype, shape = self.table.shapes[tensor]
        rows = self.buckets.piece_rows(rank, ranks)
        found = torch.empty((rows, *shape), dtype=_dtype(dtype))
        for source, piece in enumerate(self._pieces):
            theirs = source, self.table.ranks
            copy_buckets(self.buckets, piece[tensor], theirs, found, (rank, ranks))
        return found

    def whole(self, tensor: str = ROWS) -> Tensor:
        """A copy of all rows, in order of their ids."""
        dtype, shape = self.table.shapes[tensor]
        found = torch.empty((self.buckets.rows, *shape), dtype=_dtype(dtype))
        for rank, piece in enumerate(self._pieces):
            found[self.buckets.ids(rank, self.table.ranks)] = piece[tensor]
        return found


def bucket_digests(values: Tensor, buckets: Buckets, rank: int, ranks: int) -> Iterable[str]:
    """The digests of a rank's buckets, in order, of a tensor [rows of its piece, ...]."""
    for bucket in buckets.owned(rank, ranks):
        begin = buckets.begin(bucket, ranks)
        content = bytes_of(values[begin : begin + buckets.rows_of(bucket)])
        yield hashlib.sha256(content).hexdigest()[:32]


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found
