"""What each rank writes of its sharded tables, in a checkpoint or a model, and reads of others'.

<folder>/tables/<table>/buckets-<rank>-of-<ranks>.safetensors  all rows of a piece, or
         tables/<table>/touched-<rank>-of-<ranks>.safetensors  those that changed
         moments/<table>/buckets-<rank>-of-<ranks>.safetensors of a model: the rows' moments
         part-<nanoseconds>-<rank>.json                        what the rank wrote, digests too
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import fsspec
from torch import Tensor

from jobs.models.tables.buckets import Buckets
from jobs.models.tables.pieces import TABLES, StoredTable, bucket_digests, piece_file, write_piece
from jobs.stores.errors import persistently
from jobs.stores.files import local_file, scheme_of, write_json, write_stream
from jobs.stores.tensors import bytes_of, header_of, mapped, write_tensors
from jobs.train.keep.seal import Damaged

# Among the tensors of a file with changed rows.
IDS = "ids"
Parts = Sequence[Mapping[str, Any]]
_POLL_S = 0.05


@dataclass(frozen=True)
class TablePiece:
    """A rank's piece of a table, to be written.

    Attributes:
        tensors: [k, ...], contiguous and on the CPU: `rows`, and moments.
        places: int64 [k], the indices of these rows in the piece, where only those are written that
            changed since the checkpoint before; None where all are.
        folder: of a file with all rows, see `StoredTable`.
    """

    name: str
    buckets: Buckets
    rank: int
    ranks: int
    tensors: Mapping[str, Tensor]
    places: Tensor | None = None
    folder: str = TABLES


def write_part(folder: str, moment_ns: int, rank: int, pieces: Sequence[TablePiece]) -> None:
    """Writes a rank's pieces of all tables, and then that it did.

    Args:
        folder: URL of the checkpoint's, or of the model's.
        moment_ns: that all ranks share, and no former attempt had.
    """
    tables = [
        _written_whole(folder, piece) if piece.places is None else _written_touched(folder, piece)
        for piece in pieces
    ]
    write_json(f"{folder}/{part_file(moment_ns, rank)}", {TABLES: tables})


def _written_whole(folder: str, piece: TablePiece) -> dict[str, Any]:
    place = piece.name, piece.rank, piece.ranks
    with _writing(f"{folder}/{piece_file(*place, piece.folder)}") as file:
        table = write_piece(
            file, piece.name, piece.buckets, piece.rank, piece.ranks, piece.tensors, piece.folder
        )
    return {"whole": table.to_json()}


def _written_touched(folder: str, piece: TablePiece) -> dict[str, Any]:
    assert piece.places is not None
    ids = piece.buckets.ids(piece.rank, piece.ranks)[piece.places]
    found = {**piece.tensors, IDS: ids}
    header = _touched_header(piece.name, found)
    with _writing(f"{folder}/{touched_file(piece.name, piece.rank, piece.ranks)}") as file:
        write_tensors(file, found, header)
    about = {"name": piece.name, "header": header.hex(), "sha256": _digest(found)}
    return {"touched": {**about, "rows": piece.buckets.rows, "count": piece.buckets.count}}


@contextmanager
def _writing(url: str) -> Iterator[IO[bytes]]:
    with write_stream(url) as file:
        yield file
        if scheme_of(url) == "file":
            # A commit must not outlast what it vouches for.
            file.flush()
            os.fsync(file.fileno())


def touched_file(table: str, rank: int, ranks: int) -> str:
    """The name of the file with the rows of a rank's piece that changed."""
    return f"{TABLES}/{table}/touched-{rank}-of-{ranks}.safetensors"


def _touched_header(name: str, tensors: Mapping[str, Tensor]) -> bytes:
    shapes = {key: (of.dtype, tuple(of.shape)) for key, of in tensors.items()}
    return header_of(shapes, {"table": name})


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def part_file(moment_ns: int, rank: int) -> str:
    """The name of the file that says what a rank wrote."""
    return f"part-{moment_ns}-{rank}.json"


def await_parts(
    folder: str, moment_ns: int, ranks: int, limit_s: float, stopped: threading.Event
) -> list[bytes]:
    """Waits until all ranks have written their parts; returns what they say, in their order.

    Raises:
        TimeoutError: a rank did not write its part in `limit_s`, or before it was `stopped`; names
            it.
    """
    fs, path = fsspec.core.url_to_fs(folder)
    until, missing = time.monotonic() + limit_s, list(range(ranks))
    while missing := [r for r in missing if not fs.exists(f"{path}/{part_file(moment_ns, r)}")]:
        named = ", ".join(map(str, missing))
        if stopped.is_set():
            raise TimeoutError(f"ranks were lost before rank {named} wrote its tables")
        if time.monotonic() > until:
            raise TimeoutError(f"rank {named} did not write its tables in {limit_s:g} s")
        stopped.wait(_POLL_S)
        fs.invalidate_cache()
    names = [f"{path}/{part_file(moment_ns, rank)}" for rank in range(ranks)]
    return [persistently(partial(fs.cat_file, name)) for name in names]


def remove_parts(folder: str) -> None:
    """Removes what the ranks said, which a model does not need."""
    fs, path = fsspec.core.url_to_fs(folder)
    for name in fs.glob(f"{path}/part-*.json"):
        fs.rm_file(name)


def stored_tables_of(texts: Sequence[bytes]) -> list[list[StoredTable]]:
    """For each table that ranks wrote whole, what each rank said of it."""
    trees = [json.loads(text)[TABLES] for text in texts]
    return [
        [StoredTable.from_json(entry["whole"]) for entry in of_table]
        for of_table in zip(*trees, strict=True)
    ]


def whole_files(url: str, parts: Parts) -> Iterator[tuple[int, StoredTable, dict[str, Tensor]]]:
    """Each file with all rows of a piece: its rank, its table with that rank's digests alone."""
    for rank, part in enumerate(parts):
        for tree in (entry["whole"] for entry in part[TABLES] if "whole" in entry):
            table = StoredTable.from_json(tree)
            with _local(f"{url}/{table.file(rank)}") as path:
                yield rank, table, mapped(path, table.header(rank))


def touched_files(
    url: str, parts: Parts
) -> Iterator[tuple[int, dict[str, Any], dict[str, Tensor]]]:
    """Each file with changed rows: its rank, what was written of it, its tensors."""
    for rank, part in enumerate(parts):
        for about in (entry["touched"] for entry in part[TABLES] if "touched" in entry):
            file = touched_file(about["name"], rank, len(parts))
            with _local(f"{url}/{file}") as path:
                yield rank, about, mapped(path, bytes.fromhex(about["header"]))


@contextmanager
def _local(url: str) -> Iterator[Path]:
    try:
        with local_file(url) as path:
            yield path
    except FileNotFoundError as error:
        raise Damaged(f"{url.rsplit('/', 1)[-1]} is missing") from error


def verify_parts(url: str, parts: Parts) -> None:
    """Reads all files of a checkpoint's parts.

    Raises:
        Damaged, Torn: one is missing, torn or changed.
    """
    for rank, table, tensors in whole_files(url, parts):
        for key, values in tensors.items():
            found = tuple(bucket_digests(values, table.buckets, rank, table.ranks))
            if found != table.digests[key]:
                file = table.file(rank)
                raise Damaged(f"{file} has another checksum than it was written with")
    for rank, about, tensors in touched_files(url, parts):
        if _digest(tensors) != about["sha256"]:
            file = touched_file(about["name"], rank, len(parts))
            raise Damaged(f"{file} has another checksum than it was written with")
