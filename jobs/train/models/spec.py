"""What a model is built from: sizes and statistics, nothing that grows with the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobs.sections import TrainSettings
from jobs.state import State
from schemas.dataset import Dataset
from schemas.field import Task


@dataclass(frozen=True)
class ModelSpec:
    """Sizes of a model's inputs, the statistics of its first layer, and its hyperparameters.

    D numeric fields, C categorical fields. Goes to JSON and back unchanged.

    Attributes:
        dataset, declaration: name of the data set and digest of its declaration.
        state: digest of the state whose ids and statistics these are.
        task: what the label is.
        classes: of a multiclass label, else 0.
        means, stds: [D] of the stored numeric values.
        table_rows, embedding_dims: [C] shape of each embedding table.
        tensor_shapes: of each tensor field, without the batch axis.
        hidden, dropout: of the MLP (DLRM's top MLP).
        bottom_hidden: DLRM's MLP over the numbers, before the layer of the embeddings' size.
        cross_layers: of DCN-v2.
    """

    dataset: str
    declaration: str
    state: str
    task: Task
    means: tuple[float, ...]
    stds: tuple[float, ...]
    table_rows: tuple[int, ...]
    embedding_dims: tuple[int, ...]
    tensor_shapes: Mapping[str, tuple[int, ...]]
    hidden: tuple[int, ...]
    dropout: float
    bottom_hidden: tuple[int, ...] = (64,)
    cross_layers: int = 3
    classes: int = 0

    @property
    def num_logits(self) -> int:
        """Logits a row."""
        return max(1, self.classes)

    @property
    def num_dense(self) -> int:
        return len(self.means)

    @classmethod
    def of(cls, dataset: Dataset, state: State, settings: TrainSettings) -> ModelSpec:
        """The spec of a data set as a state knows it."""
        means, stds = state.means_and_stds(dataset)
        table_rows = state.table_rows(dataset)
        dims = (
            f.embedding_dim
            or settings.embedding_dim
            or embedding_dim(rows, settings.max_embedding_dim)
            for f, rows in zip(dataset.categorical, table_rows, strict=True)
        )
        return cls(
            dataset=dataset.name,
            declaration=dataset.digest,
            state=state.digest,
            task=dataset.label.task,
            means=tuple(means),
            stds=tuple(stds),
            table_rows=table_rows,
            embedding_dims=tuple(dims),
            tensor_shapes=dataset.input_sizes().tensor_shapes,
            hidden=settings.hidden,
            dropout=settings.dropout,
            bottom_hidden=settings.bottom_hidden,
            cross_layers=settings.cross_layers,
            classes=dataset.label.classes,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ModelSpec:
        lists = {name: tuple(value) for name, value in tree.items() if isinstance(value, list)}
        shapes = {name: tuple(shape) for name, shape in tree["tensor_shapes"].items()}
        return cls(**{**tree, **lists, "tensor_shapes": shapes})


def embedding_dim(table_rows: int, largest: int) -> int:
    """The usual rule, 1.6 * rows^0.56, capped: beyond a few dimensions tables only overfit."""
    return min(largest, round(1.6 * math.pow(table_rows, 0.56)))
