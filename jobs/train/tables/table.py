"""A rank's piece of an embedding table, and the layer that stands for the table in a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.base.errors import ConfigError
from jobs.models.build import Model, embedding_tables
from jobs.models.layers import EmbeddingTable
from jobs.models.spec import ModelSpec
from jobs.models.tables.buckets import Buckets
from jobs.settings.train import TrainSettings
from jobs.train.tables.room import rows_in_part

# Index of the row of zeros that stands for padding, among the rows of a step.
PADDING_INDEX = 0
# By `train.table_dtype`; None keeps the model's.
_ROW_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Lookup:
    """Rows that a forward pass is going to look up in a table.

    Attributes:
        ids: int64, of any shape.
        indices: int64, in that shape, of these ids among the step's rows.
        rows: [1 + d, E]: zeros for padding, then the step's d distinct rows. A leaf of its own, so
            that the gradients of several lookups are told apart.
    """

    ids: Tensor
    indices: Tensor
    rows: Tensor

    @property
    def gradients(self) -> Tensor:
        """Of each id, [k, E]; zeros where no gradient reached them."""
        if self.rows.grad is None:
            return self.rows.new_zeros(self.ids.numel(), self.rows.shape[1])
        return self.rows.grad._values()


class ShardedEmbedding(nn.Module):
    """Looks up rows that were fetched from the ranks that own them.

    Args:
        name: of the table.

    Attributes:
        lookups: those that the next forward passes make, in order.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.lookups: list[Lookup] = []

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape -> [..., E].

        Raises:
            ConfigError: they are not those that the model's `lookups` gave.
        """
        if not self.lookups or not torch.equal(self.lookups[0].ids, ids):
            raise ConfigError(
                f"the model looks up ids in {self.name} that its `lookups` do not name",
                "a method lookups(batch), of the model or the layer, that yields the table and the "
                "ids for each lookup, in order",
                "set train.tables to replicated, or add the method",
            )
        found = self.lookups.pop(0)
        # Sparse: the gradient has a row for each id, padding too, in the order of the ids.
        return F.embedding(found.indices, found.rows, sparse=True)


@dataclass
class ShardedTable:
    """A rank's piece of an embedding table.

    Attributes:
        name: of the table's weight in the model.
        buckets: of the table.
        rank, ranks: whose piece it is, of how many.
        piece: [rows owned, E], in `train.table_dtype`.
        layer: that stands for the table in the model.
        source: the table without values, for fresh rows.
        touched: bool [rows owned], the rows that changed since the last commit.
    """

    name: str
    buckets: Buckets
    rank: int
    ranks: int
    piece: nn.Parameter
    layer: ShardedEmbedding
    source: EmbeddingTable
    touched: Tensor

    @property
    def computed(self) -> torch.dtype:
        """The model's dtype, in which rows are looked up and have their gradients."""
        return self.source.weight.dtype

    @property
    def ids(self) -> Tensor:
        """Those of its rows, int64 [rows owned]."""
        return self.buckets.ids(self.rank, self.ranks)

    @property
    def dim(self) -> int:
        """Values of a row."""
        return self.piece.shape[1]

    def buckets_of(self, places: Tensor) -> Tensor:
        """The buckets of rows of the piece, by their indices [k] in it, int64 [k]."""
        owned = torch.arange(self.rank, self.buckets.count, self.ranks, device=places.device)
        # A bucket begins with the row whose id is its number.
        begins = self.buckets.places(owned, self.ranks)
        return owned[torch.searchsorted(begins, places, right=True) - 1]

    @torch.no_grad()
    def fill(self, seed: int) -> None:
        """Sets the piece to the table's fresh rows."""
        step = rows_in_part(self.piece)
        for ids, rows in zip(
            torch.split(self.ids, step), torch.split(self.piece, step), strict=True
        ):
            rows.copy_(self.source.fresh(seed, self.name, ids))


def may_shard(settings: TrainSettings, spec: ModelSpec) -> bool:
    """Whether a model of a spec has sharded tables, if it has any."""
    return "sharded" in {settings.tables, *spec.table_places, *spec.list_places.values()}


def refuse_ignored_places(model: Model, spec: ModelSpec) -> None:
    """Refuses a model that does not put its tables where the declaration says.

    Raises:
        ConfigError: names where no table is.
    """
    wanted = {*spec.table_places, *spec.list_places.values()}
    found = {getattr(table, "place", "") for _, table in embedding_tables(model)}
    if missing := wanted - found - {""}:
        raise ConfigError(
            f"the declaration has fields with table={min(missing)!r}, but no table of train.model "
            "is made so",
            "tables of jobs.models.layers and lists that are given spec.table_places and "
            "spec.list_places",
            "give them, or leave `table` out of the declaration",
        )


def place_of(table: nn.Module, settings: TrainSettings) -> str:
    """Where a table is: replicated or sharded, as the declaration says, or else the settings."""
    declared = table.place if isinstance(table, EmbeddingTable) else ""
    return declared or settings.tables


def shard(
    model: Model, settings: TrainSettings, rank: int, ranks: int, device: torch.device
) -> list[ShardedTable]:
    """Replaces the sharded tables of a model that was built without values of its tables.

    The others get their fresh values.

    Args:
        device: for the pieces, whose values are undefined.

    Raises:
        ConfigError: a table cannot be sharded, or there are more ranks than buckets.
    """
    tables = []
    for name, source in list(embedding_tables(model)):
        if place_of(source, settings) == "replicated":
            if isinstance(source, EmbeddingTable):
                source.fill(settings.seed, name)
            continue
        if not isinstance(source, EmbeddingTable):
            raise _refused(name, "is made by another layer than this project's")
        if not source.weight.requires_grad:
            raise _refused(name, "is frozen (requires_grad is False)")
        path = name.removesuffix(".weight")
        layer = ShardedEmbedding(path)
        parent, _, key = path.rpartition(".")
        model.get_submodule(parent)._modules[key] = layer
        buckets = Buckets(source.num_embeddings, settings.table_buckets)
        rows = buckets.piece_rows(rank, ranks)
        dtype = _ROW_DTYPES[settings.table_dtype] or source.weight.dtype
        own = nn.Parameter(torch.empty(rows, source.embedding_dim, dtype=dtype, device=device))
        own.grad_dtype = source.weight.dtype
        touched = torch.zeros(rows, dtype=torch.bool, device=device)
        tables.append(ShardedTable(name, buckets, rank, ranks, own, layer, source, touched))
    for name, parameter in model.named_parameters():
        if parameter.is_meta and device.type != "meta":
            raise _refused(name, "is used by another layer too")
    return tables


def _refused(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"train.tables is sharded, but {name} {why}",
        "tables of jobs.models.layers (Embeddings, embedding_table) that no other layer uses",
        "set train.tables to replicated",
    )
