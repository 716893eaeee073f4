"""Wide & deep (Cheng et al., 2016): a weight for every id, beside an MLP over embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.batch.batch import Batch
from jobs.models.layers import Embeddings
from jobs.models.lists import PooledEmbeddings
from jobs.models.mlp import MLP
from jobs.models.spec import ModelSpec


class WideDeep(nn.Module):
    """ids -> one weight an id, summed (over a list: their mean) -+
                                                                  +-> logits
    numbers, ids -> MLP ------------------------------------------+

    The wide part starts at zero: the model starts as its deep part.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.deep = MLP(spec)
        shapes = {name: (rows, spec.num_logits) for name, (rows, _) in spec.id_lists.items()}
        self.wide_lists = PooledEmbeddings(shapes, std=0.0)
        self.num_fields = len(spec.table_rows) + len(shapes)
        self.wide = Embeddings(spec.table_rows, [spec.num_logits] * len(spec.table_rows), std=0.0)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        deep: Tensor = self.deep(batch)
        wide = torch.cat([self.wide(batch.sparse), self.wide_lists(batch)], dim=1)
        # One field's weights after the other's; shape, as len() would fix B in an export.
        by_field = wide.view(wide.shape[0], self.num_fields, *deep.shape[1:])
        return deep + by_field.sum(dim=1)
