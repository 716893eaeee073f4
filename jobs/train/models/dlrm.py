"""DLRM (Naumov et al., 2019): pairwise interactions of embeddings and numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.train.batch import Batch
from jobs.train.models.layers import (
    EMBEDDING_STD,
    Embeddings,
    InputLayer,
    hidden_layers,
    mlp,
    one_or_classes,
)
from jobs.train.models.spec import ModelSpec


class DLRM(nn.Module):
    """dense -> standardise -> bottom MLP -+-----------------------------+
                                           +-> dot product of each pair -+-> top MLP -> logit
    sparse -> embeddings ------------------+

    All vectors have the largest of the fields' dimensions, E. Those of fewer dimensions are
    projected to it (mixed dimensions: Ginart et al., 2019); `train.embedding_dim` gives all fields
    one dimension, and no projections.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.inputs = InputLayer(spec)
        self.embeddings = Embeddings(spec.table_rows, spec.embedding_dims, EMBEDDING_STD)
        dim = max(spec.embedding_dims, default=spec.bottom_hidden[-1])
        self.projections = nn.ModuleList(
            nn.Identity() if own == dim else nn.Linear(own, dim, bias=False)
            for own in self.embeddings.dims
        )
        sizes = (*spec.bottom_hidden, dim) if spec.num_dense else ()
        self.bottom = hidden_layers(self.inputs.num_outputs, sizes, spec.dropout)
        vectors = len(spec.table_rows) + bool(spec.num_dense)
        pairs = torch.tril_indices(vectors, vectors, offset=-1)
        # Position of each pair in the flattened matrix of products.
        self.register_buffer("pairs", pairs[0] * vectors + pairs[1], persistent=False)
        num_inputs = pairs.shape[1] + (dim if spec.num_dense else 0)
        self.top = mlp(num_inputs, spec.hidden, spec.dropout, spec.num_logits)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        found = self.embeddings.by_table(batch.sparse)
        vectors = [project(v) for project, v in zip(self.projections, found, strict=True)]
        features = []
        if batch.dense.shape[1]:
            bottom = self.bottom(self.inputs(batch.dense))
            features.append(bottom)
            vectors.insert(0, bottom.unsqueeze(1))
        stacked = torch.cat(vectors, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
        features.append(products.index_select(1, self.get_buffer("pairs")))
        return one_or_classes(self.top(torch.cat(features, dim=1)))
