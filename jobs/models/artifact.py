"""A model on disk: `model.safetensors` and `model.json`, written whole, checked when loaded.

Large embedding tables are in files of their own (`pieces.py`), which whoever loads the model maps:
it needs no memory for them, and the processes of a host share one copy. Where a later training is
to start from the model, there is `optimizer.safetensors` too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jobs.base.errors import DataRefused
from jobs.models.build import Model, build_model
from jobs.models.identity import Identity, refuse_changed_card, refuse_changed_source
from jobs.models.mapped import mappable_tables, with_mapped
from jobs.models.spec import ModelSpec
from jobs.models.tables.buckets import Buckets
from jobs.models.tables.pieces import TABLES, StoredTable, TableFiles, write_table
from jobs.models.ties import set_state, state_of
from jobs.stores.files import files_to_add, folder_to_write, local_file
from jobs.stores.host import on_host
from jobs.stores.tensors import Torn

WEIGHTS, MOMENTS, CARD = "model.safetensors", "optimizer.safetensors", "model.json"
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


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Hex digest of names, dtypes, shapes and bytes of the tensors, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


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
        stored: tables that are not among the weights; their files are in the folder already.
    """
    apart = cut.apart(weights) if cut else set()
    dense = {key: value for key, value in weights.items() if key not in apart}
    card = {"format": FORMAT, "model": name, "spec": spec.to_json(), "source": source}
    tensors = {WEIGHTS: dense}
    if moments is not None:
        card["moments_digest"] = weights_digest(moments)
        tensors[MOMENTS] = dict(moments)
    with (files_to_add if stored else folder_to_write)(folder_url, last=CARD) as folder:
        tables = list(stored) or [
            write_table(folder, key, weights[key], cut.buckets) for key in sorted(apart) if cut
        ]
        card |= _card_of_weights(weights_digest(dense), tables)
        (folder / CARD).write_text(json.dumps({**extra, **card}, indent=1, sort_keys=True))
        for file, of in tensors.items():
            save_file(of, folder / file)
            # safetensors lets the file's owner alone read it.
            shutil.copymode(folder / CARD, folder / file)
    return str(card["weights_digest"])


def _card_of_weights(dense: str, tables: Sequence[StoredTable]) -> dict[str, Any]:
    """What the card says of the weights, where tables are in files of their own."""
    if not tables:
        return {"weights_digest": dense}
    digests = "\n".join([dense, *(table.digest() for table in tables)])
    return {
        "weights_digest": hashlib.sha256(digests.encode()).hexdigest()[:32],
        "dense_digest": dense,
        TABLES: [table.to_json() for table in tables],
    }


def load_model(
    folder_url: str,
    identity: Identity | None = None,
    *,
    any_source: bool = False,
    map_files: bool = True,
) -> LoadedModel:
    """Reads a model's folder. Code that its card names is imported after all was checked.

    Args:
        identity: that it must have, from the registry; versions of before it was kept have none.
        any_source: take a model of the user's own whose source was changed since.
        map_files: read rows of tables in files when they are looked up; else all of them now.

    Raises:
        DataRefused: a file is missing or torn, the weights are not those that were saved, or the
            card or source was changed.
        ConfigError: a model of the user's own is not to be found.
    """
    card = _card(folder_url)
    if identity is not None:
        refuse_changed_card(card, identity, folder_url)
    if not any_source:
        refuse_changed_source(card, folder_url)
    weights = _tensors(folder_url, WEIGHTS, card.get("dense_digest", card["weights_digest"]))
    tables = open_tables(folder_url, card)
    spec = ModelSpec.from_json(card["spec"])
    if map_files:
        model = with_mapped(lambda: build_model(card["model"], spec, card.get("base", ".")), tables)
    else:
        model = build_model(card["model"], spec, card.get("base", "."))
        weights |= {name: files.whole() for name, files in tables.items()}
    set_state(model, weights)
    return LoadedModel(model.eval(), spec, card, card["weights_digest"], tables)


def spec_of(folder_url: str, identity: Identity | None = None) -> ModelSpec:
    """What a model was built from, by its card alone.

    Raises:
        DataRefused: there is no card, or it is not that of the identity.
    """
    card = _card(folder_url)
    if identity is not None:
        refuse_changed_card(card, identity, folder_url)
    return ModelSpec.from_json(card["spec"])


def stored_tables(card: Mapping[str, Any]) -> list[StoredTable]:
    """The tables of a model that are in files of their own."""
    return [StoredTable.from_json(tree) for tree in card.get(TABLES, [])]


def open_tables(folder_url: str, card: Mapping[str, Any]) -> dict[str, TableFiles]:
    """Maps the tables' files, which one process of the host has checked.

    Raises:
        DataRefused: a file is missing, torn, or not what was saved.
    """
    tables = stored_tables(card)
    if not tables:
        return {}
    if card["weights_digest"] != _card_of_weights(card["dense_digest"], tables)["weights_digest"]:
        raise DataRefused(
            f"model.json in {folder_url} was changed: {TABLES}",
            "the digests of tables with which it was saved",
            "restore the model's folder, or use another version",
        )
    files = {name: size for table in tables for name, size in table.sizes().items()}

    def opened(folder: Path) -> dict[str, TableFiles]:
        return {table.name: TableFiles(folder, table) for table in tables}

    def verify(folder: Path) -> None:
        for of in opened(folder).values():
            of.verify()

    try:
        return opened(on_host(folder_url, files, card["weights_digest"], verify))
    except (FileNotFoundError, Torn) as error:
        raise DataRefused(
            f"the model in {folder_url} is damaged: {error}",
            "the files with which it was saved",
            "restore the model's folder, or use another version",
        ) from error


def load_moments(folder_url: str) -> dict[str, Tensor] | None:
    """Reads what a model's folder keeps of its optimizers; None where it keeps nothing.

    Raises:
        DataRefused: the file is missing, torn, or not what was saved.
    """
    digest = _card(folder_url).get("moments_digest")
    return None if digest is None else _tensors(folder_url, MOMENTS, digest)


def _card(folder_url: str) -> dict[str, Any]:
    with _file(folder_url, CARD) as path:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def _tensors(folder_url: str, name: str, digest: str) -> dict[str, Tensor]:
    with _file(folder_url, name) as path:
        found = load_file(path)
    if (own := weights_digest(found)) != digest:
        raise DataRefused(
            f"the tensors of {name} in {folder_url} have digest {own}",
            f"digest {digest}, with which they were saved",
            "restore the folder, or use another version",
        )
    return found


@contextmanager
def _file(folder_url: str, name: str) -> Iterator[Path]:
    """The local path of a file of a model, while the block reads it.

    Raises:
        DataRefused: it is missing, or the block cannot read what it holds.
    """
    try:
        with local_file(f"{folder_url.rstrip('/')}/{name}") as path:
            yield path
    except FileNotFoundError as error:
        raise DataRefused(
            f"no model in {folder_url}: {error}", f"the files {WEIGHTS} and {CARD}"
        ) from error
    except (SafetensorError, ValueError) as error:
        raise DataRefused(f"the model in {folder_url} is damaged: {name}: {error}") from error
