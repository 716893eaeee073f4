"""Checkpoints that follow others: which ones a run needs, and what is read of them.

A checkpoint of sharded tables may have only those rows that changed since the one before, which it
names; with that one's own predecessors, down to one that has all rows, it is a *chain*. Each rank
writes its part (`table_parts.py`); the commit has the digests of all parts. Any number of ranks
reads a chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import torch
from torch import Tensor

from jobs.models.tables.buckets import Buckets
from jobs.models.tables.pieces import ROWS, copy_buckets
from jobs.stores.tensors import Torn
from jobs.train.keep.checkpoint import STAGED, Checkpoint, commit_of, listed, verified
from jobs.train.keep.seal import COMMIT, Damaged, TablesSeal, read_part
from jobs.train.keep.table_parts import IDS, part_file, touched_files, verify_parts, whole_files
from jobs.train.tables.copies import Pieces
from jobs.train.tables.room import rows_in_part


@dataclass(frozen=True)
class Link:
    """A checkpoint of tables in a chain.

    Attributes:
        url: of its folder.
        parts: what each rank wrote.
    """

    url: str
    parts: tuple[Mapping[str, Any], ...]


def verified_chain(url: str) -> Checkpoint:
    """Reads a checkpoint's commit, and all files of it and of those that it follows.

    Raises:
        Damaged: a file of one of them is missing, torn or changed; names checkpoint and file.
    """
    found = verified(url)
    if found.tables is not None:
        for link in chain_of(found):
            try:
                verify_parts(link.url, link.parts)
            except (Damaged, Torn) as error:
                raise Damaged(_named(found.url, link.url, error)) from error
    return found


def chain_of(checkpoint: Checkpoint) -> list[Link]:
    """A checkpoint and those that it follows, the one with all rows first.

    Raises:
        Damaged: a commit or a part's file is missing, torn or changed.
    """
    links: list[Link] = []
    url, seal = checkpoint.url, checkpoint.tables
    while seal is not None:
        try:
            links.insert(0, Link(url, _parts(url, seal)))
            if seal.after is None:
                break
            url = f"{url.rsplit('/', 1)[0]}/{seal.after}"
            before, seal = seal, _seal_of(url)
            if seal.depth != before.depth - 1:
                raise Damaged(f"{COMMIT} follows {seal.depth} others, not {before.depth - 1}")
        except Damaged as error:
            raise Damaged(_named(checkpoint.url, url, error)) from error
    return links


def _named(newest: str, url: str, error: Exception) -> str:
    return f"{'' if url == newest else _name(url) + ', which it follows: '}{error}"


def _name(url: str) -> str:
    return url.rstrip("/").rsplit("/", 1)[-1]


def _seal_of(url: str) -> TablesSeal:
    tree = commit_of(url).get("tables")
    if tree is None:
        raise Damaged(f"{COMMIT} has no tables")
    return TablesSeal.from_json(tree)


def _parts(url: str, seal: TablesSeal) -> tuple[Mapping[str, Any], ...]:
    fs, path = fsspec.core.url_to_fs(url)
    parts = []
    for rank, digest in enumerate(seal.parts):
        name = part_file(seal.moment_ns, rank)
        text = read_part(fs, path, name)
        if hashlib.sha256(text).hexdigest() != digest:
            raise Damaged(f"{name} has another checksum than it was written with")
        parts.append(json.loads(text))
    return tuple(parts)


def read_pieces(chain: Sequence[Link], rank: int, ranks: int, rows: Mapping[str, Tensor]) -> Pieces:
    """A rank's pieces of all tables, for any number of ranks.

    Args:
        chain: see `chain_of`.
        rows: of each table, [rows of the piece, E], which are overwritten; moments are made beside
            them.
    """
    first, *later = chain
    found: Pieces = {name: {ROWS: of} for name, of in rows.items()}
    for source, table, tensors in whole_files(first.url, first.parts):
        piece = found[table.name]
        for key, values in tensors.items():
            if key not in piece:
                shape = len(piece[ROWS]), *values.shape[1:]
                piece[key] = piece[ROWS].new_empty(shape, dtype=values.dtype)
            theirs = source, table.ranks
            copy_buckets(table.buckets, values, theirs, piece[key], (rank, ranks))
    for link in later:
        for _, about, tensors in touched_files(link.url, link.parts):
            _change(found[about["name"]], about, tensors, rank, ranks)
    return found


def _change(
    piece: dict[str, Tensor],
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    rank: int,
    ranks: int,
) -> None:
    buckets, ids = Buckets(about["rows"], about["count"]), tensors[IDS]
    own = (buckets.owners(ids, ranks) == rank).nonzero().squeeze(1)
    places = buckets.places(ids[own], ranks)
    for key, values in tensors.items():
        if key == IDS:
            continue
        if key not in piece:
            # A moment that began after the checkpoint with all rows.
            shape = len(piece[ROWS]), *values.shape[1:]
            piece[key] = piece[ROWS].new_zeros(shape, dtype=values.dtype)
        step = rows_in_part(values)
        for to, some in zip(torch.split(places, step), torch.split(own, step), strict=True):
            piece[key][to] = values.index_select(0, some).to(piece[key].device)


def prune(folder: str, keep: int, written: list[str]) -> None:
    """Removes the checkpoints of a run that its last complete ones do not need.

    Args:
        folder: URL of the run's folder.
        keep: number of checkpoints that stay, besides those that they follow.
        written: URLs of the run's complete checkpoints, the oldest first.
    """
    kept = {name for url in written[-keep:] for name in _names_of_chain(url)}
    fs, root = fsspec.core.url_to_fs(folder)
    for url in listed(folder):
        name = _name(url)
        if name not in kept:
            # First the commit, so that a half-removed folder does not look like a checkpoint.
            if fs.exists(f"{root}/{name}/{COMMIT}"):
                fs.rm_file(f"{root}/{name}/{COMMIT}")
            fs.rm(f"{root}/{name}", recursive=True)
    for path in fs.glob(f"{root}/{STAGED}*"):  # A process was killed while it wrote it.
        fs.rm(path, recursive=True)


def _names_of_chain(url: str) -> Iterator[str]:
    name: str | None = _name(url)
    while name is not None:
        yield name
        try:
            tables = commit_of(f"{url.rstrip('/').rsplit('/', 1)[0]}/{name}").get("tables")
        except Damaged:
            return
        name = tables["after"] if tables else None
