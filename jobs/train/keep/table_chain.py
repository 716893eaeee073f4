"""Checkpoints of sharded tables: every rank writes its part, one small file makes them complete.

It is `tables.json`, with the checksum of each part (`table_parts.py`), written last. A checkpoint
with changed rows names the one before it; with that one's own predecessors, down to one that has
all rows, it is a *chain*. Any number of ranks reads it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
from torch import Tensor

from jobs.models.buckets import Buckets
from jobs.models.pieces import copy_buckets
from jobs.stores.errors import persistently
from jobs.stores.files import write_json
from jobs.stores.tensors import Torn
from jobs.train.keep.checkpoint import Damaged, read_part
from jobs.train.keep.table_parts import IDS, part_file, touched_files, verify_parts, whole_files

COMPLETE = "tables.json"
_POLL_S = 0.1


@dataclass(frozen=True)
class Link:
    """A complete checkpoint of tables.

    Attributes:
        url: of its folder.
        after: name of the folder beside it, of the checkpoint that its rows change; None where it
            has all rows.
        depth: number of checkpoints that it follows.
        parts: what each rank wrote.
    """

    url: str
    after: str | None
    depth: int
    parts: tuple[Mapping[str, Any], ...]


def complete(folder: str, ranks: int, after: Link | None, limit_s: float) -> Link:
    """Waits until all ranks have written their parts, and makes the checkpoint complete.

    Args:
        after: the checkpoint, in a folder beside this one, since which rows changed; None where
            all are written.

    Raises:
        TimeoutError: a rank did not write its part in `limit_s`; names it.
    """
    fs, path = fsspec.core.url_to_fs(folder)
    until = time.monotonic() + limit_s
    missing = list(range(ranks))
    while missing := [r for r in missing if not fs.exists(f"{path}/{part_file(r)}")]:
        if time.monotonic() > until:
            named = ", ".join(map(str, missing))
            raise TimeoutError(f"rank {named} did not write its tables in {limit_s:g} s")
        time.sleep(_POLL_S)
        fs.invalidate_cache()
    texts = [persistently(partial(fs.cat_file, f"{path}/{part_file(r)}")) for r in range(ranks)]
    body = json.dumps(
        {
            "after": after.url.rstrip("/").rsplit("/", 1)[-1] if after else None,
            "depth": after.depth + 1 if after else 0,
            "parts": [hashlib.sha256(text).hexdigest() for text in texts],
        }
    )
    write_json(f"{folder}/{COMPLETE}", {"sha256": _sha256(body.encode()), "body": body})
    return _link(folder)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _link(url: str) -> Link:
    fs, path = fsspec.core.url_to_fs(url)
    seal = _json(read_part(fs, path, COMPLETE), COMPLETE)
    try:
        body: str = seal["body"]
        known: str = seal["sha256"]
    except (KeyError, TypeError) as error:
        raise Damaged(f"{COMPLETE} is torn") from error
    if _sha256(body.encode()) != known:
        raise Damaged(f"{COMPLETE} has another checksum than it says")
    tree, parts = json.loads(body), []
    for rank, digest in enumerate(tree["parts"]):
        text = read_part(fs, path, part_file(rank))
        if _sha256(text) != digest:
            raise Damaged(f"{part_file(rank)} has another checksum than it was written with")
        parts.append(_json(text, part_file(rank)))
    return Link(url, tree["after"], tree["depth"], tuple(parts))


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise Damaged(f"{name} is torn") from error


def verified_chain(url: str, most: int) -> list[Link]:
    """A checkpoint and those that it follows, the one with all rows first; reads all their files.

    Args:
        most: checkpoints of a chain; a longer one goes in a circle, or was not written by us.

    Raises:
        Damaged: a file of one of them is missing, torn or changed; names checkpoint and file.
    """
    links: list[Link] = []
    name: str | None = url.rstrip("/").rsplit("/", 1)[-1]
    while name is not None:
        if len(links) == most:
            raise Damaged(f"it follows more than {most - 1} others")
        place = f"{url.rstrip('/').rsplit('/', 1)[0]}/{name}"
        try:
            link = _link(place)
            verify_parts(link.url, link.parts)
        except (Damaged, Torn) as error:
            where = f"{name}, which it follows: " if links else ""
            raise Damaged(f"{where}{error}") from error
        links.insert(0, link)
        name = link.after
    return links


def newest_chain(urls: Sequence[str], most: int) -> tuple[list[Link], list[str]]:
    """The newest chain that is complete, and a line for each newer one that is not.

    Args:
        urls: of checkpoints' folders, the newest first.
        most: see `verified_chain`.
    """
    passed_over: list[str] = []
    for url in urls:
        try:
            return verified_chain(url, most), passed_over
        except (Damaged, OSError) as error:
            passed_over.append(f"checkpoint {'/'.join(url.split('/')[-2:])} is not used: {error}")
    return [], passed_over


def read_piece(chain: Sequence[Link], name: str, rank: int, ranks: int) -> dict[str, Tensor]:
    """A rank's piece of a table, for any number of ranks: its tensors [rows of the piece, ...].

    Args:
        chain: see `verified_chain`.
    """
    first, *later = chain
    found: dict[str, Tensor] = {}
    for source, table, tensors in whole_files(first.url, first.parts):
        if table.name == name:
            for key, values in tensors.items():
                if key not in found:
                    rows = table.buckets.piece_rows(rank, ranks)
                    found[key] = values.new_empty(rows, *values.shape[1:])
                theirs = source, table.ranks
                copy_buckets(table.buckets, values, theirs, found[key], (rank, ranks))
    for link in later:
        for _, about, tensors in touched_files(link.url, link.parts):
            if about["name"] == name:
                _change(found, about, tensors, rank, ranks)
    return found


def _change(
    piece: Mapping[str, Tensor],
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    rank: int,
    ranks: int,
) -> None:
    buckets, ids = Buckets(about["rows"], about["count"]), tensors[IDS]
    own = (buckets.owners(ids, ranks) == rank).nonzero().squeeze(1)
    places = buckets.places(ids[own], ranks)
    for key, values in piece.items():
        values[places] = tensors[key].index_select(0, own)
