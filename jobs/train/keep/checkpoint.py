"""Checkpoints on a store: written in one atomic commit, off the training path, and verified.

    <folder>/at-<nanoseconds>/weights.safetensors  optimizer.safetensors  random.safetensors
                               commit.json

`commit.json` names every other file with its bytes and checksum, and has a checksum of its own. A
folder without it is no checkpoint. On a local disk the whole folder is synced and renamed into
place; on an object store, where nothing can be renamed, the commit is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import safetensors.torch
from fsspec.implementations.local import LocalFileSystem

from jobs.train.keep.snapshot import Snapshot
from jobs.train.step.history import History, Position
from jobs.train.step.rowledger import RowCount

COMMIT = "commit.json"
FORMAT = 1
_PREFIX, _STAGED = "at-", "staged-"
_CHUNK = 16 << 20


class Damaged(Exception):
    """A checkpoint is not what was written; the message says which file and how."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, its tensors not read yet.

    Attributes:
        url: of its folder.
        moment_ns: when it was written, since 1970.
        ranks: that trained it.
        identity: what the training is: fingerprint, model, settings, versions.
        files: name -> bytes and checksum.
    """

    url: str
    moment_ns: int
    ranks: int
    position: Position
    identity: dict[str, Any]
    numbers: dict[str, float]
    files: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """Run and folder."""
        return "/".join(self.url.split("/")[-2:])


def write(folder: str, snapshot: Snapshot, identity: Mapping[str, Any]) -> str:
    """Writes a checkpoint into a run's folder; nothing of it stays when that fails.

    Returns:
        The URL of its folder.

    Raises:
        OSError: the store refused.
    """
    fs, root = fsspec.core.url_to_fs(folder)
    moment_ns = time.time_ns()
    final = f"{root}/{_PREFIX}{moment_ns}"
    local = isinstance(fs, LocalFileSystem)
    place = f"{root}/{_STAGED}{moment_ns}" if local else final
    try:
        fs.makedirs(place, exist_ok=True)
        files = {name: _write_file(fs, f"{place}/{name}", data) for name, data in _parts(snapshot)}
        commit = {
            "format": FORMAT,
            "moment_ns": moment_ns,
            "ranks": len(snapshot.random),
            "position": _position_tree(snapshot.position),
            "identity": dict(identity),
            "numbers": snapshot.numbers,
            "files": files,
        }
        _write_file(fs, f"{place}/{COMMIT}", _sealed(commit, identity))
        if local:
            _sync_folder(place)
            Path(place).rename(final)
            _sync_folder(root)
    except BaseException:
        _remove(fs, place)
        raise
    return f"{folder.rstrip('/')}/{_PREFIX}{moment_ns}"


def _parts(snapshot: Snapshot) -> Iterable[tuple[str, bytes]]:
    """File by file, so that one at a time is in memory twice."""
    yield "weights.safetensors", safetensors.torch.save(snapshot.weights)
    yield "optimizer.safetensors", safetensors.torch.save(snapshot.optimizer)
    yield "random.safetensors", safetensors.torch.save({"random": snapshot.random})


def _write_file(fs: Any, path: str, data: bytes) -> dict[str, Any]:
    if isinstance(fs, LocalFileSystem):
        with Path(path).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    else:
        fs.pipe_file(path, data)
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
        # A full or absent store: what is left has no commit, so nobody takes it for a checkpoint.
        return


def _sealed(commit: Mapping[str, Any], identity: Mapping[str, Any]) -> bytes:
    body = json.dumps(commit, sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    # In the open, for those who only want to know which tables a checkpoint needs.
    needed = {name: identity[name] for name in ("examples_version", "state_digest")}
    return json.dumps({"sha256": digest, "commit": body, **needed}).encode()


def _unsealed(data: bytes) -> dict[str, Any]:
    try:
        seal = json.loads(data)
        body = seal["commit"]
        digest = hashlib.sha256(body.encode()).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{COMMIT} is torn") from error
    if digest != seal.get("sha256"):
        raise Damaged(f"{COMMIT} has another checksum than it says")
    tree: dict[str, Any] = json.loads(body)
    return tree


def _position_tree(position: Position) -> dict[str, Any]:
    return {**asdict(replace(position, history=History())), "history": position.history.to_json()}


def _position_of(tree: Mapping[str, Any]) -> Position:
    history, trained = History.from_json(tree["history"]), RowCount(**tree["trained"])
    return Position(**{**tree, "history": history, "trained": trained})


def listed(folder: str) -> list[str]:
    """URLs of a run's checkpoint folders, complete or not, the newest first."""
    fs, root = fsspec.core.url_to_fs(folder)
    fs.invalidate_cache()
    paths = fs.glob(f"{root}/{_PREFIX}*")
    names = sorted((path.rsplit("/", 1)[-1] for path in paths), key=_moment, reverse=True)
    return [f"{folder.rstrip('/')}/{name}" for name in names if _moment(name) >= 0]


def _moment(name: str) -> int:
    digits = name.removeprefix(_PREFIX)
    return int(digits) if digits.isdigit() else -1


def identity(url: str) -> dict[str, Any]:
    """What a checkpoint says it is a training of, its files unread.

    Raises:
        Damaged: its commit is missing or torn.
    """
    fs, path = fsspec.core.url_to_fs(url)
    found: dict[str, Any] = _unsealed(_read(fs, path, COMMIT))["identity"]
    return found


def verified(url: str) -> Checkpoint:
    """Reads the commit of a checkpoint and compares every file with it.

    Raises:
        Damaged: a file is missing, torn, changed, or of another checkpoint.
    """
    fs, path = fsspec.core.url_to_fs(url)
    commit = _unsealed(_read(fs, path, COMMIT))
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
    )


def _read(fs: Any, path: str, name: str) -> bytes:
    try:
        data: bytes = fs.cat_file(f"{path}/{name}")
    except FileNotFoundError as error:
        raise Damaged(f"{name} is missing") from error
    return data


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
        Damaged: they changed since it was verified.
    """
    fs, path = fsspec.core.url_to_fs(checkpoint.url)
    parts = {}
    for name, written in checkpoint.files.items():
        data = _read(fs, path, name)
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


def prune(folder: str, keep: int, written: list[str]) -> None:
    """Removes all checkpoints of a run but the last `keep` of those in `written`, oldest first."""
    kept = {url.rsplit("/", 1)[-1] for url in written[-keep:]}
    fs, root = fsspec.core.url_to_fs(folder)
    for url in listed(folder):
        name = url.rsplit("/", 1)[-1]
        if name not in kept:
            # The commit first: half of a checkpoint must not look like one.
            if fs.exists(f"{root}/{name}/{COMMIT}"):
                fs.rm_file(f"{root}/{name}/{COMMIT}")
            fs.rm(f"{root}/{name}", recursive=True)
    for path in fs.glob(f"{root}/{_STAGED}*"):
        # Of a process that was killed while it wrote.
        fs.rm(path, recursive=True)
