"""The files of a model's folder: its card, and tensors that are checked when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from jobs.base.errors import DataRefused
from jobs.stores.files import local_file
from jobs.stores.tensors import bytes_of

WEIGHTS, MOMENTS, CARD = "model.safetensors", "optimizer.safetensors", "model.json"


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Hex digest of names, dtypes, shapes and bytes of the tensors, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()[:32]


def read_card(folder_url: str) -> dict[str, Any]:
    """What `model.json` says.

    Raises:
        DataRefused: it is missing or damaged.
    """
    with _file(folder_url, CARD) as path:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def read_tensors(folder_url: str, name: str, digest: str) -> dict[str, Tensor]:
    """The tensors of a file, of which memory holds what is used: they are the file's pages.

    Raises:
        DataRefused: the file is missing, torn, or has another digest.
    """
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
