"""Warm start: a training begins with the weights of a registered model.

Vocabularies grew since. Each row of a larger table starts as the row that the source gives the
value: its own where the source knows it, else that of the value's OOV bucket. The first layer keeps
the source's means and deviations. So before its first step the new model scores as its source.
Where the source keeps its optimizers' moments, they go on too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from jobs.base.errors import ConfigError, DataRefused
from jobs.etl.encode.encoder import id_map
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.state import State, load_state
from jobs.lake.store import read_json
from jobs.models.artifact import CARD, load_model, load_moments
from jobs.models.build import Model
from jobs.models.layers import Embeddings
from jobs.models.lists import PooledEmbeddings
from jobs.models.spec import ModelSpec
from jobs.registry.registry import Registry
from jobs.registry.version import CHAMPION
from jobs.settings.settings import Settings
from jobs.train.step.moments import Origin, set_moments
from jobs.train.step.step import Step

log = logging.getLogger("millstream.train")

# What may differ between a model and its source: all else decides the shapes of its layers.
_FREE = {
    *("state", "means", "stds", "table_rows", "embedding_dims", "dropout"),
    *("id_lists", "number_lists"),
}


@dataclass(frozen=True)
class WarmStart:
    """Where the weights come from.

    Attributes:
        version: of the source, in the registry.
        folder: of its model.
        columns: fields of the columns of `sparse`.
        id_maps: field -> the source's id by the new model's, where the source lacks some.
    """

    version: str
    folder: str
    columns: tuple[str, ...]
    id_maps: Mapping[str, npt.NDArray[np.int32]]

    def spec(self, spec: ModelSpec, model: str) -> ModelSpec:
        """The new model's spec, with what it must share with its source.

        Raises:
            ConfigError: they are models of other shapes.
        """
        card = read_json(f"{self.folder}/{CARD}")
        source = ModelSpec.from_json(card["spec"])
        ours, theirs = spec.to_json(), source.to_json()
        misfits = [name for name in ours if name not in _FREE and ours[name] != theirs[name]]
        if card["model"] != model or misfits:
            what = "train.model" if card["model"] != model else ", ".join(misfits)
            raise ConfigError(
                f"train.warm_start: model version {self.version} has another {what}",
                "the same model, of the same sizes",
                "give the settings that it was trained with, or leave train.warm_start empty",
            )
        lists = {f: (rows, source.id_lists[f][1]) for f, (rows, _) in spec.id_lists.items()}
        return replace(
            spec,
            means=source.means,
            stds=source.stds,
            embedding_dims=source.embedding_dims,
            number_lists=source.number_lists,
            id_lists=lists,
        )

    def origin(self, field: str, rows: int) -> Origin:
        """For each of a field's ids, below `rows`, the source's: another one where it is new."""
        known, own = self.id_maps.get(field), torch.arange(rows)
        ids = own if known is None else torch.from_numpy(known[:rows]).long()
        return Origin(ids, ids != own)


def find_source(
    settings: Settings, lake: Lake, examples: Examples, state: State
) -> WarmStart | None:
    """What `train.warm_start` names; None where it is empty, or before there is a champion.

    Raises:
        DataRefused: no such version, or its ids are of another log or declaration.
    """
    name = settings.train.warm_start
    if name is None:
        return None
    registry, dataset = Registry(settings, lake), settings.dataset()
    if name == CHAMPION and registry.champion() is None:
        log.info("train.warm_start: no champion yet, training starts from fresh weights")
        return None
    version = registry.resolve(name)
    source = load_state(lake, version.tags["state_digest"])
    if source.generation != state.generation or source.declaration != state.declaration:
        raise DataRefused(
            f"model version {version.version} was trained on other ids: generation "
            f"{source.generation}, declaration {source.declaration}",
            f"generation {state.generation}, declaration {state.declaration}",
            "leave train.warm_start empty for the first training after a rebuild",
        )
    maps = {}
    if any(state.vocabulary[f].rows > source.vocabulary[f].rows for f in state.vocabulary):
        maps = id_map(lake, dataset, source, examples.info["versions"]["id_log"])
    columns = tuple(f.name for f in dataset.categorical)
    return WarmStart(version.version, version.folder_url, columns, maps)


def warm(model: Model, spec: ModelSpec, start: WarmStart) -> dict[str, Origin]:
    """Sets the model's weights to the source's.

    Returns:
        Where the rows of its embedding tables come from.

    Raises:
        DataRefused: the source's files are missing or damaged.
        ConfigError: a table of a model of the user's own has grown, and no field tells how.
    """
    source = load_model(start.folder)
    weights = source.model.state_dict()
    origins = dict(_origins(model, spec, source.model, source.spec, start))
    for name, origin in origins.items():
        weights[name] = weights[name].index_select(0, origin.rows)
    model.load_state_dict(weights)
    return origins


def warm_moments(step: Step, start: WarmStart, origins: Mapping[str, Origin], kind: str) -> str:
    """Sets the optimizers' moments to the source's, where it keeps those of the same kind.

    Returns:
        What became of them, for people.

    Raises:
        DataRefused: the source's file is missing or damaged.
    """
    moments = load_moments(start.folder)
    before = read_json(f"{start.folder}/{CARD}").get("optimizer")
    title = f"warm start from model version {start.version}"
    if moments is None:
        return f"{title}: it keeps no moments of its optimizer; they begin at zero"
    if before != kind:
        return f"{title}: its moments are of {before}; those of {kind} begin at zero"
    set_moments(step, moments, origins)
    new = sum(int(origin.new.sum()) for origin in origins.values())
    return f"{title}: weights and moments go on; {new:,} rows of embedding tables are new"


def _origins(
    model: Model, spec: ModelSpec, source: Model, source_spec: ModelSpec, start: WarmStart
) -> Iterator[tuple[str, Origin]]:
    """The weights of embedding tables, and where their rows come from."""
    ours: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, Embeddings | PooledEmbeddings):
            before = source.get_submodule(name)
            for number, origin in enumerate(_of_layer(module, before, spec, start)):
                ours.add(f"{name}.tables.{number}")
                yield f"{name}.tables.{number}.weight", origin
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag) and name not in ours:
            sizes = len(source.get_parameter(f"{name}.weight")), len(module.weight)
            if sizes[0] != sizes[1]:
                column = _column_of(name, sizes, spec, source_spec)
                yield f"{name}.weight", start.origin(start.columns[column], sizes[1])


def _of_layer(
    module: Embeddings | PooledEmbeddings, before: nn.Module, spec: ModelSpec, start: WarmStart
) -> Iterator[Origin]:
    if isinstance(module, PooledEmbeddings):
        yield from (start.origin(field, spec.id_lists[field][0]) for field in module.names)
    else:
        assert isinstance(before, Embeddings)
        yield from _of_shared(module, before, spec, start)


def _of_shared(
    module: Embeddings, before: Embeddings, spec: ModelSpec, start: WarmStart
) -> Iterator[Origin]:
    for columns in module.columns:
        rows, new = [torch.zeros(1, dtype=torch.int64)], [torch.zeros(1, dtype=torch.bool)]
        for c in columns:
            own = start.origin(start.columns[c], spec.table_rows[c])
            rows.append(before.place(c)[1] - 1 + own.rows[1:])
            new.append(own.new[1:])
        yield Origin(torch.cat(rows), torch.cat(new))


def _column_of(name: str, sizes: tuple[int, int], spec: ModelSpec, source: ModelSpec) -> int:
    grown = list(zip(source.table_rows, spec.table_rows, strict=True))
    if grown.count(sizes) != 1:
        raise ConfigError(
            f"train.warm_start: table {name!r} went from {sizes[0]:,} to {sizes[1]:,} rows",
            "a table for one field, as many rows as the field has ids",
            "use jobs.models.layers.Embeddings, or leave train.warm_start empty",
        )
    return grown.index(sizes)
