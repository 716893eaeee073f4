"""Faults of a training's ranks, for `bench_recovery`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from torch import Tensor

from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.pending import Finished, Pending
from jobs.train.keep import table_parts

# The rank ends itself there, when it is told to.
COMMIT, HALF_COMMIT, CHECKPOINT = "commit", "half-commit", "checkpoint"
_INSIDE = (COMMIT, HALF_COMMIT, CHECKPOINT)
_TOLD = "strike"


class Saboteur(threading.Thread):
    """Waits for a row of the training, strikes, and watches for what the ranks say of it."""

    def __init__(self, folder: Path, fault: str, rank: int, row: int) -> None:
        super().__init__(daemon=True)
        self._folder, self._fault, self._rank, self._row = folder, fault, rank, row
        self.struck: float | None = None
        self.went_on: list[float] = []

    def run(self) -> None:
        while self._rows() < self._row:
            time.sleep(0.05)
        if self._fault in _INSIDE:
            self._tell()
        self.struck = time.monotonic()
        self._strike()
        while len(self.went_on) < 2:
            if len(self._recoveries()) > len(self.went_on):
                self.went_on.append(time.monotonic() - self.struck)
                if self._fault == "two" and len(self.went_on) == 1:
                    # Of those that are left, before another takes the place of the first.
                    _kill(self._pid(1))
            time.sleep(0.05)

    def _tell(self) -> None:
        """Tells the rank to end itself, and waits until it does."""
        told = self._folder / _TOLD
        told.write_text(f"{self._fault} {self._rank}")
        while told.exists():
            time.sleep(0.02)

    def _strike(self) -> None:
        if self._fault == "neighbours":
            for pid in [self._pid(self._rank), self._pid(self._rank + 1)]:
                _kill(pid)
        elif self._fault not in _INSIDE:
            strike = {"freeze": _freeze, "executor": _kill_executor}.get(self._fault, _kill)
            strike(self._pid(self._rank))

    def _pid(self, rank: int) -> int:
        return int((self._folder / f"rank-{rank}.pid").read_text())

    def _note(self) -> dict[str, Any]:
        try:
            note: dict[str, Any] = json.loads((self._folder / "progress.json").read_text())
        except (OSError, ValueError):
            return {}
        return note

    def _rows(self) -> int:
        """Rows trained, all epochs together."""
        note = self._note()
        title = str(note.get("title", "epoch 0 of")).split()
        return (int(title[1]) - 1) * int(note.get("total_rows", 0)) + int(note.get("rows", 0))

    def _recoveries(self) -> list[str]:
        lines = self._note().get("lines", [])
        return [line for line in lines if line.startswith("lost ") or " now, after " in line]


def ready_to_strike(folder: Path, exchange: Exchange) -> None:
    """Lets a rank with sharded tables end itself by SIGKILL when a saboteur tells it to.

    In a commit that is before its rows are sent, in half of one after all ranks have them, and in a
    checkpoint when its files are written, but not that they are.
    """

    def strike(fault: str) -> None:
        told = folder / _TOLD
        if told.exists() and told.read_text() == f"{fault} {exchange.rank}":
            told.unlink()
            _kill(os.getpid())

    start, note = exchange.start_alltoall, table_parts.write_json

    def sent(name: str, pieces: Sequence[Tensor]) -> Pending[list[Tensor]]:
        if name != "rows to keep":
            return start(name, pieces)
        strike(COMMIT)
        received = start(name, pieces).result()
        strike(HALF_COMMIT)
        return Finished(received)

    def noted(url: str, tree: Any) -> None:
        strike(CHECKPOINT)
        note(url, tree)

    exchange.start_alltoall = sent  # type: ignore[method-assign]
    table_parts.write_json = noted  # type: ignore[attr-defined]


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def _kill_executor(pid: int) -> None:
    """The JVM that the rank's task runs in."""
    for parent in psutil.Process(pid).parents():
        if "CoarseGrainedExecutorBackend" in " ".join(parent.cmdline()):
            parent.kill()
            return
    raise RuntimeError(f"process {pid} belongs to no executor of a local cluster")
