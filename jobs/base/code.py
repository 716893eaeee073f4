"""Digests of what a run depends on, raw files, code and texts: whether it was done before."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import jobs
import schemas


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest() -> str:
    """Of the text of all our modules, so that new code is never taken for the old."""
    texts = [text for package in (jobs, schemas) for text in _texts(resources.files(package))]
    return digest_of("".join(texts))


def _texts(folder: Traversable) -> Iterable[str]:
    """Of the modules in a folder, which may lie in a zip."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _texts(entry)
        elif entry.name.endswith(".py"):
            yield entry.read_text(encoding="utf-8")


def code_commit() -> str:
    """The Git commit of a checkout; empty where the code was installed without one."""
    root = Path(next(iter(jobs.__path__))).parent
    if not (root / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
