"""Layers that the models share. B rows, D numeric fields, C categorical fields, E dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jobs.train.models.spec import ModelSpec
from schemas.field import PADDING_ID

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
    """One table a categorical field, with sparse gradients; padding (id 0) stays zero."""

    def __init__(self, table_rows: Sequence[int], dims: Sequence[int], std: float) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding(rows, dim, padding_idx=PADDING_ID, sparse=True)
            for rows, dim in zip(table_rows, dims, strict=True)
        )
        for table in self.tables:
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=std) if std else nn.init.zeros_(table.weight)
            with torch.no_grad():
                table.weight[PADDING_ID] = 0.0
        self.num_outputs = sum(dims)

    def forward(self, sparse: Tensor) -> Tensor:
        """Ids [B, C] -> [B, sum of the dimensions]."""
        if not self.tables:
            return sparse.new_zeros((len(sparse), 0), dtype=torch.get_default_dtype())
        return torch.cat([table(sparse[:, c]) for c, table in enumerate(self.tables)], dim=1)


def mlp(num_inputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, ReLU and dropout for each hidden size, then one output."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(num_inputs, size), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        num_inputs = size
    return nn.Sequential(*layers, nn.Linear(num_inputs, 1))
