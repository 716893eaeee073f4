"""Warm start: training begins with the weights of a registered model, called the source.

Since then vocabularies have grown, and with them the embedding tables. Each row of a new table
starts as a copy of the row that the source uses for the same value: the value's own, or the one of
its OOV bucket where the source does not know the value. The first layer keeps the source's means
and standard deviations. So, before its first step, the new model scores as its source does. Where
the source was saved with its optimizers' state, that is used too.
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
from jobs.models.artifact import CARD, load_model, load_moments
from jobs.models.build import Model
from jobs.models.identity import Identity, refuse_changed_card
from jobs.models.layers import Embeddings
from jobs.models.lists import PooledEmbeddings
from jobs.models.mapped import MappedTable
from jobs.models.spec import ModelSpec
from jobs.models.ties import first_names, set_state, state_of
from jobs.registry.registry import Registry
from jobs.registry.version import CHAMPION
from jobs.settings.settings import Settings
from jobs.stores.files import read_json
from jobs.train.step.moments import Origin, set_moments
from jobs.train.step.step import Step

log = logging.getLogger("millstream.train")

# Parts of a model's spec that may differ from its source's. The others decide shapes of layers.
_FREE = {
    *("state", "means", "stds", "table_rows", "embedding_dims", "dropout"),
    *("id_lists", "number_lists"),
}


@dataclass(frozen=True)
class WarmStart:
    """The source of the weights.

    Attributes:
        version: the source's version in the registry.
        folder: URL of its model's folder.
        columns: names of the categorical fields, in the order of the columns of `Batch.sparse`.
        id_maps: field -> int32 [ids of the new model], the source's id of the same value. Only
            fields in which the source lacks ids are there.
        identity: that its card must have.
    """

    version: str
    folder: str
    columns: tuple[str, ...]
    id_maps: Mapping[str, npt.NDArray[np.int32]]
    identity: Identity | None = None

    def spec(self, spec: ModelSpec, model: str) -> ModelSpec:
        """The new model's spec, with those parts taken from the source that must be the same.

        Args:
            spec: the new model's own.
            model: its name, `train.model`.

        Raises:
            ConfigError: the source is another model, or has layers of other shapes.
            DataRefused: its card was changed.
        """
        card = read_json(f"{self.folder}/{CARD}")
        if self.identity is not None:
            refuse_changed_card(card, self.identity, self.folder)
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
        """The source's rows for the ids 0 .. rows - 1 of a field."""
        known, own = self.id_maps.get(field), torch.arange(rows)
        ids = own if known is None else torch.from_numpy(known[:rows]).long()
        return Origin(ids, ids != own)


def find_source(
    settings: Settings, lake: Lake, examples: Examples, state: State, name: str | None
) -> WarmStart | None:
    """Finds the model that a training starts from.

    Args:
        name: of the model, `champion` or a version, as `train.warm_start`.

    Returns:
        None where the name is None, or `champion` and there is none yet.

    Raises:
        DataRefused: there is no such version, or it has the ids of another generation or
            declaration.
    """
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
    left_out = settings.train.left_out(dataset)
    columns = tuple(f.name for f in dataset.categorical if f.name not in left_out)
    return WarmStart(version.version, version.folder_url, columns, maps, version.identity)


def warm(model: Model, spec: ModelSpec, start: WarmStart) -> dict[str, Origin]:
    """Sets the model's weights to the source's.

    Returns:
        Parameter name of each embedding table -> the source's rows that it copies.

    Raises:
        DataRefused: the source's files are missing or damaged.
        ConfigError: a table of a model of the user's own has grown, and its field is not clear.
    """
    # Its aim may be to go on with new code.
    source = load_model(start.folder, start.identity, any_source=True)
    weights, firsts = state_of(source.model), first_names(model)
    found = _origins(model, spec, source.model, source.spec, start)
    origins = {firsts[name]: origin for name, origin in found}
    for name, files in source.tables.items():
        weights[name] = files.rows(origins[name].rows) if name in origins else files.whole()
    for name in origins.keys() - source.tables.keys():
        weights[name] = weights[name].index_select(0, origins[name].rows)
    set_state(model, weights)
    return origins


def warm_moments(step: Step, start: WarmStart, origins: Mapping[str, Origin], kind: str) -> str:
    """Sets the optimizers' state to the source's, where it was saved by the same optimizer.

    Args:
        origins: what `warm` returned.
        kind: `train.optimizer`.

    Returns:
        A line for the log that says what was done.

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
    """For embedding tables, their parameter name and the source's rows that they copy.

    Tables of a model of the user's own are there only if they have grown.
    """
    ours: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, Embeddings | PooledEmbeddings):
            before = source.get_submodule(name)
            for number, origin in enumerate(_of_layer(module, before, spec, start)):
                ours.add(f"{name}.tables.{number}")
                yield f"{name}.tables.{number}.weight", origin
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag) and name not in ours:
            sizes = _rows_of(source.get_submodule(name)), len(module.weight)
            if sizes[0] != sizes[1]:
                column = _column_of(name, sizes, spec, source_spec)
                yield f"{name}.weight", start.origin(start.columns[column], sizes[1])


def _rows_of(table: nn.Module) -> int:
    if isinstance(table, MappedTable):
        return table.files.buckets.rows
    return len(table.get_parameter("weight"))


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
    """The origin of each table of `Embeddings`, which may have the rows of several fields.

    Row 0 of a table is shared by its fields; then come the other ids of each field in turn.
    """
    for columns in module.columns:
        rows, new = [torch.zeros(1, dtype=torch.int64)], [torch.zeros(1, dtype=torch.bool)]
        for c in columns:
            # int64 [table_rows[c]]: the source's ids; its id i > 0 has row `place(c)[1] - 1 + i`.
            own = start.origin(start.columns[c], spec.table_rows[c])
            rows.append(before.place(c)[1] - 1 + own.rows[1:])
            new.append(own.new[1:])
        yield Origin(torch.cat(rows), torch.cat(new))


def _column_of(name: str, sizes: tuple[int, int], spec: ModelSpec, source: ModelSpec) -> int:
    """The column of a table of a user's own model, told by its number of rows in both models.

    Raises:
        ConfigError: no field, or more than one, has as many ids.
    """
    grown = list(zip(source.table_rows, spec.table_rows, strict=True))
    if grown.count(sizes) != 1:
        raise ConfigError(
            f"train.warm_start: table {name!r} went from {sizes[0]:,} to {sizes[1]:,} rows",
            "a table for one field, as many rows as the field has ids",
            "use jobs.models.layers.Embeddings, or leave train.warm_start empty",
        )
    return grown.index(sizes)
