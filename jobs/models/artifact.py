"""A model on disk: `model.safetensors` and `model.json`, written whole, checked when loaded.

Large embedding tables are in files of their own (`pieces.py`), which whoever loads the model maps:
it needs no memory for them, and the processes of a host share one copy. Where a later training is
to start from the model, there is `optimizer.safetensors` too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from jobs.models.build import Model, build_model
from jobs.models.folder import CARD, MOMENTS, WEIGHTS, read_card, weights_digest
from jobs.models.identity import Identity, refuse_changed_card, refuse_changed_source
from jobs.models.mapped import mappable_tables, with_mapped
from jobs.models.spec import ModelSpec
from jobs.models.stored import card_of_moments, card_of_weights, read_weights
from jobs.models.tables.buckets import Buckets
from jobs.models.tables.pieces import MOMENT_TABLES, TABLES, StoredTable, TableFiles, write_table
from jobs.models.ties import set_state, state_of
from jobs.stores.files import files_to_add, folder_to_write

FORMAT = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model as it was saved.

    Attributes:
        model: on the CPU, in evaluation mode.
        spec: what it was built from.
        card: the whole of `model.json`, with what the caller of `save_model` added.
        digest: of the weights.
        tables: those in files of their own, by the names of their parameters.
    """

    model: Model
    spec: ModelSpec
    card: dict[str, Any]
    digest: str
    tables: Mapping[str, TableFiles]


@dataclass(frozen=True)
class Cut:
    """Which tables are stored in files of their own, and how they are cut.

    Attributes:
        tables: names of the parameters of those that can be, see `mappable_tables`.
        least_bytes: of a table that is; smaller ones are stored with the other weights.
        buckets: of a table.
    """

    tables: Collection[str]
    least_bytes: int
    buckets: int = Buckets.count

    def apart(self, weights: Mapping[str, Tensor]) -> set[str]:
        """Those of the weights that go to files of their own."""
        return {
            name
            for name in self.tables
            if name in weights and weights[name].nbytes >= self.least_bytes
        }


def save_model(
    folder_url: str,
    model: Model,
    name: str,
    spec: ModelSpec,
    extra: Mapping[str, Any],
    moments: Mapping[str, Tensor] | None = None,
    least_table_bytes: int | None = None,
) -> str:
    """Writes a model's folder; its card, written last, says that it is complete.

    Args:
        folder_url: replaced when it is there.
        model: built by `build_model(name, spec)`.
        name: of the model, or its reference.
        spec: what it was built from.
        extra: JSON values, kept in `model.json`.
        moments: of the optimizers; see `jobs.train.step.moments`. Not kept when None.
        least_table_bytes: of tables that get files of their own; None where none do.

    Returns:
        The digest of the weights.
    """
    cut = None
    if least_table_bytes is not None:
        cut = Cut(mappable_tables(model).keys(), least_table_bytes)
    weights = {key: value.detach().cpu().contiguous() for key, value in state_of(model).items()}
    return save_weights(folder_url, weights, name, spec, model.source, extra, moments, cut)


def save_weights(
    folder_url: str,
    weights: Mapping[str, Tensor],
    name: str,
    spec: ModelSpec,
    source: str,
    extra: Mapping[str, Any],
    moments: Mapping[str, Tensor] | None = None,
    cut: Cut | None = None,
    stored: Sequence[StoredTable] = (),
) -> str:
    """The same, given the model's weights, contiguous and on the CPU, and its source.

    Args:
        stored: tables, and moments of tables, that are not among the weights and the moments;
            their files are in the folder already.
    """
    apart = cut.apart(weights) if cut else set()
    dense = {key: value for key, value in weights.items() if key not in apart}
    card = {"format": FORMAT, "model": name, "spec": spec.to_json(), "source": source}
    tensors = {WEIGHTS: dense}
    if moments is not None:
        of_moments = [table for table in stored if table.folder == MOMENT_TABLES]
        card |= card_of_moments(weights_digest(moments), of_moments)
        tensors[MOMENTS] = dict(moments)
    with (files_to_add if stored else folder_to_write)(folder_url, last=CARD) as folder:
        tables = [table for table in stored if table.folder == TABLES]
        if cut is not None:
            tables += [write_table(folder, name, weights[name], cut.buckets) for name in apart]
        tables.sort(key=lambda table: table.name)
        card |= card_of_weights(weights_digest(dense), tables)
        (folder / CARD).write_text(json.dumps({**extra, **card}, indent=1, sort_keys=True))
        for file, of in tensors.items():
            save_file(of, folder / file)
            # safetensors lets the file's owner alone read it.
            shutil.copymode(folder / CARD, folder / file)
    return str(card["weights_digest"])


def load_model(
    folder_url: str,
    identity: Identity | None = None,
    *,
    map_files: bool = True,
) -> LoadedModel:
    """Reads a model's folder. Code that its card names is imported after all was checked.

    Args:
        identity: that it must have, from the registry; versions of before it was kept have none.
        map_files: read rows of tables in files when they are looked up; else all of them now.

    Raises:
        DataRefused: a file is missing or torn, the weights are not those that were saved, or the
            card or source was changed.
        ConfigError: a model of the user's own is not to be found.
    """
    card = read_card(folder_url)
    if identity is not None:
        refuse_changed_card(card, identity, folder_url)
    refuse_changed_source(card, folder_url)
    stored = read_weights(folder_url, card)
    spec, weights = ModelSpec.from_json(card["spec"]), dict(stored.tensors)
    build = partial(build_model, card["model"], spec, card.get("base", "."))
    if map_files:
        model = with_mapped(build, stored.tables)
    else:
        model = build()
        weights |= {name: files.whole() for name, files in stored.tables.items()}
    set_state(model, weights)
    return LoadedModel(model.eval(), spec, card, card["weights_digest"], stored.tables)


def spec_of(folder_url: str, identity: Identity | None = None) -> ModelSpec:
    """What a model was built from, by its card alone.

    Raises:
        DataRefused: there is no card, or it is not that of the identity.
    """
    card = read_card(folder_url)
    if identity is not None:
        refuse_changed_card(card, identity, folder_url)
    return ModelSpec.from_json(card["spec"])
