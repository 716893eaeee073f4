"""DCN-v2 (Wang et al., 2021): explicit crosses of all inputs, beside an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.batch.batch import Batch
from jobs.models.layers import (
    EMBEDDING_STD,
    Embeddings,
    InputLayer,
    hidden_layers,
    one_or_classes,
)
from jobs.models.lists import NumberLists, PooledEmbeddings
from jobs.models.spec import ModelSpec


class DCNv2(nn.Module):
    """dense -> standardise -+        +-> cross layers -+
                             +-> x0 --+                 +-> logit
    sparse -> embeddings ----+        +-> MLP ----------+

    A cross layer gives x0 * (W x + b) + x, the product taken element by element; the paper's
    parallel structure.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.inputs = InputLayer(spec)
        self.embeddings = Embeddings(spec.table_rows, spec.embedding_dims, EMBEDDING_STD)
        self.number_lists = NumberLists(spec)
        self.pooled = PooledEmbeddings(spec.id_lists, EMBEDDING_STD)
        parts = (self.inputs, self.number_lists, self.embeddings, self.pooled)
        size = sum(part.num_outputs for part in parts)
        self.crosses = nn.ModuleList(nn.Linear(size, size) for _ in range(spec.cross_layers))
        self.deep = hidden_layers(size, spec.hidden, spec.dropout)
        self.last = nn.Linear(size + (spec.hidden[-1] if spec.hidden else size), spec.num_logits)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        numbers = [self.inputs(batch.dense), self.number_lists(batch)]
        embedded = [self.embeddings(batch.sparse), self.pooled(batch)]
        x0 = torch.cat([*numbers, *embedded], dim=1)
        x = x0
        for cross in self.crosses:
            x = x0 * cross(x) + x
        return one_or_classes(self.last(torch.cat([x, self.deep(x0)], dim=1)))
