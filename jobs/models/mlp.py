"""Numbers and embeddings, side by side, through an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.batch.batch import Batch
from jobs.models.layers import EMBEDDING_STD, Embeddings, InputLayer, mlp, one_or_classes
from jobs.models.lists import NumberLists, PooledEmbeddings
from jobs.models.spec import ModelSpec


class MLP(nn.Module):
    """dense, lists of numbers -> standardise -+
                                               +-> MLP -> logits
    sparse, lists of ids -> embeddings --------+
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.inputs = InputLayer(spec)
        self.embeddings = Embeddings(spec.table_rows, spec.embedding_dims, EMBEDDING_STD)
        self.number_lists = NumberLists(spec)
        self.pooled = PooledEmbeddings(spec.id_lists, EMBEDDING_STD)
        parts = (self.inputs, self.number_lists, self.embeddings, self.pooled)
        num_inputs = sum(part.num_outputs for part in parts)
        self.mlp = mlp(num_inputs, spec.hidden, spec.dropout, spec.num_logits)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        numbers = [self.inputs(batch.dense), self.number_lists(batch)]
        embedded = [self.embeddings(batch.sparse), self.pooled(batch)]
        return one_or_classes(self.mlp(torch.cat([*numbers, *embedded], dim=1)))
