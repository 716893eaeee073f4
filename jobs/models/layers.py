"""Layers that the models share. B rows, D numeric fields, C categorical fields, E dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from jobs.batch.batch import Batch
from jobs.models.spec import ModelSpec
from jobs.models.tables.fresh import fresh_rows
from schemas.field import PADDING_ID, TablePlace

# Standardised inputs are cut here, so that one absurd value does not rule a batch's gradient.
MOST_DEVIATIONS = 10.0
# Small, so that a row that training hardly touched hardly speaks.
EMBEDDING_STD = 0.01


class InputLayer(nn.Module):
    """Imputes and standardises the numeric fields with the state's statistics.

    A missing value becomes the mean, and an input of its own says that it was missing.
    """

    means: Tensor
    stds: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(spec.means, dtype=torch.float32))
        self.register_buffer("stds", torch.tensor(spec.stds, dtype=torch.float32))
        self.num_outputs = 2 * spec.num_dense

    def forward(self, dense: Tensor) -> Tensor:
        """[B, D] with NaN where missing -> [B, 2 D] without."""
        missing = dense.isnan()
        standard = (dense - self.means) / self.stds
        standard = standard.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS).masked_fill(missing, 0.0)
        return torch.cat([standard, missing.to(standard.dtype)], dim=1)


class Embeddings(nn.Module):
    """Embeddings of categorical fields, with sparse gradients; padding (id 0) stays zero.

    The fields of one dimension share a table, one field's ids after the other's, so that a step
    looks up, coalesces, sends and updates them at once. Row 0 is the padding of them all. Fields
    whose tables the declaration puts at different places have one each place.

    Args:
        table_rows, dims: [C], shape of each field's embedding.
        std: of fresh values.
        places: [C], see `ModelSpec.table_places`.

    Attributes:
        tables: one for each dimension and place, in order of the first field that has them.
        columns: of each table, the fields in it.
        dims: each dimension once, in order of the first field that has it.
        num_outputs: dimensions of all fields.
    """

    limits: Tensor

    def __init__(
        self,
        table_rows: Sequence[int],
        dims: Sequence[int],
        std: float,
        places: Sequence[TablePlace] = (),
    ) -> None:
        super().__init__()
        self.dims = list(dict.fromkeys(dims))
        # Of each field, what it shares with the others in its table.
        declared: Sequence[TablePlace] = places or [""] * len(dims)
        kinds = list(zip(dims, declared, strict=True))
        tables = list(dict.fromkeys(kinds))
        self.columns = [[c for c, own in enumerate(kinds) if own == kind] for kind in tables]
        self._tables_of = [[t for t, (own, _) in enumerate(tables) if own == d] for d in self.dims]
        self.tables = nn.ModuleList()
        self._firsts = [0] * len(dims)
        for number, (columns, (dim, place)) in enumerate(zip(self.columns, tables, strict=True)):
            end = 1
            for c in columns:
                self._firsts[c], end = end, end + table_rows[c] - 1
            self.tables.append(embedding_table(end, dim, std, place))
            # Id i of a field is row `offset + i`: its ids begin with 1.
            offsets = torch.tensor([self._firsts[c] - 1 for c in columns])
            self.register_buffer(f"offsets_{number}", offsets, persistent=False)
        for number, of_dim in enumerate(self._tables_of):
            found = torch.tensor([c for t in of_dim for c in self.columns[t]])
            self.register_buffer(f"order_{number}", found.argsort(), persistent=False)
        self.register_buffer("limits", torch.tensor(table_rows, dtype=torch.int64), False)
        self.num_outputs = sum(dims)

    def place(self, column: int) -> tuple[int, int]:
        """Where a field's ids are: the number of its table, and the row of its id 1."""
        table = next(t for t, columns in enumerate(self.columns) if column in columns)
        return table, self._firsts[column]

    def by_dim(self, sparse: Tensor) -> list[Tensor]:
        """Ids [B, C] -> for each dimension [B, its fields, E], wherever their tables are.

        Raises:
            ValueError: an id is outside its field's table.
        """
        # The shared table would give another field's row. Export traces no such branch.
        if not torch.compiler.is_compiling() and len(sparse):
            self._check(sparse)
        found = [table(rows) for table, rows in zip(self.tables, self._rows(sparse), strict=True)]
        return [self._joined([found[t] for t in of], n) for n, of in enumerate(self._tables_of)]

    def _joined(self, found: list[Tensor], number: int) -> Tensor:
        """The fields of a dimension, of its tables, in their order."""
        if len(found) == 1:
            return found[0]
        return torch.cat(found, dim=1).index_select(1, self.get_buffer(f"order_{number}"))

    def lookups(self, batch: Batch) -> Iterator[tuple[nn.Module, Tensor]]:
        """The tables, each with the rows [B, its fields] that `by_dim` looks up in it."""
        yield from zip(self.tables, self._rows(batch.sparse), strict=True)

    def _rows(self, sparse: Tensor) -> Iterator[Tensor]:
        for number, columns in enumerate(self.columns):
            ids = sparse if len(columns) == sparse.shape[1] else sparse[:, columns]
            yield (ids + self.get_buffer(f"offsets_{number}")) * (ids != PADDING_ID)

    def _check(self, sparse: Tensor) -> None:
        outside = (sparse.amax(0) >= self.limits) | (sparse.amin(0) < 0)
        if outside.any():
            c = int(outside.nonzero()[0])
            raise ValueError(
                f"an id of categorical field number {c} is outside its table of "
                f"{int(self.limits[c])} rows"
            )

    def forward(self, sparse: Tensor) -> Tensor:
        """Ids [B, C] -> [B, dimensions of all fields], one dimension's after the other's."""
        if not self.tables:
            return sparse.new_zeros((sparse.shape[0], 0), dtype=torch.get_default_dtype())
        return torch.cat([found.flatten(1) for found in self.by_dim(sparse)], dim=1)


