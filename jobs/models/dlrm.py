"""Models in which features meet each other: DLRM and DCN-v2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.batch.batch import Batch
from jobs.models.layers import (
    EMBEDDING_STD,
    Embeddings,
    InputLayer,
    hidden_layers,
    mlp,
    one_or_classes,
)
from jobs.models.lists import NumberLists, PooledEmbeddings
from jobs.models.spec import ModelSpec


class DLRM(nn.Module):
    """DLRM (Naumov et al., 2019): pairwise interactions of embeddings and numbers.

    dense -> standardise -> bottom MLP -+-----------------------------+
                                           +-> dot product of each pair -+-> top MLP -> logit
    sparse -> embeddings ------------------+

    All vectors have the largest of the fields' dimensions, E. Those of fewer dimensions are
    projected to it (mixed dimensions: Ginart et al., 2019); `train.embedding_dim` gives all fields
    one dimension, and no projections.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.inputs = InputLayer(spec)
        self.embeddings = Embeddings(
            spec.table_rows, spec.embedding_dims, EMBEDDING_STD, spec.table_places
        )
        self.number_lists = NumberLists(spec)
        self.pooled = PooledEmbeddings(spec.id_lists, EMBEDDING_STD, spec.list_places)
        dims = (*spec.embedding_dims, *self.pooled.dims)
        dim = max(dims, default=spec.bottom_hidden[-1])
        self.projections = nn.ModuleList(
            nn.Identity() if own == dim else nn.Linear(own, dim, bias=False)
            for own in (*self.embeddings.dims, *self.pooled.dims)
        )
        self.num_numbers = self.inputs.num_outputs + self.number_lists.num_outputs
        sizes = (*spec.bottom_hidden, dim) if self.num_numbers else ()
        self.bottom = hidden_layers(self.num_numbers, sizes, spec.dropout)
        vectors = len(dims) + bool(self.num_numbers)
        pairs = torch.tril_indices(vectors, vectors, offset=-1)
        # Position of each pair in the flattened matrix of products.
        self.register_buffer("pairs", pairs[0] * vectors + pairs[1], persistent=False)
        num_inputs = pairs.shape[1] + (dim if self.num_numbers else 0)
        self.top = mlp(num_inputs, spec.hidden, spec.dropout, spec.num_logits)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        features, vectors = [], []
        # First, so that tables have their gradients before it, and exchange them meanwhile.
        if self.num_numbers:
            numbers = [self.inputs(batch.dense), self.number_lists(batch)]
            bottom = self.bottom(torch.cat(numbers, dim=1))
            features.append(bottom)
            vectors.append(bottom.unsqueeze(1))
        found = self.embeddings.by_dim(batch.sparse)
        found += [vector.unsqueeze(1) for vector in self.pooled.by_list(batch)]
        vectors += [project(v) for project, v in zip(self.projections, found, strict=True)]
        stacked = torch.cat(vectors, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
        features.append(products.index_select(1, self.get_buffer("pairs")))
        return one_or_classes(self.top(torch.cat(features, dim=1)))


class DCNv2(nn.Module):
    """DCN-v2 (Wang et al., 2021): explicit crosses of all inputs, beside an MLP.

    dense -> standardise -+        +-> cross layers -+
                             +-> x0 --+                 +-> logit
    sparse -> embeddings ----+        +-> MLP ----------+

    A cross layer gives x0 * (W x + b) + x, the product taken element by element; the paper's
    parallel structure.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.inputs = InputLayer(spec)
        self.embeddings = Embeddings(
            spec.table_rows, spec.embedding_dims, EMBEDDING_STD, spec.table_places
        )
        self.number_lists = NumberLists(spec)
        self.pooled = PooledEmbeddings(spec.id_lists, EMBEDDING_STD, spec.list_places)
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
