"""What a training keeps in the store is written in one thread beside it, one snapshot at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.base.errors import Locked
from jobs.settings.train import TrainSettings
from jobs.stores.errors import is_of_store
from jobs.train.keep import checkpoint
from jobs.train.keep.chain import prune
from jobs.train.keep.snapshot import Snapshot
from jobs.train.keep.together import StoreHangs, limit_s
from jobs.train.step.history import Position

# Between two attempts to save a model.
_AGAIN_S = 1.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Task:
    """A snapshot to write.

    Attributes:
        is_best: whether its weights are the best epoch's so far.
    """

    snapshot: Snapshot
    is_best: bool


class Writer:
    """Writes checkpoints and the best epochs' models; training does not wait for it.

    A checkpoint names the best epoch before it, so that epoch's model is written first. A
    checkpoint that could not be written is left out. A model is tried again, until there is a
    better one, or it takes too long.

    Args:
        folder: URL of the run's folder.
        identity: of the training, see `Checkpoint`.
        say: takes a line for the log when something could not be written; training goes on.
        written: URLs of the run's complete checkpoints, the oldest first.
        save_best: writes the model of a snapshot that was taken after the best epoch so far.
        check_lock: raises Locked when another run has taken over, which ends training.

    Attributes:
        best_epoch: the best one whose model was taken to be written here; None before.
    """

    def __init__(
        self,
        folder: str,
        identity: Mapping[str, Any],
        settings: TrainSettings,
        say: Callable[[str], None],
        written: list[str],
        save_best: Callable[[Snapshot], None],
        check_lock: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._identity, self._settings, self._say = folder, identity, settings, say
        self._written, self._save_best, self._check_lock = list(written), save_best, check_lock
        self._lock = threading.Lock()
        self._task: Task | None = None
        self._next: Task | None = None
        self._failed: Exception | None = None
        self._since = 0.0
        self._stopped = threading.Event()
        self._idle = threading.Event()
        self.best_epoch: int | None = None

    @property
    def holding(self) -> tuple[Snapshot, ...]:
        """The snapshots that are being written, or wait for that.

        Raises:
            StoreHangs: that takes too long.
            Locked: another run has taken over.
            Exception: the best epoch's model cannot be written.
        """
        with self._lock:
            tasks = [task for task in (self._task, self._next) if task is not None]
            waited_s = time.monotonic() - self._since
        if self._failed is not None:
            raise self._failed
        if tasks and waited_s > self._limit_s(tasks[0]):
            raise self._hangs(tasks[0])
        return tuple(task.snapshot for task in tasks)

    def make_room(self, position: Position) -> None:
        """Called before the snapshot at the beginning of an epoch is offered."""

    def agreed(self, wanted: bool) -> bool:
        """Whether the next snapshot is to be offered, if that is wanted here."""
        return wanted

    def offer(self, snapshot: Snapshot, is_best: bool = False) -> bool:
        """Starts to write a snapshot, unless another one is being written.

        Args:
            is_best: it was taken after the best epoch so far. Then it waits for the other one.

        Returns:
            Whether it is written.

        Raises:
            Exception: see `holding`.
        """
        return self._put(Task(snapshot, is_best))

    def _put(self, task: Task) -> bool:
        # Raises where writing has failed.
        _ = self.holding
        best, is_best = task.snapshot.position.history.best, task.is_best
        if is_best and best is not None:
            self.best_epoch = best.epoch
        with self._lock:
            if self._task is not None:
                # One that waits already is no longer the best.
                self._next = task if is_best else self._next
                return is_best
            self._task, self._since = task, time.monotonic()
            self._idle.clear()
        threading.Thread(
            target=self._run, args=(task,), name="millstream-checkpoint", daemon=True
        ).start()
        return True

    def _run(self, task: Task | None) -> None:
        while task is not None:
            self._write(task)
            with self._lock:
                task = self._task = self._next
                self._next, self._since = None, time.monotonic()
        self._idle.set()

    def _write(self, task: Task) -> None:
        try:
            if task.is_best and not self._saved(task):
                return
        except Exception as error:
            self._failed = error
            return
        try:
            self._check_lock()
            self._store(task)
        except Locked as lost:
            self._failed = lost
        except Exception as error:
            self._say(
                f"checkpoint at {task.snapshot.position.named()} not written: {error}; the one "
                "before stays, training goes on"
            )

    def _store(self, task: Task) -> None:
        """Writes a checkpoint."""
        self._stored(checkpoint.write(self._folder, task.snapshot, self._identity))

    def _stored(self, url: str) -> None:
        """Called with the URL of a complete checkpoint."""
        self._written.append(url)
        self._check_lock()
        try:
            prune(self._folder, self._settings.checkpoint_keep, self._written)
        except Exception as error:
            self._say(f"older checkpoints are not removed: {error}; training goes on")

    def _save(self, task: Task) -> None:
        """Writes the best epoch's model."""
        self._save_best(task.snapshot)

    def _saved(self, task: Task) -> bool:
        """Saves the model of the best epoch; False when there is a better one by now."""
        is_said = False
        while self._next is None and not self._stopped.is_set():
            try:
                self._check_lock()
                self._save(task)
                return True
            except Exception as error:
                if not is_of_store(error):
                    raise
                if time.monotonic() - self._since > self._limit_s(task):
                    raise self._hangs(task) from error
                if not is_said:
                    self._say(f"the best epoch's model is not written yet, trying again: {error}")
                is_said = True
            self._stopped.wait(_AGAIN_S)
        return False

    def _limit_s(self, task: Task) -> float:
        return limit_s(self._settings, task.snapshot.nbytes)

    def _hangs(self, task: Task) -> StoreHangs:
        return StoreHangs(f"a snapshot is being written to {self._folder}", self._limit_s(task))

    def settle(self) -> None:
        """Waits until nothing is being written, so that what is offered next will be."""
        self.close()

    def close(self) -> None:
        """Waits until all is written.

        Raises:
            Exception: see `holding`.
        """
        while self.holding:
            # It may fail, or take too long, meanwhile.
            self._idle.wait(_POLL_S)
