"""A model on disk: `model.safetensors` and `model.json`, written whole, checked when loaded.

Beside them, where a later training is to start from it, `optimizer.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
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
from jobs.models.spec import ModelSpec
from jobs.models.ties import set_state, state_of
from jobs.stores.files import folder_to_write, local_file

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
    """

    model: Model
    spec: ModelSpec
    card: dict[str, Any]
    digest: str


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
) -> str:
    """Writes a model's folder; its card, written last, says that it is complete.

    Args:
        folder_url: replaced when it is there.
        model: built by `build_model(name, spec)`.
        name: of the model, or its reference.
        spec: what it was built from.
        extra: JSON values, kept in `model.json`.
        moments: of the optimizers; see `jobs.train.step.moments`. Not kept when None.

    Returns:
        The digest of the weights.
    """
    weights = {key: value.detach().cpu().contiguous() for key, value in state_of(model).items()}
    return save_weights(folder_url, weights, name, spec, model.source, extra, moments)


def save_weights(
    folder_url: str,
    weights: Mapping[str, Tensor],
    name: str,
    spec: ModelSpec,
    source: str,
    extra: Mapping[str, Any],
    moments: Mapping[str, Tensor] | None = None,
) -> str:
    """The same, given the model's weights, contiguous and on the CPU, and its source."""
    digest = weights_digest(weights)
    card = {"format": FORMAT, "weights_digest": digest, "model": name, "spec": spec.to_json()}
    card["source"] = source
    tensors = {WEIGHTS: dict(weights)}
    if moments is not None:
        card["moments_digest"] = weights_digest(moments)
        tensors[MOMENTS] = dict(moments)
    with folder_to_write(folder_url, last=CARD) as folder:
        (folder / CARD).write_text(json.dumps({**extra, **card}, indent=1, sort_keys=True))
        for file, of in tensors.items():
            save_file(of, folder / file)
            # safetensors lets the file's owner alone read it.
            shutil.copymode(folder / CARD, folder / file)
    return digest


def load_model(
    folder_url: str, identity: Identity | None = None, *, any_source: bool = False
) -> LoadedModel:
    """Reads a model's folder. Code that its card names is imported after all was checked.

    Args:
        identity: that it must have, from the registry; versions of before it was kept have none.
        any_source: take a model of the user's own whose source was changed since.

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
    weights = _tensors(folder_url, WEIGHTS, card["weights_digest"])
    spec = ModelSpec.from_json(card["spec"])
    model = build_model(card["model"], spec, card.get("base", "."))
    set_state(model, weights)
    return LoadedModel(model.eval(), spec, card, card["weights_digest"])


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
