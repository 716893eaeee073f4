"""Checkpoints and models with sharded tables: every rank writes its own pieces beside its steps.

All ranks agree at a commit that it is written. Each writes its part; rank 0 waits for those of all,
and then makes the checkpoint or the model complete.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec

from jobs.models.tables.buckets import Buckets
from jobs.models.tables.pieces import MOMENT_TABLES, ROWS, StoredTable, joined
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep import checkpoint
from jobs.train.keep.best import best_folder
from jobs.train.keep.seal import TablesSeal
from jobs.train.keep.snapshot import Snapshot
from jobs.train.keep.table_parts import (
    TablePiece,
    await_parts,
    remove_parts,
    stored_tables_of,
    write_part,
)
from jobs.train.keep.together import together
from jobs.train.keep.writer import Task, Writer
from jobs.train.step.history import Position
from jobs.train.tables.copies import told
from jobs.train.tables.kept import KeptTables


@dataclass(frozen=True)
class Plan:
    """What all ranks agreed to write.

    Attributes:
        moment_ns: by which they name it.
        depth: number of checkpoints that this one follows; 0 where it has all rows.
    """

    moment_ns: int
    depth: int


@dataclass(frozen=True)
class TablesTask(Task):
    """A snapshot with this rank's pieces of sharded tables.

    Attributes:
        kept: held until they are written.
        pieces: for the checkpoint.
    """

    plan: Plan
    kept: KeptTables
    pieces: Sequence[TablePiece]


class TablesWriter(Writer):
    """Writes a rank's part of checkpoints and models; on rank 0 all else of them, too.

    A checkpoint has all rows, or those that changed since the one before: each
    `train.checkpoint_whole_every`-th one has all, and so has the first of this writer and one after
    another that could not be written.

    Args:
        exchange: between the ranks, which each have such a writer.
        buckets: of each table.
        save_model: completes the best epoch's model, whose tables are stored, on rank 0.
        others: see `Writer`.
    """

    def __init__(
        self,
        folder: str,
        identity: Mapping[str, Any],
        settings: TrainSettings,
        say: Callable[[str], None],
        written: list[str],
        save_model: Callable[[Snapshot, Sequence[StoredTable]], None],
        check_lock: Callable[[], None],
        exchange: Exchange,
        buckets: Mapping[str, Buckets],
    ) -> None:
        super().__init__(folder, identity, settings, say, written, lambda _: None, check_lock)
        self._save_model, self._exchange, self._buckets = save_model, exchange, buckets
        self._plan: Plan | None = None
        # The last checkpoint, if it was complete.
        self._newest: TablesSeal | None = None
        self._parts_limit_s = math.inf

    def make_room(self, position: Position) -> None:
        """Waits until no rank writes any more, and removes what an attempt left of the model."""
        self._together(partial(self._cleared, position))

    def _cleared(self, position: Position) -> None:
        self.close()
        best = position.history.best
        if self._exchange.rank == 0 and best is not None and best.epoch == position.epoch - 1:
            fs, path = fsspec.core.url_to_fs(best_folder(self._folder, best.epoch))
            if fs.exists(path):
                fs.rm(path, recursive=True)

    def settle(self) -> None:
        self._together(self.close)

    def _together(self, act: Callable[[], None]) -> None:
        together(
            self._exchange,
            act,
            stall_s=self._settings.stall_s,
            # The writer has its own, which follows what it writes.
            limit_s=math.inf,
            what=f"a snapshot is being written to {self._folder}",
        )

    def agreed(self, wanted: bool) -> bool:
        """Whether rank 0 wants the next snapshot written, and can; all ranks must call this."""
        moment_ns = time.time_ns() if wanted and not self.holding else 0
        moment_ns, depth = told(self._exchange, [moment_ns, self._next_depth()])[0]
        self._plan = Plan(moment_ns, depth) if moment_ns else None
        return self._plan is not None

    def _next_depth(self) -> int:
        depth = self._newest.depth + 1 if self._newest else 0
        return depth if depth < self._settings.checkpoint_whole_every else 0

    def offer(self, snapshot: Snapshot, is_best: bool = False) -> bool:
        kept, plan = snapshot.tables, self._plan
        assert kept is not None and plan is not None
        # Afterwards all ranks have this commit, so that the copies can be brought up to it.
        told(self._exchange, [0])
        if self.holding:
            # The store is slow here: rank 0 will miss this part, and the next one has all rows.
            return False
        kept.settle()
        pieces = self._pieces(kept, plan.depth)
        kept.held = is_best or plan.depth == 0
        return self._put(TablesTask(snapshot, is_best, plan, kept, pieces))

    def _pieces(self, kept: KeptTables, depth: int) -> list[TablePiece]:
        places = kept.rank, kept.ranks
        if depth:
            return [
                TablePiece(name, self._buckets[name], *places, rows.tensors, rows.places)
                for name, rows in sorted(kept.unwritten().items())
            ]
        kept.forget_unwritten()
        return [
            TablePiece(name, self._buckets[name], *places, dict(tensors))
            for name, tensors in sorted(kept.own.items())
        ]

    def _write(self, task: Task) -> None:
        assert isinstance(task, TablesTask)
        self._parts_limit_s = self._limit_s(task)
        try:
            super()._write(task)
        finally:
            task.kept.held = False

    def _store(self, task: Task) -> None:
        assert isinstance(task, TablesTask)
        plan, rank = task.plan, self._exchange.rank
        if rank > 0:
            place = checkpoint.staged_at(self._folder, plan.moment_ns)
            write_part(place, plan.moment_ns, rank, task.pieces)
            return
        before, self._newest = self._newest, None
        after = checkpoint.of_moment("", before.moment_ns)[1:] if before and plan.depth else None
        sealed: list[TablesSeal] = []

        def write_tables(place: str) -> TablesSeal:
            texts = self._parts_of_all(place, plan, task.pieces)
            digests = tuple(hashlib.sha256(text).hexdigest() for text in texts)
            sealed.append(TablesSeal(after, plan.depth, plan.moment_ns, digests))
            return sealed[0]

        self._stored(
            checkpoint.write(
                self._folder, task.snapshot, self._identity, plan.moment_ns, write_tables
            )
        )
        self._newest = sealed[0]

    def _parts_of_all(self, place: str, plan: Plan, pieces: Sequence[TablePiece]) -> list[bytes]:
        """Writes this rank's part, and returns what all ranks say of theirs."""
        write_part(place, plan.moment_ns, 0, pieces)
        ranks = self._exchange.size
        return await_parts(place, plan.moment_ns, ranks, self._parts_limit_s, self._stopped)

    def _save(self, task: Task) -> None:
        assert isinstance(task, TablesTask)
        best = task.snapshot.position.history.best
        assert best is not None
        folder, kept = best_folder(self._folder, best.epoch), task.kept
        pieces = list(self._model_pieces(kept))
        if kept.rank > 0:
            write_part(folder, task.plan.moment_ns, kept.rank, pieces)
            return
        texts = self._parts_of_all(folder, task.plan, pieces)
        self._save_model(task.snapshot, [joined(parts) for parts in stored_tables_of(texts)])
        remove_parts(folder)

    def _model_pieces(self, kept: KeptTables) -> Iterator[TablePiece]:
        """What a model has of this rank's pieces: rows, and moments if they are kept."""
        for name, tensors in sorted(kept.own.items()):
            moments = {key: of for key, of in tensors.items() if key != ROWS}
            place = name, self._buckets[name], kept.rank, kept.ranks
            yield TablePiece(*place, {ROWS: tensors[ROWS]})
            if moments and self._settings.keeps_moments:
                yield TablePiece(*place, moments, folder=MOMENT_TABLES)

    def abandon(self) -> None:
        """Gives up what lost ranks had parts of, and waits until nothing is being written.

        Raises:
            StoreHangs: that takes too long.
        """
        self._stopped.set()
        while (task := self._task) is not None:
            if time.monotonic() - self._since > self._limit_s(task):
                raise self._hangs(task)
            self._idle.wait(0.1)
