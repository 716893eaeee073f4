"""What a model's card says of tensors in files: weights, optimizers' moments, tables of either."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from jobs.base.errors import DataRefused
from jobs.models.folder import CARD, MOMENTS, WEIGHTS, read_card, read_tensors
from jobs.models.tables.pieces import StoredTable, TableFiles
from jobs.stores.host import on_host
from jobs.stores.tensors import Torn


@dataclass(frozen=True)
class Stored:
    """Tensors of a model's folder.

    Attributes:
        tensors: by their names.
        tables: those of embedding tables in files of their own, by the names of the tables.
    """

    tensors: Mapping[str, Tensor]
    tables: Mapping[str, TableFiles]


@dataclass(frozen=True)
class _Place:
    """Where a card speaks of one kind of tensors.

    Attributes:
        file: of those that are not in files of their own.
        digest, dense, tables: keys of the digest of all, of that of the file, and of the tables.
        copies: kind of those that a host keeps of tables' files.
    """

    file: str
    digest: str
    dense: str
    tables: str
    copies: Literal["copies", "moments"]


_WEIGHTS = _Place(WEIGHTS, "weights_digest", "dense_digest", "tables", "copies")
_MOMENTS = _Place(MOMENTS, "moments_digest", "dense_moments_digest", "moment_tables", "moments")


def card_of_weights(dense: str, tables: Sequence[StoredTable]) -> dict[str, Any]:
    """What the card says of weights: `dense` is the digest of those in no table's files."""
    return _card_of(_WEIGHTS, dense, tables)


def card_of_moments(dense: str, tables: Sequence[StoredTable]) -> dict[str, Any]:
    """The same of the optimizers' moments."""
    return _card_of(_MOMENTS, dense, tables)


def _card_of(place: _Place, dense: str, tables: Sequence[StoredTable]) -> dict[str, Any]:
    if not tables:
        return {place.digest: dense}
    digests = "\n".join([dense, *(of.digest(name) for of in tables for name in sorted(of.shapes))])
    return {
        place.digest: hashlib.sha256(digests.encode()).hexdigest()[:32],
        place.dense: dense,
        place.tables: [table.to_json() for table in tables],
    }


def read_weights(folder_url: str, card: Mapping[str, Any]) -> Stored:
    """Reads a model's weights, and maps those that are in tables' files.

    Raises:
        DataRefused: a file is missing, torn, or not what was saved.
    """
    return _read(folder_url, card, _WEIGHTS)


def read_moments(folder_url: str) -> Stored | None:
    """The same of what a model's folder keeps of its optimizers; None where it keeps nothing."""
    card = read_card(folder_url)
    return _read(folder_url, card, _MOMENTS) if _MOMENTS.digest in card else None


def _read(folder_url: str, card: Mapping[str, Any], place: _Place) -> Stored:
    dense = read_tensors(folder_url, place.file, card.get(place.dense, card[place.digest]))
    return Stored(dense, _opened(folder_url, card, place))


def _tables(card: Mapping[str, Any], place: _Place) -> list[StoredTable]:
    return [StoredTable.from_json(tree) for tree in card.get(place.tables, [])]


def _opened(folder_url: str, card: Mapping[str, Any], place: _Place) -> dict[str, TableFiles]:
    """Maps tables' files, which one process of the host has checked."""
    tables = _tables(card, place)
    if not tables:
        return {}
    if card[place.digest] != _card_of(place, card[place.dense], tables)[place.digest]:
        raise DataRefused(
            f"{CARD} in {folder_url} was changed: {place.tables}",
            "the digests of tables with which it was saved",
            "restore the model's folder, or use another version",
        )
    files = {name: size for table in tables for name, size in table.sizes().items()}

    def opened(folder: Path) -> dict[str, TableFiles]:
        return {table.name: TableFiles(folder, table) for table in tables}

    def verify(folder: Path) -> None:
        for of in opened(folder).values():
            of.verify()

    try:
        return opened(on_host(folder_url, files, card[place.digest], verify, place.copies))
    except (FileNotFoundError, Torn) as error:
        raise DataRefused(
            f"the model in {folder_url} is damaged: {error}",
            "the files with which it was saved",
            "restore the model's folder, or use another version",
        ) from error
