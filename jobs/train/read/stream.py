"""The stream: a selection of examples as batches, in one order for any number of ranks.

    stream = Stream(examples, FLIGHTS, split="train", batch_rows=8192, rank=r, size=n)
    for batch in stream.epoch(3):
        ...

`plan.py` says which row comes when, `reader.py` has row groups decoded and `assemble.py` makes
batches; here they are put together, and run ahead of training in a thread of their own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import torch

from jobs.base.errors import DataRefused
from jobs.batch.batch import Batch
from jobs.batch.layout import Layout
from jobs.lake.choice import Choice, Where
from jobs.lake.examples import Examples
from jobs.settings.train import StreamSettings
from jobs.train.order.fingerprint import fingerprint_of
from jobs.train.order.plan import EpochPlan, window_bound
from jobs.train.order.share import RankShare
from jobs.train.read.assemble import Assembler, batches_a_block
from jobs.train.read.folder import Folder
from jobs.train.read.memory import BLOCKS, MemoryBudget, RowMemory
from jobs.train.read.priority import yield_to_training
from jobs.train.read.reader import Reader, Stopped
from jobs.train.read.row_groups import RowGroups
from schemas.dataset import Dataset

_POLL_S = 0.2


class Stream:
    """A selection of examples, in an order that rank count, threads and memory do not change.

    Args:
        examples: a version of the examples, or a folder of others' Parquet files.
        dataset: their declaration.
        split: of the rows; all when None.
        batch_rows: global batch, all ranks together; a multiple of `streams`.
        seed, streams, window_rows: define the order, with the epoch.
        rank, size: which of how many ranks this is.
        gradient_slices: slices of a batch that ranks share; 1 where they share streams.
        columns: fields that become inputs; all when None.
        first_ds, last_ds: dates, inclusive; open when None.
        where: partition column -> the values taken, as {"ds": ["2026-01-01", "2026-01-03"]}.
        memory_mb: decoded rows that this rank may hold.
        decode_threads: Petastorm's pool.
        timeout_s: longest reading of one row group.
        memory: where rows are held; streams that take turns may share one. Its own when None.
        held_batches: that whoever trains holds beside the one that it got last.
        must_fit: a budget below what the order needs is refused. Otherwise the stream does with
            less beside it, or takes what it needs.

    Attributes:
        note: what it does differently to keep the budget, in a line; "" where nothing.

    Raises:
        ConfigError: more ranks than streams or slices, a batch that they cannot share, a budget
            below what the order needs, or a choice by what is no partition column.
        DataRefused: the examples have another declaration.
    """

    def __init__(
        self,
        examples: Examples | Folder,
        dataset: Dataset,
        *,
        split: str | None,
        batch_rows: int,
        seed: int = 7,
        rank: int = 0,
        size: int = 1,
        gradient_slices: int = 1,
        columns: Sequence[str] | None = None,
        streams: int = 64,
        window_rows: int = 65_536,
        first_ds: str | None = None,
        last_ds: str | None = None,
        where: Where | None = None,
        memory_mb: int = 2_048,
        decode_threads: int = 2,
        timeout_s: float = 300.0,
        memory: RowMemory | None = None,
        held_batches: int = 0,
        must_fit: bool = True,
    ) -> None:
        _check_declaration(examples, dataset)
        self._seed, self._streams, self._window_rows = seed, streams, window_rows
        self._timeout_s, self.note = timeout_s, ""
        self._layout = Layout(dataset, columns)
        shards = examples.shards(split, first_ds, last_ds, where)
        self._groups = RowGroups(
            examples.url, shards, examples.columns if isinstance(examples, Folder) else None
        )
        rows = int(self._groups.group_rows.sum())
        self._share = RankShare(rows, streams, batch_rows, rank, size, gradient_slices)
        self._memory = memory or RowMemory()
        self._budget = self._planned_budget(memory_mb, decode_threads, held_batches, must_fit)
        self.fingerprint: dict[str, Any] = fingerprint_of(
            shards,
            dataset,
            columns=self._layout.columns,
            choice=Choice.of(split, first_ds, last_ds, where),
            seed=seed,
            streams=streams,
            window_rows=window_rows,
        )

    @classmethod
    def from_settings(
        cls,
        examples: Examples | Folder,
        dataset: Dataset,
        settings: StreamSettings,
        **more: Any,
    ) -> Stream:
        """The stream that the section `stream` of the settings asks for.

        Args:
            more: what the section does not say.
        """
        return cls(examples, dataset, **settings.model_dump(), **more)

    @property
    def rows(self) -> int:
        """Rows of the selection."""
        return self._share.rows

    def steps(self, start_row: int = 0) -> int:
        """Batches from row `start_row` to the end of an epoch; the same for all ranks."""
        return self._share.steps(start_row)

    def epoch(self, epoch: int, start_row: int = 0) -> Iterator[Batch]:
        """This rank's pieces of the global batches, in order.

        Args:
            epoch: 0, 1, ...; each has an order of its own.
            start_row: rows of the epoch already consumed, all ranks together.

        Raises:
            DataRefused: a row group cannot be read; names shard, row group and cause.
            StoreTimeout: a row group takes longer than `timeout_s`.
        """
        if not 0 <= start_row <= self.rows:
            raise ValueError(f"start_row is {start_row}; the epoch has {self.rows} rows")
        if not self.steps(start_row):
            return
        kept = self._memory.kept
        reader = Reader(self._groups, self._layout, self._budget, self._timeout_s, kept)
        blocks = self._blocks(reader, epoch, start_row)
        try:
            yield from _ahead(blocks, reader.check_deadline)
        finally:
            reader.stop()

    def _blocks(
        self, reader: Reader, epoch: int, start_row: int
    ) -> Generator[Future[list[Batch]], None, None]:
        plan = EpochPlan(
            self._groups.group_rows,
            streams=self._streams,
            window_rows=self._window_rows,
            seed=self._seed,
            epoch=epoch,
        )
        buffer = self._budget.window_buffer(self._layout.words, self._memory)
        threads = self._budget.threads
        assembler = Assembler(plan, self._share, reader, self._layout, buffer, start_row, threads)
        try:
            yield from assembler.blocks(pinned=torch.cuda.is_available())
            # An epoch that is left early keeps it, since its threads may still write there.
            buffer.give_back()
        except Stopped:
            return
        finally:
            reader.close()
            assembler.close()

    def _planned_budget(
        self, memory_mb: int, threads: int, held_batches: int, must_fit: bool
    ) -> MemoryBudget:
        share, row_bytes = self._share, self._layout.row_bytes
        rows_a_step = share.piece_rows * len(share.owned)
        budget = MemoryBudget(
            total=memory_mb << 20,
            row_bytes=row_bytes,
            window_rows=window_bound(self._groups.group_rows, self._streams, self._window_rows),
            streams=len(share.owned),
            block_rows=rows_a_step * batches_a_block(share, row_bytes),
            threads=threads,
            held_rows=held_batches * rows_a_step,
        )
        if self._memory.kept is not None:
            # What the order needs comes first.
            smaller = replace(budget, total=budget.total - self._memory.kept.limit_bytes)
            self._memory.kept = self._memory.kept if smaller.fits else None
            budget = smaller if smaller.fits else budget
        if must_fit:
            budget.refuse_excess()
        if budget.fits:
            return budget
        small = budget.shrunk(rows_a_step)
        self.note = (
            f"{len(share.owned)} streams are read batch by batch, stream.decode_threads at "
            f"{small.threads}, in {-(-small.total >> 20):,} MiB; stream.memory_mb is {memory_mb:,}"
        )
        return small


def _check_declaration(examples: Examples | Folder, dataset: Dataset) -> None:
    stored = examples.info.get("declaration") if isinstance(examples, Examples) else None
    if stored is not None and stored != dataset.digest:
        raise DataRefused(
            f"examples {examples.url} have declaration {stored}",
            f"{dataset.digest}, that of {dataset.name!r} now",
            "use the declaration that they were made with, or another lake folder",
        )


def _ahead(
    blocks: Generator[Future[list[Batch]], None, None], check_deadline: Callable[[], None]
) -> Iterator[Batch]:
    """Makes blocks in a thread, a few ahead of the one that is consumed.

    A failure there is raised here. The thread ends with the iterator, at the latest when the row
    groups being read are done.
    """
    # All but the one that is being made, the one that is trained on and the one before it; None
    # ends the epoch.
    ready: queue.Queue[Future[list[Batch]] | Exception | None] = queue.Queue(BLOCKS - 3)
    closed = threading.Event()

    def produce() -> None:
        try:
            yield_to_training()
            for block in blocks:
                if not _put(ready, block, closed):
                    return
            _put(ready, None, closed)
        except Exception as error:
            _put(ready, error, closed)
        finally:
            blocks.close()

    threading.Thread(target=produce, name="millstream-prefetch", daemon=True).start()
    try:
        while (block := _get(ready, check_deadline)) is not None:
            yield from block
    finally:
        closed.set()


def _put(
    ready: queue.Queue[Future[list[Batch]] | Exception | None],
    item: Future[list[Batch]] | Exception | None,
    closed: threading.Event,
) -> bool:
    """Whether the item was taken; False when nobody consumes any more."""
    while not closed.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _get(
    ready: queue.Queue[Future[list[Batch]] | Exception | None], check_deadline: Callable[[], None]
) -> list[Batch] | None:
    while True:
        try:
            item = ready.get(timeout=_POLL_S)
        except queue.Empty:
            check_deadline()
            continue
        if isinstance(item, Exception):
            raise item
        return None if item is None else item.result()
