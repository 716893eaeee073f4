"""What a rank's memory must hold: the sum that is compared with `train.memory_mb` at the start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jobs.base.errors import ConfigError
from jobs.models.build import embedding_tables
from jobs.settings.settings import Settings
from jobs.settings.train import TrainSettings
from jobs.train.tables.table import place_of

# Tensors that the optimizer keeps beside each parameter.
_MOMENTS = {"sgd": 0, "adagrad": 1, "row_adagrad": 1, "adam": 2}
_MOMENT_BYTES = 4
# Python, torch, Arrow.
_REST_BYTES = 1 << 30


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of rank 0, which may be any: it writes what is kept. See `docs/cluster.md`.

    Attributes:
        tables, layers: the weights of whole embedding tables, and the other ones.
        table_moments, layer_moments: the optimizer's tensors for these.
        shared: the weights and moments of sharded tables, all ranks together.
        stream: of the rows that are read.
        ranks: that share tables; None where each has all of them.
        copies_on_disk: whether what commits keep of shared tables takes no memory.
    """

    tables: int
    layers: int
    table_moments: int
    layer_moments: int
    shared: int
    stream: int
    ranks: int | None = None
    copies_on_disk: bool = False

    @classmethod
    def of(cls, model: nn.Module, settings: Settings) -> MemoryNeed:
        """The need of a model, which may be without values."""
        train = settings.train
        tables = {id(table.weight): table for _, table in embedding_tables(model)}.values()
        sharded = [t.weight for t in tables if place_of(t, train) == "sharded"]
        whole = [t.weight for t in tables if place_of(t, train) != "sharded"]
        layers = sum(of.nbytes for of in model.parameters()) - _bytes([*sharded, *whole])
        moments = _MOMENTS[train.optimizer]
        row_bytes = getattr(torch, train.table_dtype).itemsize
        return cls(
            tables=_bytes(whole),
            layers=layers,
            table_moments=_moment_bytes(whole, train),
            layer_moments=layers * moments,
            shared=sum(of.numel() for of in sharded) * row_bytes + _moment_bytes(sharded, train),
            stream=settings.stream.memory_mb << 20,
            ranks=train.workers if sharded else None,
            copies_on_disk=train.table_copies == "disk",
        )

    @property
    def total(self) -> int:
        return sum(self._parts.values())

    @property
    def _parts(self) -> dict[str, int]:
        """Beside weights and moments there are three snapshots of them (the last commit, the one
        being written, the best epoch's that waits), and the file that is being written, twice."""
        weights = self.layers + self.tables
        moments = self.layer_moments + self.table_moments
        return {
            **({"tables": self.tables} if self.tables or self.ranks is None else {}),
            **(self._pieces(self.ranks) if self.ranks is not None else {}),
            "other weights": self.layers,
            "moments": moments,
            "three snapshots of these": 3 * (weights + moments),
            "a file of a checkpoint, twice": 2 * max(weights, moments),
            "stream.memory_mb": self.stream,
            "the rest": _REST_BYTES,
        }

    def _pieces(self, ranks: int) -> dict[str, int]:
        """Of sharded tables; most is held while the pieces of a lost rank are dealt out."""
        state = self.shared
        if self.copies_on_disk:
            with_fewer = " with a rank fewer" if ranks > 1 else ""
            piece = f"a piece of sharded tables and their moments{with_fewer}"
            return {piece: -(-state // max(1, ranks - 1))}
        if ranks == 1:
            return {"sharded tables and their moments": state, "a copy of these": state}
        left = ranks - 1
        copies = 2 if left > 1 else 1
        return {
            "copies of two pieces of sharded tables and their moments": -(-2 * state // ranks),
            "a piece and its copies with a rank fewer": -(-(1 + copies) * state // left),
        }

    def text(self) -> str:
        """The sum, in MB."""
        listed = " + ".join(f"{_mb(size):,} ({name})" for name, size in self._parts.items())
        return f"{listed} = {_mb(self.total):,} MB"

    def fits(self, settings: Settings) -> bool:
        """Whether `train.memory_mb`, if set, is enough."""
        most = settings.train.memory_mb
        return most is None or self.total <= most << 20

    def refuse_excess(self, settings: Settings) -> None:
        """
        Raises:
            ConfigError: it is more than `train.memory_mb`; with the sum.
        """
        most = settings.train.memory_mb
        if not self.fits(settings):
            share = self._remedy
            raise ConfigError(
                f"a rank {self.title} may take {self.text()}",
                f"at most {most:,} MB (train.memory_mb)",
                f"{share}; give each rank more memory and raise train.memory_mb; or smaller "
                "tables: train.embedding_dim, the fields' max_size; or fewer moments: "
                "train.optimizer adagrad, row_adagrad or sgd",
            )

    @property
    def _remedy(self) -> str:
        if self.ranks is None:
            return "set train.tables to sharded"
        return "raise train.workers" + (
            "" if self.copies_on_disk else ", or set train.table_copies to disk"
        )

    @property
    def title(self) -> str:
        return "with all tables" if self.ranks is None else f"of {self.ranks} that share tables"


def _bytes(weights: Iterable[Tensor]) -> int:
    return sum(of.nbytes for of in weights)


def _moment_bytes(weights: Iterable[Tensor], train: TrainSettings) -> int:
    of_a_row = train.optimizer == "row_adagrad"
    values = sum(len(of) if of_a_row else of.numel() for of in weights)
    return values * _MOMENTS[train.optimizer] * _MOMENT_BYTES


def _mb(size: int) -> int:
    return -(-size >> 20)
