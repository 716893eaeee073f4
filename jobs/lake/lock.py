"""One writer for each (dataset, stage), with a lease and a token.

The lock is a file in the lake that names its holder. A holder that died on this host is taken
over at once (its pid is gone, or belongs to a process that started at another time); one on
another host, or in another container, when its lease ran out, by clocks that agree to some seconds.
Every taking raises the token; a commit carries the token, so a holder that lost its lease cannot
commit over its successor.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import psutil

from jobs.base.bounded import attempt
from jobs.base.errors import Locked
from jobs.lake.lake import Lake
from jobs.stores.files import Guarded, store_at

log = logging.getLogger("millstream.lake")

LEASE_S = 60.0
RENEW_S = 10.0
# Longest wait for a renewal, and for the release, which a silent store would make endless.
RENEWAL_S = 20.0
RELEASE_S = 30.0
# So far the times of a process's start may differ where they are told by the wall clock.
_CLOCK_S = 5.0
_PROC = Path("/proc")


@dataclass(frozen=True)
class Claim:
    """What a run's other processes need to ask whether the run still holds its lock.

    Attributes:
        url: of the lock's file.
        token: of the run.
    """

    url: str
    token: int

    def check(self) -> None:
        """Raises Locked when another run has taken the lock over."""
        now, _ = _read(Guarded(self.url))
        if not _is_of(now, self.token):
            raise Locked(
                f"the lock {self.url} was taken over by {_name(now)}",
                remedy="nothing was committed; run the stage again",
            )


class StageLock:
    """A lock that is held. `token` goes into the commit's app transaction."""

    def __init__(self, file: Guarded, holder: dict[str, Any]) -> None:
        self._file = file
        self._holder = holder
        self._released = threading.Event()
        self.token: int = holder["token"]

    def check(self) -> None:
        """Raises Locked when another run has taken the lock over."""
        self.claim.check()

    @property
    def claim(self) -> Claim:
        """The same question for other processes of the run."""
        return Claim(self._file.url, self.token)

    def _renew_until_released(self) -> None:
        while not self._released.wait(RENEW_S) and self._renewed():
            pass

    def _renewed(self) -> bool:
        """Renews the lease; whether the lock is still ours, as far as the store says."""
        ours = [True]

        def renew() -> None:
            ours[0] = self._write(renewed_at=time.time())

        # A store that fails now, in whatever way, or does not answer, may do so the next time,
        # within the lease.
        if error := attempt(renew, RENEWAL_S):
            log.warning("the lock %s was not renewed, trying again: %r", self._file.url, error)
        return ours[0]

    def _write(self, **changes: Any) -> bool:
        """Whether the lock is still ours."""
        while True:
            now, tag = _read(self._file)
            if not _is_of(now, self.token):
                return False
            if _swap(self._file, {**self._holder, **changes}, tag):
                return True

    def _release(self) -> None:
        self._released.set()
        # What was done is done; without a word from us the lease runs out.
        if error := attempt(partial(self._write, released=True), RELEASE_S):
            log.warning("the lock %s was not released: %r", self._file.url, error)


@contextmanager
def stage_lock(lake: Lake, stage: str, run: str) -> Iterator[StageLock]:
    """Holds the lock of a stage while the block runs.

    Raises:
        Locked: a live run holds it; the message names the run, host and pid.
        ConfigError: the lake's store cannot keep a lock, or tables.
    """
    store, path = store_at(lake.url)
    store.check_keeps_tables(path)
    file = Guarded(lake.folder("locks", f"{stage}.json"))
    before, tag = _read(file)
    if before is not None and _is_live(before):
        raise _held(lake, stage, before)
    holder = _myself(run, token=before["token"] + 1 if before else 1)
    if not _swap(file, holder, tag):
        raise _held(lake, stage, _read(file)[0])
    lock = StageLock(file, holder)
    threading.Thread(target=lock._renew_until_released, daemon=True).start()
    try:
        yield lock
    finally:
        lock._release()


def _held(lake: Lake, stage: str, holder: dict[str, Any] | None) -> Locked:
    return Locked(
        f"stage {stage!r} of {lake.url} is held by {_name(holder)}",
        remedy="wait for it to end, or stop it; a dead holder is taken over by itself",
    )


def live_runs(lake: Lake) -> set[str]:
    """The runs that hold a lock of this data set now."""
    fs, folder = fsspec.core.url_to_fs(lake.folder("locks"))
    paths = fs.glob(f"{folder}/*.json") if fs.exists(folder) else []
    holders = (_read(Guarded(fs.unstrip_protocol(path)))[0] for path in paths)
    return {holder["run"] for holder in holders if holder is not None and _is_live(holder)}


def _is_of(holder: dict[str, Any] | None, token: int) -> bool:
    # Once it is released, a renewal under way must not take it back.
    return holder is not None and holder["token"] == token and not holder["released"]


def _myself(run: str, token: int) -> dict[str, Any]:
    return {
        "token": token,
        "run": run,
        **_here(),
        "pid": os.getpid(),
        "pid_started_at": _started_at(os.getpid()),
        "renewed_at": time.time(),
        "released": False,
    }


def _here() -> dict[str, str]:
    """Where a pid means a process. Hosts may have one name, and containers of a host its name."""
    here = {"host": socket.gethostname()}
    if _PROC.is_dir():
        here["boot"] = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        here["pid_namespace"] = str((_PROC / "self/ns/pid").readlink())
    return here


def _started_at(pid: int) -> float:
    """When a process started, in ticks since the boot: no change of the clock moves them. Where
    there is no /proc in seconds since 1970. Infinity of one that is gone.

    Raises:
        PermissionError: another user's, which may not be seen.
    """
    if not _PROC.is_dir():
        try:
            return float(psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return math.inf
    try:
        state, *fields = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if psutil.pid_exists(pid):
            raise PermissionError(f"process {pid} is hidden") from None
        return math.inf
    # A zombie has ended; its parent may never ask how.
    return math.inf if state in "ZX" else float(fields[18])


def _is_live(holder: dict[str, Any]) -> bool:
    if holder["released"]:
        return False
    here = _here()
    if {name: holder.get(name) for name in here} == here:
        most = 0.0 if "boot" in here else _CLOCK_S
        with suppress(PermissionError):
            return bool(abs(_started_at(holder["pid"]) - holder["pid_started_at"]) <= most)
    return bool(time.time() - holder["renewed_at"] < LEASE_S)


def _name(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "nobody (the lock file is gone)"
    return f"run {holder['run']} (host {holder['host']}, pid {holder['pid']})"


def _read(file: Guarded) -> tuple[dict[str, Any] | None, str]:
    content, tag = file.read()
    return (None if content is None else dict(json.loads(content))), tag


def _swap(file: Guarded, holder: dict[str, Any], tag: str) -> bool:
    return file.swap(json.dumps(holder).encode(), tag)
