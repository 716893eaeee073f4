"""List fields as inputs of fixed size: pooled over a row's elements. B rows, L longest list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from jobs.batch.batch import Batch
from jobs.batch.tensors import LENGTH
from jobs.models.layers import MOST_DEVIATIONS, embedding_table
from jobs.models.spec import ModelSpec
from schemas.field import TablePlace


class NumberLists(nn.Module):
    """The standardised mean of each list of numbers, and whether the list is empty."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        # Not the spec's order: JSON does not keep that of names.
        self.names = sorted(spec.number_lists)
        found = [spec.number_lists[name] for name in self.names]
        stats = torch.tensor(found, dtype=torch.float32).view(-1, 2)
        self.register_buffer("stats", stats, persistent=bool(self.names))
        self.num_outputs = 2 * len(self.names)

    def forward(self, batch: Batch) -> Tensor:
        """[B, num_outputs]; an empty list has the mean of all."""
        stats = self.get_buffer("stats")
        parts = [batch.dense.new_zeros((batch.dense.shape[0], 0), dtype=stats.dtype)]
        for name, (mean, std) in zip(self.names, stats, strict=True):
            length = batch.tensors[f"{name}{LENGTH}"].unsqueeze(1)
            empty = length == 0
            total = batch.tensors[name].to(stats.dtype).sum(dim=1, keepdim=True)
            standard = (total / length.clamp(min=1) - mean) / std
            standard = standard.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS).masked_fill(empty, 0.0)
            parts += [standard, empty.to(stats.dtype)]
        return torch.cat(parts, dim=1)


class PooledEmbeddings(nn.Module):
    """The mean of the embeddings of each list's ids, with sparse gradients; zeros where empty.

    Args:
        shapes: rows and dimension of each list's table.
        std: of the fresh weights.
        places: see `ModelSpec.list_places`.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        std: float,
        places: Mapping[str, TablePlace] | None = None,
    ) -> None:
        super().__init__()
        self.names = sorted(shapes)
        placed = places or {}
        self.tables = nn.ModuleList(
            embedding_table(*shapes[name], std, placed.get(name, "")) for name in self.names
        )
        self.dims = [shapes[name][1] for name in self.names]
        self.num_outputs = sum(self.dims)

    def lookups(self, batch: Batch) -> Iterator[tuple[nn.Module, Tensor]]:
        """The tables, each with the ids [B, L] that `by_list` looks up in it."""
        for name, table in zip(self.names, self.tables, strict=True):
            yield table, batch.tensors[name]

    def by_list(self, batch: Batch) -> list[Tensor]:
        """[B, E] of each list."""
        found = []
        for name, table in zip(self.names, self.tables, strict=True):
            # Padding's embedding stays zero, so the sum is that of the elements.
            total = table(batch.tensors[name]).sum(dim=1)
            length = batch.tensors[f"{name}{LENGTH}"].unsqueeze(1)
            found.append(total / length.clamp(min=1))
        return found

    def forward(self, batch: Batch) -> Tensor:
        """[B, num_outputs]"""
        if not self.names:
            return batch.sparse.new_zeros(
                (batch.sparse.shape[0], 0), dtype=torch.get_default_dtype()
            )
        return torch.cat(self.by_list(batch), dim=1)
