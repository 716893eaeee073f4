"""Where a rank's training starts: at its last commit, at a checkpoint, or at the beginning."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from jobs.models.mapped import mappable_tables
from jobs.models.tables.pieces import StoredTable
from jobs.models.ties import state_of
from jobs.stores.errors import persistently
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.best import has_best, save_best
from jobs.train.keep.chain import chain_of, read_pieces, verified_chain
from jobs.train.keep.checkpoint import Checkpoint, listed, load, of_moment
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run
from jobs.train.keep.snapshot import Snapshot, buckets_of, kept_now, live_rows, restore, take
from jobs.train.keep.table_writer import TablesWriter
from jobs.train.keep.together import limit_s, together
from jobs.train.keep.writer import Writer
from jobs.train.launch.rank_job import TrainJob
from jobs.train.step.history import Position
from jobs.train.step.loop import Reporter
from jobs.train.step.moments import parameter_names
from jobs.train.step.rowledger import RowCount, RowLedger
from jobs.train.step.step import Step
from jobs.train.tables.copies import Holder, Pieces, told
from jobs.train.tables.room import Room
from jobs.train.warm.weights import warm, warm_moments

R = TypeVar("R")


@dataclass(frozen=True)
class _Known:
    """What training goes on from.

    Attributes:
        snapshot: of the dense weights and all else.
        pieces: this rank's of sharded tables, the rows in the step already; None without any.
    """

    snapshot: Snapshot
    pieces: Pieces | None


@dataclass(frozen=True)
class _Found:
    """What a rank found in the store.

    Attributes:
        known: the checkpoint that the job names; None without one, and where the rank has a newer
            snapshot in memory.
        written: URLs of the complete checkpoints, the oldest first; on rank 0 only.
        fallback: see `_fallback`.
    """

    known: _Known | None
    written: list[str]
    fallback: int | None


def start_of(job: TrainJob, step: Step, memory: RankMemory, reporter: Reporter) -> Position:
    """Sets model and optimizers to the last snapshot or checkpoint, and returns the position.

    Without either, that is the beginning, of which a snapshot is taken. Rank 0 has a writer
    afterwards; where tables are sharded, all ranks have.

    Raises:
        StoreHangs: the store takes too long.
    """
    exchange = step.exchange
    ask = partial(_asked_store, job, step)
    holders = _holders(job, step, memory)
    found = ask(partial(_find, job, step, memory, is_lost=holders == []))
    if memory.writer is None:
        memory.writer = _writer(job, step, reporter, found.written)
    known = found.known
    if memory.last is not None:
        moment = _agreed(exchange, found.fallback)
        if moment is None:
            known = _from_memory(step, memory.last, holders)
        else:
            url = of_moment(job.folder, moment)
            known = ask(lambda: _loaded(verified_chain(url), step)) if moment else None
            position = known.snapshot.position if known else Position()
            memory.goes_back(position, RowCount.of_shards(job.train_shards).rows)
            reporter.say(_said_lost(position, known is None, holders == []))
    if known is None:
        _set_beginning(job, step, reporter)
    _begin(step, memory, known, Room.of(job.settings.train))
    assert memory.last is not None
    return memory.last.position


def _holders(job: TrainJob, step: Step, memory: RankMemory) -> list[Holder] | None:
    """The ranks that have the pieces of sharded tables as of the last commit.

    Ends what is being written of them: where no rank was lost it is completed.

    Returns:
        For each rank of before; none where some are lost; None without sharded tables or a commit.
    """
    kept = memory.last.tables if memory.last else None
    if kept is None:
        return None
    holders = kept.holders(step.exchange)
    writer = memory.writer
    if isinstance(writer, TablesWriter):
        is_whole = holders is not None and all(holder.is_own for holder in holders)
        act = writer.close if is_whole else writer.abandon
    else:
        act = _nothing
    together(
        step.exchange,
        act,
        stall_s=job.settings.train.stall_s,
        # The writer has its own, which follows what it writes.
        limit_s=math.inf,
        what="what was being written is ended",
    )
    memory.writer = None
    return holders or []


def _nothing() -> None:
    pass


def _from_memory(step: Step, last: Snapshot, holders: list[Holder] | None) -> _Known:
    if last.tables is None or holders is None:
        return _Known(last, None)
    pieces = last.tables.regrouped(step.exchange, buckets_of(step), holders, live_rows(step))
    return _Known(last, pieces)


def _set_beginning(job: TrainJob, step: Step, reporter: Reporter) -> None:
    """Sets the step to what training begins with: the warm start's weights, or fresh rows."""
    source, train, sharded = job.warm_start, job.settings.train, step.sharded.tables
    if source is None:
        for table in sharded:
            table.fill(train.seed)
        return
    ask = partial(_asked_store, job, step)
    origins = ask(partial(warm, step.model, job.spec, source, sharded))
    reporter.say(ask(partial(warm_moments, step, source, origins, train.optimizer)))


