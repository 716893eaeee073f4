"""Digests of what a run depends on, raw files, code and texts: whether it was done before."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pyspark.sql import SparkSession

import jobs
import schemas
from jobs.etl.files import find_files, hadoop_path


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def raw_digest(spark: SparkSession, paths: Iterable[str], dates: Sequence[str]) -> str:
    """Of the names and stamps of the raw files of the dates.

    Args:
        paths: of the sources, as `find_files` takes them.

    Raises:
        DataRefused: there is no file.
    """
    found = {
        file: stamp_of(spark, file) for path in paths for file in find_files(spark, path, dates)
    }
    return digest_of(json.dumps(found, sort_keys=True))


def stamp_of(spark: SparkSession, file: str) -> str:
    """What tells a raw file from another in its place: size and time, and the store's ETag."""
    jvm = spark._jvm
    assert jvm is not None
    path, fs = hadoop_path(spark, file)
    status = fs.getFileStatus(path)
    stamp = f"{status.getLen()} bytes, {status.getModificationTime()} ms"
    tagged = jvm.java.lang.Class.forName("org.apache.hadoop.fs.EtagSource").isInstance(status)
    return f"{stamp}, {status.getEtag()}" if tagged else stamp


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
