"""Checkpoints: snapshots in a store, which are either complete or not used.

    <folder>/at-<nanoseconds>/weights.safetensors  optimizer.safetensors  random.safetensors
                               commit.json

`commit.json` has the size and SHA-256 of every other file, and its own SHA-256. A folder without
it is no checkpoint. On a local disk the files are written to another folder, synced, and the folder
is renamed. In an object store, where nothing can be renamed, `commit.json` is written last.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import safetensors.torch
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor

from jobs.stores.errors import persistently
from jobs.train.keep.seal import COMMIT, Damaged, TablesSeal, read_part, sealed, unsealed
from jobs.train.keep.snapshot import Snapshot
from jobs.train.step.history import History, Position
from jobs.train.step.rowledger import RowCount

FORMAT = 1
STAGED, _PREFIX = "staged-", "at-"
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, without its tensors.

    Attributes:
        url: URL of its folder.
        moment_ns: time at which it was written, in nanoseconds since 1970.
        ranks: number of ranks that took the snapshot.
        position: of the training.
        identity: what makes two trainings the same one, see `TrainJob.identity`.
        numbers: as in `Snapshot`.
        files: file name -> `bytes`, its size, and `sha256`.
        tables: of sharded tables, whose files the ranks wrote; None without any.
    """

    url: str
    moment_ns: int
    ranks: int
    position: Position
    identity: dict[str, Any]
    numbers: dict[str, float]
    files: dict[str, dict[str, Any]]
    tables: TablesSeal | None = None

    @property
    def name(self) -> str:
        """The names of the run and of the folder, joined by a slash."""
        return "/".join(self.url.split("/")[-2:])


def write(
    folder: str,
    snapshot: Snapshot,
    identity: Mapping[str, Any],
    moment_ns: int | None = None,
    write_tables: Callable[[str], TablesSeal] | None = None,
) -> str:
    """Writes a checkpoint into a run's folder. When that fails, its files are removed.

    Args:
        folder: URL of the run's folder.
        identity: see `Checkpoint`.
        moment_ns: by which ranks name it; the time when None.
        write_tables: has the sharded tables written into the folder of the given URL, if any.

    Returns:
        The URL of the checkpoint's folder.

    Raises:
        OSError: the store could not write.
    """
    fs, root = fsspec.core.url_to_fs(folder)
    moment_ns = moment_ns or time.time_ns()
    final = f"{root}/{_PREFIX}{moment_ns}"
    url = staged_at(folder, moment_ns)
    place, local = fsspec.core.url_to_fs(url)[1], isinstance(fs, LocalFileSystem)
    try:
        fs.makedirs(place, exist_ok=True)
        files = {
            name: _write_file(fs, f"{place}/{name}", partial(safetensors.torch.save, tensors))
            for name, tensors in _parts(snapshot).items()
        }
        commit = {
            "format": FORMAT,
            "moment_ns": moment_ns,
            "ranks": len(snapshot.random),
            "position": _position_tree(snapshot.position),
            "identity": dict(identity),
            "numbers": snapshot.numbers,
            "files": files,
            "tables": asdict(write_tables(url)) if write_tables else None,
        }
        _write_file(fs, f"{place}/{COMMIT}", partial(sealed, commit, identity))
        if local:
            _sync_folder(place)
            Path(place).rename(final)
            _sync_folder(root)
    except BaseException:
        _remove(fs, place)
        raise
    return of_moment(folder, moment_ns)


def staged_at(folder: str, moment_ns: int) -> str:
    """The URL of the folder in which a checkpoint is written."""
    local = isinstance(fsspec.core.url_to_fs(folder)[0], LocalFileSystem)
    return f"{folder.rstrip('/')}/{STAGED if local else _PREFIX}{moment_ns}"


def of_moment(folder: str, moment_ns: int) -> str:
    """The URL of the checkpoint that was written at a time."""
    return f"{folder.rstrip('/')}/{_PREFIX}{moment_ns}"


def _parts(snapshot: Snapshot) -> dict[str, dict[str, Tensor]]:
    """File names, and the tensors in each."""
    return {
        "weights.safetensors": snapshot.weights,
        "optimizer.safetensors": snapshot.optimizer,
        "random.safetensors": {"random": snapshot.random},
    }


