"""One writer for each (dataset, stage), with a lease and a token.

The lock is a file in the lake that names its holder. A holder that died on this host is taken
over at once (its pid is gone, or belongs to a process that started at another time); one on
another host when its lease ran out. Every taking raises the token; a commit carries the token, so
a holder that lost its lease cannot commit over its successor.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from jobs.errors import ConfigError, Locked
from jobs.lake import Lake

LEASE_S = 60.0
RENEW_S = 10.0


class StageLock:
    """A lock that is held. `token` goes into the commit's app transaction."""

    def __init__(self, path: Path, holder: dict[str, Any]) -> None:
        self._path = path
        self._holder = holder
        self._released = threading.Event()
        self.token: int = holder["token"]

    def check(self) -> None:
        """Raises Locked when another run has taken the lock over."""
        with _guarded(self._path):
            now = _read(self._path)
        if now is None or now["token"] != self.token:
            raise Locked(
                f"the lock {self._path} was taken over by {_name(now)}",
                remedy="nothing was committed; run the stage again",
            )

    def _renew_until_released(self) -> None:
        while not self._released.wait(RENEW_S):
            with _guarded(self._path):
                now = _read(self._path)
                if now is None or now["token"] != self.token:
                    return
                _write(self._path, {**self._holder, "renewed_at": time.time()})

    def _release(self) -> None:
        self._released.set()
        with _guarded(self._path):
            now = _read(self._path)
            if now is not None and now["token"] == self.token:
                _write(self._path, {**self._holder, "released": True})


@contextmanager
def stage_lock(lake: Lake, stage: str, run: str) -> Iterator[StageLock]:
    """Holds the lock of a stage while the block runs.

    Raises:
        Locked: a live run holds it; the message names the run, host and pid.
    """
    path = _lock_path(lake, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _guarded(path):
        before = _read(path)
        if before is not None and _is_live(before):
            raise Locked(
                f"stage {stage!r} of {lake.url} is held by {_name(before)}",
                remedy="wait for it to end, or stop it; a dead holder is taken over by itself",
            )
        holder = _myself(run, token=before["token"] + 1 if before else 1)
        _write(path, holder)
    lock = StageLock(path, holder)
    renewer = threading.Thread(target=lock._renew_until_released, daemon=True)
    renewer.start()
    try:
        yield lock
    finally:
        lock._release()


def _lock_path(lake: Lake, stage: str) -> Path:
    url = lake.folder("locks", f"{stage}.json")
    if re.match(r"^[a-z][a-z0-9+.-]*://", url) and not url.startswith("file://"):
        raise ConfigError(
            f"the lake {lake.url} is no file system",
            "a path that all writers mount",
            "keep the lake on a shared file system",
        )
    return Path(url.removeprefix("file://"))


def _myself(run: str, token: int) -> dict[str, Any]:
    process = psutil.Process()
    return {
        "token": token,
        "run": run,
        "host": socket.gethostname(),
        "pid": process.pid,
        "pid_started_at": process.create_time(),
        "renewed_at": time.time(),
        "released": False,
    }


def _is_live(holder: dict[str, Any]) -> bool:
    if holder["released"]:
        return False
    if holder["host"] == socket.gethostname():
        try:
            return bool(psutil.Process(holder["pid"]).create_time() == holder["pid_started_at"])
        except psutil.NoSuchProcess:
            return False
    return bool(time.time() - holder["renewed_at"] < LEASE_S)


def _name(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "nobody (the lock file is gone)"
    return f"run {holder['run']} (host {holder['host']}, pid {holder['pid']})"


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Keeps the look at the holder and the write that follows in one piece."""
    with path.with_suffix(".guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _write(path: Path, holder: dict[str, Any]) -> None:
    staged = path.with_suffix(f".{os.getpid()}.tmp")
    staged.write_text(json.dumps(holder), encoding="utf-8")
    staged.replace(path)
