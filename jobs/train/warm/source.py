"""The source of a warm start: a registered model whose weights training begins with.

Since then vocabularies have grown, and with them the embedding tables. The first layer keeps the
source's means and standard deviations.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from jobs.base.errors import ConfigError, DataRefused
from jobs.etl.encode.encoder import id_map
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.state import State, load_state
from jobs.models.artifact import spec_of
from jobs.models.folder import read_card
from jobs.models.identity import Identity
from jobs.models.spec import ModelSpec
from jobs.registry.registry import Registry
from jobs.registry.version import CHAMPION
from jobs.settings.settings import Settings

log = logging.getLogger("millstream.train")

# Parts of a model's spec that may differ from its source's. The others decide shapes of layers.
_FREE = {
    *("state", "means", "stds", "table_rows", "embedding_dims", "dropout"),
    *("id_lists", "number_lists", "table_places", "list_places"),
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
        source, card = spec_of(self.folder, self.identity), read_card(self.folder)
        ours, theirs = spec.to_json(), source.to_json()
        misfits = [name for name in ours if name not in _FREE and ours[name] != theirs[name]]
        # A layer that drops moves the names of those behind it.
        if bool(spec.dropout) != bool(source.dropout):
            misfits.append("dropout")
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