def _write_file(fs: Any, path: str, content: Callable[[], bytes]) -> dict[str, Any]:
    """Writes a file, on a local disk down to the disk; returns its size and SHA-256.

    Args:
        content: makes the bytes, so that those of one file only are in memory. They are not written
            by safetensors itself: the SHA-256 must be of what was meant to be written.
    """
    data = content()
    if isinstance(fs, LocalFileSystem):
        with Path(path).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    else:
        persistently(lambda: fs.pipe_file(path, data))
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(fs: Any, path: str) -> None:
    try:
        fs.rm(path, recursive=True)
    except OSError:
        # The store is full or absent. The files that stay have no commit, so nobody reads them.
        return


def _position_tree(position: Position) -> dict[str, Any]:
    return {**asdict(replace(position, history=History())), "history": position.history.to_json()}


def _position_of(tree: Mapping[str, Any]) -> Position:
    history, trained = History.from_json(tree["history"]), RowCount(**tree["trained"])
    return Position(**{**tree, "history": history, "trained": trained})


def listed(folder: str) -> list[str]:
    """URLs of the checkpoint folders in a run's folder, complete or not, the newest first."""
    fs, root = fsspec.core.url_to_fs(folder)
    fs.invalidate_cache()
    paths = fs.glob(f"{root}/{_PREFIX}*")
    names = sorted((path.rsplit("/", 1)[-1] for path in paths), key=_moment, reverse=True)
    return [f"{folder.rstrip('/')}/{name}" for name in names if _moment(name) >= 0]


def _moment(name: str) -> int:
    """When the checkpoint in a folder of this name was written; -1 for other names."""
    digits = name.removeprefix(_PREFIX)
    return int(digits) if digits.isdigit() else -1


def commit_of(url: str) -> dict[str, Any]:
    """What a checkpoint's commit says; other files are not read.

    Raises:
        Damaged: the commit is missing or torn.
    """
    fs, path = fsspec.core.url_to_fs(url)
    return unsealed(read_part(fs, path, COMMIT))


def identity(url: str) -> dict[str, Any]:
    """The identity in a checkpoint's commit, see `Checkpoint`; raises as `commit_of`."""
    found: dict[str, Any] = commit_of(url)["identity"]
    return found


def verified(url: str) -> Checkpoint:
    """Reads a checkpoint's commit, and compares the size and SHA-256 of every file with it.

    Of sharded tables, see `verified_chain`.

    Raises:
        Damaged: a file is missing, or another one than was written.
    """
    fs, path = fsspec.core.url_to_fs(url)
    commit = commit_of(url)
    if commit["format"] != FORMAT:
        raise Damaged(f"format {commit['format']} is not {FORMAT}")
    for name, written in commit["files"].items():
        _check_file(fs, path, name, written)
    return Checkpoint(
        url=url,
        moment_ns=commit["moment_ns"],
        ranks=commit["ranks"],
        position=_position_of(commit["position"]),
        identity=commit["identity"],
        numbers=commit["numbers"],
        files=commit["files"],
        tables=TablesSeal.from_json(commit["tables"]) if commit.get("tables") else None,
    )


def _check_file(fs: Any, path: str, name: str, written: Mapping[str, Any]) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with fs.open(f"{path}/{name}", "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError as error:
        raise Damaged(f"{name} is missing") from error
    if size != written["bytes"]:
        raise Damaged(f"{name} has {size} bytes, was written with {written['bytes']}")
    if digest.hexdigest() != written["sha256"]:
        raise Damaged(f"{name} has another checksum than it was written with")


def load(checkpoint: Checkpoint) -> Snapshot:
    """Reads the tensors of a checkpoint.

    Raises:
        Damaged: a file changed since it was verified.
    """
    fs, path = fsspec.core.url_to_fs(checkpoint.url)
    parts = {}
    for name, written in checkpoint.files.items():
        data = read_part(fs, path, name)
        if hashlib.sha256(data).hexdigest() != written["sha256"]:
            raise Damaged(f"{name} changed while it was being read")
        parts[name.removesuffix(".safetensors")] = safetensors.torch.load(data)
    return Snapshot(
        weights=parts["weights"],
        optimizer=parts["optimizer"],
        numbers=checkpoint.numbers,
        random=parts["random"]["random"],
        position=checkpoint.position,
    )