_without_tables: ContextVar[bool] = ContextVar("without_tables", default=False)


@contextmanager
def without_tables() -> Iterator[None]:
    """Models that are made inside have tables without values, whatever their size."""
    before = _without_tables.set(True)
    try:
        yield
    finally:
        _without_tables.reset(before)


class EmbeddingTable(nn.Embedding):
    """A table with sparse gradients whose padding row is zero.

    Attributes:
        std: of its fresh values.
        place: where the declaration says that training has it.
    """

    def __init__(self, rows: int, dim: int, std: float, place: TablePlace = "") -> None:
        device = "meta" if _without_tables.get() else None
        super().__init__(rows, dim, padding_idx=PADDING_ID, sparse=True, device=device)
        self.std, self.place = std, place

    def reset_parameters(self) -> None:
        """Nothing: the values follow from the table's name, which its maker does not know."""

    def fresh(self, seed: int, name: str, ids: Tensor) -> Tensor:
        """The fresh values of the rows `ids` [k], as `fresh_rows`; zeros for padding."""
        rows = fresh_rows(seed, name, ids, self.embedding_dim, self.std)
        return rows.masked_fill_((ids == PADDING_ID).unsqueeze(1), 0.0)

    def fill(self, seed: int, name: str) -> None:
        """Makes all rows, with their fresh values, in a table without values."""
        empty = torch.empty(self.num_embeddings, self.embedding_dim)
        ids = torch.arange(self.num_embeddings)
        values = empty if empty.is_meta else self.fresh(seed, name, ids)
        self.weight = nn.Parameter(values, self.weight.requires_grad)


def embedding_table(rows: int, dim: int, std: float, place: TablePlace = "") -> nn.Embedding:
    """A table with random values of a standard deviation, and zeros for padding.

    Inside `without_tables` it has no values, and `EmbeddingTable.fill` gives it some.
    """
    table = EmbeddingTable(rows, dim, std, place)
    if not table.weight.is_meta:
        nn.init.normal_(table.weight, std=std) if std else nn.init.zeros_(table.weight)
        with torch.no_grad():
            table.weight[PADDING_ID] = 0.0
    return table


def hidden_layers(num_inputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, ReLU and dropout for each hidden size."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(num_inputs, size), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        num_inputs = size
    return nn.Sequential(*layers)


def one_or_classes(outputs: Tensor) -> Tensor:
    """Outputs [B, 1] as logits [B]; those of classes, [B, K], as they are."""
    return outputs.squeeze(1) if outputs.shape[1] == 1 else outputs


def mlp(
    num_inputs: int, hidden: Sequence[int], dropout: float, num_outputs: int = 1
) -> nn.Sequential:
    """Hidden layers, then the outputs."""
    last = nn.Linear(hidden[-1] if hidden else num_inputs, num_outputs)
    return nn.Sequential(*hidden_layers(num_inputs, hidden, dropout), last)
