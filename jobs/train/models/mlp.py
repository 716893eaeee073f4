"""Numbers and embeddings, side by side, through an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.train.batch import Batch
from jobs.train.models.layers import EMBEDDING_STD, Embeddings, InputLayer, mlp, one_or_classes
from jobs.train.models.spec import ModelSpec


class MLP(nn.Module):
    """dense -> standardise -+
                             +-> MLP -> logit
    sparse -> embeddings ----+
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.inputs = InputLayer(spec)
        self.embeddings = Embeddings(spec.table_rows, spec.embedding_dims, EMBEDDING_STD)
        num_inputs = self.inputs.num_outputs + self.embeddings.num_outputs
        self.mlp = mlp(num_inputs, spec.hidden, spec.dropout, spec.num_logits)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        dense, embedded = self.inputs(batch.dense), self.embeddings(batch.sparse)
        return one_or_classes(self.mlp(torch.cat([dense, embedded], dim=1)))
