"""Where a rank's training starts: at its last commit, at a checkpoint, or at the beginning."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from jobs.models.build import Model
from jobs.models.mapped import mappable_tables
from jobs.models.ties import state_of
from jobs.stores.errors import persistently
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.best import has_best, save_best
from jobs.train.keep.checkpoint import listed, load, of_moment, verified
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run
from jobs.train.keep.snapshot import Snapshot, restore, take
from jobs.train.keep.together import limit_s, together
from jobs.train.keep.writer import Writer
from jobs.train.launch.rank_job import TrainJob
from jobs.train.step.history import Position
from jobs.train.step.loop import Reporter
from jobs.train.step.moments import parameter_names
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step

R = TypeVar("R")


@dataclass(frozen=True)
class _Found:
    """What a rank found in the store.

    Attributes:
        snapshot: of the checkpoint that the job names; None without one, and where the rank has a
            newer snapshot in memory.
        written: URLs of the complete checkpoints, the oldest first; on rank 0 only.
        fallback: see `_fallback`.
    """

    snapshot: Snapshot | None
    written: list[str]
    fallback: int | None


def start_of(job: TrainJob, step: Step, memory: RankMemory, reporter: Reporter) -> Snapshot:
    """Sets model and optimizers to the last snapshot or checkpoint, and returns the snapshot.

    Without either, it is a snapshot of the beginning. Rank 0 has a writer afterwards.

    Raises:
        StoreHangs: the store takes too long.
    """
    writes = step.exchange.rank == 0
    ask = partial(asked_store, job, step.model, step.exchange)
    found = ask(partial(_find, job, memory, writes))
    if writes and memory.writer is None:
        memory.writer = Writer(
            job.folder,
            job.identity,
            job.settings.train,
            reporter.say,
            found.written,
            partial(
                _save_best,
                job,
                parameter_names(step),
                step.model.source,
                [*mappable_tables(step.model), *(of.name for of in step.sharded.tables)],
            ),
            job.check_lock,
        )
    known = memory.last or found.snapshot
    if memory.last is not None and (moment := _agreed(step, found.fallback)) is not None:
        url = of_moment(job.folder, moment)
        known = ask(lambda: load(verified(url))) if moment else None
        reporter.say(
            "the best epoch's model was lost with the rank that was to store it; going on from "
            + (known.position.named() if known else "the beginning")
        )
    if known is not None:
        restore(step, known)
    start = known or take(step, Position(), RowLedger())
    memory.committed(start)
    return start


def asked_store(job: TrainJob, model: Model, exchange: Exchange, act: Callable[[], R]) -> R:
    """What each rank's `act` reads from the store, when all have; see `together`."""
    train, weights = job.settings.train, state_of(model).values()
    return together(
        exchange,
        act,
        stall_s=train.stall_s,
        limit_s=limit_s(train, sum(of.nbytes for of in weights)),
        what=f"the store of {job.folder} is being read",
    )


def _find(job: TrainJob, memory: RankMemory, writes: bool) -> _Found:
    snapshot = load(job.resume) if job.resume and memory.last is None else None
    written: list[str] = []
    if writes and memory.writer is None:
        # Newer checkpoints than the resumed one are damaged. They are not counted as written, and
        # are removed when the next one is complete.
        resumed = job.resume is not None and memory.last is None
        written = (
            [job.resume.url]
            if job.resume and resumed
            else persistently(lambda: listed(job.folder))[::-1]
        )
    return _Found(snapshot, written, _fallback(job, memory) if writes else None)


def _fallback(job: TrainJob, memory: RankMemory) -> int | None:
    """The moment of the checkpoint to go back to from the snapshot in memory; None if it is good.

    It is not when the best epoch's model is neither stored nor waits for that on this rank: rank 0
    was lost meanwhile, and no other keeps those weights. Without a checkpoint it is 0.
    """
    best = memory.last.position.history.best if memory.last else None
    if best is None or (memory.writer and memory.writer.best_epoch == best.epoch):
        return None
    if persistently(lambda: has_best(job.folder, best.epoch)):
        return None
    found = persistently(lambda: newest_of_run(job.folder))
    return found.moment_ns if found else 0


def _agreed(step: Step, fallback: int | None) -> int | None:
    """Rank 0's fallback, on all ranks."""
    told = torch.tensor([0, 0] if fallback is None else [1, fallback])
    (sums,) = step.exchange.start_sums([told]).result()
    is_told, moment = sums.tolist()
    return moment if is_told else None


def _save_best(
    job: TrainJob, names: dict[str, str], source: str, tables: Collection[str], snapshot: Snapshot
) -> None:
    save_best(job.folder, snapshot, names, source, tables, job.spec, job.settings)