def _begin(step: Step, memory: RankMemory, known: _Known | None, room: Room) -> None:
    """Sets the step to what is known, and makes it this rank's last commit, in a room."""
    before = memory.last.tables if memory.last else None
    if known is None:
        snapshot = take(step, Position(), RowLedger(), room=room)
    else:
        restore(step, known.snapshot, known.pieces)
        snapshot = replace(known.snapshot, tables=kept_now(step, room))
    kept = snapshot.tables
    if kept is not None and before is not None:
        kept.number, kept.before = before.number + 1, before
    memory.committed(snapshot)
    if kept is not None:
        # Whoever is here has copied all: nobody goes back to what was kept before.
        told(step.exchange, [0])
        kept.before = None


def _writer(job: TrainJob, step: Step, reporter: Reporter, written: list[str]) -> Writer | None:
    tables = [*mappable_tables(step.model), *(of.name for of in step.sharded.tables)]
    save = partial(_save_best, job, parameter_names(step), step.model.source, tables)
    settings = job.settings.train
    given = job.folder, job.identity, settings, reporter.say, written, save, job.check_lock
    if step.sharded.tables:
        return TablesWriter(*given, step.exchange, buckets_of(step))
    return Writer(*given) if step.exchange.rank == 0 else None


def _asked_store(job: TrainJob, step: Step, act: Callable[[], R]) -> R:
    """What each rank's `act` reads from the store, when all have; see `together`."""
    train, tables = job.settings.train, step.sharded.tables
    size = sum(of.nbytes for of in state_of(step.model).values())
    size += sum(of.buckets.rows * of.dim * of.piece.itemsize for of in tables)
    return together(
        step.exchange,
        act,
        stall_s=train.stall_s,
        limit_s=limit_s(train, size),
        what=f"the store of {job.folder} is being read",
    )


def _find(job: TrainJob, step: Step, memory: RankMemory, is_lost: bool) -> _Found:
    resumed = job.resume if memory.last is None else None
    known = _loaded(resumed, step) if resumed else None
    written: list[str] = []
    if step.exchange.rank > 0:
        return _Found(known, written, None)
    if memory.writer is None:
        # Newer checkpoints than the resumed one are damaged. They are not counted as written, and
        # are removed when the next one is complete.
        written = [resumed.url] if resumed else persistently(lambda: listed(job.folder))[::-1]
    return _Found(known, written, _fallback(job, memory, is_lost))


def _loaded(checkpoint: Checkpoint, step: Step) -> _Known:
    pieces = None
    if step.sharded.tables:
        place = step.exchange.rank, step.exchange.size
        pieces = read_pieces(chain_of(checkpoint), *place, live_rows(step))
    return _Known(load(checkpoint), pieces)


def _fallback(job: TrainJob, memory: RankMemory, is_lost: bool) -> int | None:
    """The moment of the checkpoint to go back to from the snapshot in memory; None if it is good.

    It is not when rows of tables are lost, or when the best epoch's model is neither stored nor
    waits for that on this rank: rank 0 was lost meanwhile, and no other keeps those weights.
    Without a checkpoint it is 0.
    """
    best = memory.last.position.history.best if memory.last else None
    if not is_lost:
        if best is None or (memory.writer and memory.writer.best_epoch == best.epoch):
            return None
        if persistently(lambda: has_best(job.folder, best.epoch)):
            return None
    found = persistently(lambda: newest_of_run(job.folder))
    return found.moment_ns if found else 0


def _said_lost(position: Position, is_beginning: bool, is_lost: bool) -> str:
    what = (
        "a rank and the next one, which had the copies of its tables, were lost together"
        if is_lost
        else "the best epoch's model was lost with the rank that was to store it"
    )
    return f"{what}; going on from {'the beginning' if is_beginning else position.named()}"


def _agreed(exchange: Exchange, fallback: int | None) -> int | None:
    """Rank 0's fallback, on all ranks."""
    is_told, moment = told(exchange, [0, 0] if fallback is None else [1, fallback])[0]
    return moment if is_told else None


def _save_best(
    job: TrainJob,
    names: dict[str, str],
    source: str,
    tables: Collection[str],
    snapshot: Snapshot,
    stored: Sequence[StoredTable] = (),
) -> None:
    save_best(job.folder, snapshot, names, source, tables, job.spec, job.settings, stored)
