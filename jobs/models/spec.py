"""What a model is built from: sizes and statistics, nothing that grows with the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.lake.state import State
from jobs.settings.train import TrainSettings
from schemas.dataset import Dataset
from schemas.field import CategoricalList, NumericList, TablePlace, Task, WithIds


@dataclass(frozen=True)
class ModelSpec:
    """Sizes of a model's inputs, the statistics of its first layer, and its hyperparameters.

    D numeric fields, C categorical fields. Goes to JSON and back unchanged.

    Attributes:
        dataset, declaration: name of the data set and digest of its declaration.
        state: digest of the state whose ids and statistics these are.
        task: what the label is.
        classes: of a multiclass label, else 0.
        id_lists: of each list of ids, rows and dimension of its embedding table.
        number_lists: of each list of numbers, mean and deviation of its elements.
        left_out: fields of the declaration that the model does not see, in its order.
        table_places: [C], where the declaration says that training has each table; empty where it
            says so of none.
        list_places: the same of those lists of ids of which it says so.
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
    id_lists: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    number_lists: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    table_places: tuple[TablePlace, ...] = ()
    list_places: Mapping[str, TablePlace] = field(default_factory=dict)

    @property
    def num_logits(self) -> int:
        """Logits a row."""
        return max(1, self.classes)

    @property
    def num_dense(self) -> int:
        return len(self.means)

    def columns(self, dataset: Dataset) -> tuple[str, ...]:
        """Names of the fields that the model sees, of its declaration."""
        return dataset.inputs_without(self.left_out)

    @classmethod
    def of(cls, dataset: Dataset, state: State, settings: TrainSettings) -> ModelSpec:
        """The spec of a data set as a state knows it.

        Raises:
            ConfigError: see `TrainSettings.left_out`.
        """
        left_out = settings.left_out(dataset)
        seen = dataset.inputs_without(left_out)
        means, stds = state.means_and_stds(f for f in dataset.numeric if f.name in seen)
        categorical = [f for f in dataset.categorical if f.name in seen]

        def dim(f: WithIds) -> int:
            rule = embedding_dim(state.vocabulary[f.log_name].rows, settings.max_embedding_dim)
            return f.embedding_dim or settings.embedding_dim or rule

        return cls(
            dataset=dataset.name,
            declaration=dataset.digest,
            state=state.digest,
            task=dataset.label.task,
            means=tuple(means),
            stds=tuple(stds),
            table_rows=state.table_rows(categorical),
            embedding_dims=tuple(map(dim, categorical)),
            tensor_shapes={f.name: f.shape for f in dataset.tensors if f.name in seen},
            hidden=settings.hidden,
            dropout=settings.dropout,
            bottom_hidden=settings.bottom_hidden,
            cross_layers=settings.cross_layers,
            classes=dataset.label.classes,
            id_lists={
                f.name: (state.vocabulary[f.log_name].rows, dim(f))
                for f in dataset.of_kind(CategoricalList)
                if f.name in seen
            },
            number_lists={
                f.name: (state.numeric[f.name].mean, state.numeric[f.name].std or 1.0)
                for f in dataset.of_kind(NumericList)
                if f.name in seen
            },
            left_out=left_out,
            table_places=tuple(places) if any(places := [f.table for f in categorical]) else (),
            list_places={
                f.name: f.table
                for f in dataset.of_kind(CategoricalList)
                if f.name in seen and f.table
            },
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ModelSpec:
        lists = {name: tuple(value) for name, value in tree.items() if isinstance(value, list)}
        maps = {
            name: {key: of if isinstance(of, str) else tuple(of) for key, of in value.items()}
            for name, value in tree.items()
            if isinstance(value, dict)
        }
        return cls(**{**tree, **lists, **maps})


def embedding_dim(table_rows: int, largest: int) -> int:
    """The usual rule, 1.6 * rows^0.56, capped: beyond a few dimensions tables only overfit."""
    return min(largest, round(1.6 * math.pow(table_rows, 0.56)))
