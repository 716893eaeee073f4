"""DCN-v2 (Wang et al., 2021): explicit crosses of all inputs, beside an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.train.batch import Batch
from jobs.train.models.layers import (
    EMBEDDING_STD,
    Embeddings,
    InputLayer,
    hidden_layers,
    one_or_classes,
)
from jobs.train.models.spec import ModelSpec


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
        size = self.inputs.num_outputs + self.embeddings.num_outputs
        self.crosses = nn.ModuleList(nn.Linear(size, size) for _ in range(spec.cross_layers))
        self.deep = hidden_layers(size, spec.hidden, spec.dropout)
        self.last = nn.Linear(size + (spec.hidden[-1] if spec.hidden else size), spec.num_logits)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        x0 = torch.cat([self.inputs(batch.dense), self.embeddings(batch.sparse)], dim=1)
        x = x0
        for cross in self.crosses:
            x = x0 * cross(x) + x
        return one_or_classes(self.last(torch.cat([x, self.deep(x0)], dim=1)))
