"""Files as they lie in a store, whatever names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fsspec


@dataclass(frozen=True)
class StoredFile:
    """A file on disk: its path there and below its folder, its size, and when it was written."""

    path: str
    relative: str
    bytes: int
    written_at: float


def stored_files(url: str) -> list[StoredFile]:
    """All files below a folder; none where there is no folder."""
    fs, root = fsspec.core.url_to_fs(url)
    found = fs.find(root, detail=True) if fs.exists(root) else {}
    return [
        StoredFile(path, path.removeprefix(root).lstrip("/"), info["size"], _written_at(info))
        for path, info in found.items()
    ]


def _written_at(info: dict[str, Any]) -> float:
    """Local files tell their time as a number, objects as a datetime."""
    return float(info["mtime"] if "mtime" in info else info["LastModified"].timestamp())
