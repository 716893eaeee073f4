"""Files of registered models in the lake: folders named by identity, and long texts."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import fsspec

from jobs.base.errors import ConfigError, DataRefused
from jobs.lake.lake import Lake
from jobs.models.identity import Identity, refuse_changed_card, refuse_changed_source
from jobs.registry.version import ModelVersion
from jobs.stores.files import is_object_store, read_json

# Tracking servers take tags of 5,000 characters; longer texts go to the lake, by their digest.
LONGEST_TAG = 5_000
_POINTER = "lake:"


def identity_of(folder: str) -> Identity:
    """The identity of a saved model, by its card.

    Raises:
        DataRefused: there is no card.
    """
    return Identity.of_card(_card(folder))


def refuse_changed_model(version: ModelVersion) -> None:
    """Refuses a version whose card or source was changed since it was registered.

    Raises:
        DataRefused: names what was changed, or that there is no card.
    """
    card = _card(version.folder_url)
    if version.identity is not None:
        refuse_changed_card(card, version.identity, version.folder_url)
    refuse_changed_source(card, version.folder_url)


def _card(folder: str) -> dict[str, Any]:
    try:
        card: dict[str, Any] = read_json(f"{folder.rstrip('/')}/model.json")
    except FileNotFoundError as error:
        raise DataRefused(f"no saved model in {folder}", "a folder with model.json") from error
    return card


def model_folder(lake: Lake, digest: str) -> str:
    return lake.folder("models", digest)


def keep_model(lake: Lake, folder: str, digest: str) -> None:
    """Copies a model's folder to where its identity's digest says, whole or not at all."""
    fs, path = fsspec.core.url_to_fs(model_folder(lake, digest))
    if not fs.exists(f"{path}/model.json"):
        # An object store shows files one by one; the card comes last and says that all are there.
        in_place = is_object_store(lake.url)
        staged = path if in_place else f"{path}.{time.time_ns()}.tmp"
        fs.makedirs(staged, exist_ok=True)
        source_fs, source = fsspec.core.url_to_fs(folder.rstrip("/"))
        for file in sorted(source_fs.find(source), key=lambda file: file.endswith("/model.json")):
            name = file.removeprefix(f"{source}/")
            fs.makedirs(f"{staged}/{name}".rsplit("/", 1)[0], exist_ok=True)
            with source_fs.open(file, "rb") as read, fs.open(f"{staged}/{name}", "wb") as write:
                shutil.copyfileobj(read, write, 2**24)
        if not in_place:
            fs.mv(staged, path, recursive=True)


def shorten(lake: Lake, text: str) -> str:
    """The text, or a pointer to it where it is too long for a tag."""
    if len(text) <= LONGEST_TAG:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    url = lake.folder("models", "tags", digest)
    with fsspec.open(url, "w", encoding="utf-8", auto_mkdir=True) as file:
        file.write(text)
    return _POINTER + digest


def lengthen(lake: Lake, text: str) -> str:
    """What `shorten` was given."""
    if not text.startswith(_POINTER):
        return text
    url = lake.folder("models", "tags", text.removeprefix(_POINTER))
    with fsspec.open(url, "r", encoding="utf-8") as file:
        return str(file.read())


def local_path(lake: Lake, *names: str) -> Path:
    """A place in the lake as a path of this machine.

    Raises:
        ConfigError: the lake is no file system.
    """
    url = lake.folder(*names)
    if "://" in url and not url.startswith("file://"):
        raise ConfigError(
            f"the lake {lake.url} is no file system, so MLflow's database cannot be in it",
            "mlflow.tracking_uri",
            "set mlflow.tracking_uri to a tracking server or a database",
        )
    return Path(url.removeprefix("file://"))
