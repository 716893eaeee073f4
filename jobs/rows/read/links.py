"""Local folders: what links lead to, files with several names, and what may not be listed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from jobs.base.errors import DataRefused


class LinkedFiles(LocalFileSystem):  # type: ignore[misc]
    """Local files. Links to folders are folders; those to nowhere, and to a folder that they lie
    in, are of the type `other`, as pipes and devices are."""

    def info(self, path: Any, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().info(path, **more)
        if not isinstance(path, os.DirEntry) or not found["islink"]:
            return found
        try:
            target: dict[str, Any] = super().info(path.path, **more)
        except OSError:
            return found
        return found if target["type"] == "directory" and _leads_up(path.path) else target


def _leads_up(path: str) -> bool:
    """Whether a path is the same folder as one above it."""
    target = os.path.realpath(path)
    return any(os.path.realpath(above) == target for above in Path(path).parents)


def refuse_closed(folder: str) -> None:
    """
    Raises:
        DataRefused: the folder may not be listed; searches take it for an empty one.
    """
    as_now = os.access in os.supports_effective_ids
    if not os.access(folder, os.R_OK | os.X_OK, effective_ids=as_now):
        raise DataRefused(
            f"{folder} cannot be listed",
            "folders that this user may read",
            "give the rights, or a path that does not lead there",
        )


def each_once(files: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Local files by name, one name of each: the one without links, if there is one."""
    alike = Counter(info["ino"] for info in files.values())
    real = {
        name: os.path.realpath(name) if alike[info["ino"]] > 1 else name
        for name, info in files.items()
    }
    first: dict[str, str] = {}
    for name in sorted(files, key=lambda name: (real[name] != name, name)):
        first.setdefault(real[name], name)
    return {name: files[name] for name in first.values()}
