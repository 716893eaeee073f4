"""Numbers and embeddings through an MLP, alone or beside a weight for every id."""

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
        self.embeddings = Embeddings(
            spec.table_rows, spec.embedding_dims, EMBEDDING_STD, spec.table_places
        )
        self.number_lists = NumberLists(spec)
        self.pooled = PooledEmbeddings(spec.id_lists, EMBEDDING_STD, spec.list_places)
        parts = (self.inputs, self.number_lists, self.embeddings, self.pooled)
        num_inputs = sum(part.num_outputs for part in parts)
        self.mlp = mlp(num_inputs, spec.hidden, spec.dropout, spec.num_logits)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        numbers = [self.inputs(batch.dense), self.number_lists(batch)]
        embedded = [self.embeddings(batch.sparse), self.pooled(batch)]
        return one_or_classes(self.mlp(torch.cat([*numbers, *embedded], dim=1)))


class WideDeep(nn.Module):
    """Wide & deep (Cheng et al., 2016): a weight for every id, beside an MLP over embeddings.

    ids -> one weight an id, summed (over a list: their mean) -+
                                                                  +-> logits
    numbers, ids -> MLP ------------------------------------------+

    The wide part starts at zero: the model starts as its deep part.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.deep = MLP(spec)
        shapes = {name: (rows, spec.num_logits) for name, (rows, _) in spec.id_lists.items()}
        self.wide_lists = PooledEmbeddings(shapes, 0.0, spec.list_places)
        self.num_fields = len(spec.table_rows) + len(shapes)
        self.wide = Embeddings(
            spec.table_rows, [spec.num_logits] * len(spec.table_rows), 0.0, spec.table_places
        )

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        deep: Tensor = self.deep(batch)
        wide = torch.cat([self.wide(batch.sparse), self.wide_lists(batch)], dim=1)
        # One field's weights after the other's; shape, as len() would fix B in an export.
        by_field = wide.view(wide.shape[0], self.num_fields, *deep.shape[1:])
        return deep + by_field.sum(dim=1)
