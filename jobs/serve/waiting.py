"""Requests that wait for their scores: taken together by size, shed when too many wait.

Requests come and are answered in an event loop. A thread beside it takes up what waits as soon as
it is free, without asking the loop, so that a loop that is busy never keeps it idle.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from queue import SimpleQueue
from threading import Thread

import pyarrow as pa

from jobs.serve.accounts import Accounts
from jobs.serve.champion import Answers, Champion
from jobs.serve.request.encoded import EncodedRows
from jobs.serve.request.errors import Failed, Late, RequestError, Shed
from jobs.serve.request.rows import RawRows

log = logging.getLogger("millstream.serve")

Rows = RawRows | EncodedRows
_FAILED = "the request could not be answered"
_Outcome = Answers | RequestError


@dataclass
class _Waiting:
    """A request's rows.

    Attributes:
        champion: by which they were checked, and are answered.
        until: by `time.monotonic`; later nobody waits for the answer.
        answer: to be set, by its event loop.
    """

    champion: Champion
    rows: Rows
    until: float
    answer: asyncio.Future[Answers]
    since: float = field(default_factory=time.monotonic)


class WaitingRows:
    """The queue before the champion.

    Args:
        batch_rows, batch_delay_s: a batch is computed when it has so many rows, or its first row
            has waited so long, and the thread is free.
        queue_rows: rows that may wait.
    """

    def __init__(
        self,
        accounts: Accounts,
        batch_rows: int,
        batch_delay_s: float,
        queue_rows: int,
    ) -> None:
        self._accounts = accounts
        self._batch_rows, self._delay_s, self._queue_rows = batch_rows, batch_delay_s, queue_rows
        # None ends the thread. What it has seen but not taken up stays in its own queue.
        self._came: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._waiting: deque[_Waiting] = deque()
        # Each has one writer, the event loop or the thread, so that neither needs a lock.
        self._rows_come = self._rows_gone = 0
        self._since: float | None = None
        self._thread = Thread(target=self._run, name="scores", daemon=True)

    def start(self) -> None:
        """Before the first answer; `close` ends it."""
        self._thread.start()

    async def answers(self, champion: Champion, rows: Rows, timeout_s: float) -> Answers:
        """
        Raises:
            Shed, Late, Failed: there are none.
        """
        waiting = self._rows_come - self._rows_gone
        if waiting + len(rows) > self._queue_rows:
            raise Shed("too many rows wait here; try again later")
        loop = asyncio.get_running_loop()
        one = _Waiting(champion, rows, time.monotonic() + timeout_s, loop.create_future())
        self._rows_come += len(rows)
        self._accounts.queue(waiting + len(rows))
        self._came.put(one)
        late = loop.call_later(timeout_s, _refused, [one], Late("no answer before the deadline"))
        try:
            return await one.answer
        finally:
            late.cancel()

    @property
    def alive_at(self) -> float:
        """The last moment, by `time.monotonic`, when the thread is known not to hang: when it took
        up the batch that it computes now, and now where it computes none."""
        since = self._since
        return time.monotonic() if since is None else since

    def close(self) -> None:
        """Ends the thread after what it computes; nothing that waits is answered."""
        self._came.put(None)

    # In the thread

    def _run(self) -> None:
        while (batch := self._batch()) is not None:
            if batch:
                self._since = started = time.monotonic()
                self._tell(batch, self._outcomes(batch), started)
                self._since = None

    def _batch(self) -> list[_Waiting] | None:
        """The next requests of one signature, in their order; late ones are left out. Waits for
        one; None at the end."""
        if not self._waiting:
            if (first := self._came.get()) is None:
                return None
            self._waiting.append(first)
            if self._delay_s and self._rows_come - self._rows_gone < self._batch_rows:
                time.sleep(self._delay_s)
        for _ in range(self._came.qsize()):
            if (one := self._came.get()) is None:
                return None
            self._waiting.append(one)
        return self._taken()

    def _taken(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows, of_batch = 0, None
        now = time.monotonic()
        while self._waiting:
            one = self._waiting[0]
            gone = one.answer.done() or one.until <= now
            signature = None if gone else self._signature(one)
            many = rows + len(one.rows) > self._batch_rows
            if signature is not None and batch and (signature != of_batch or many):
                break
            self._waiting.popleft()
            self._rows_gone += len(one.rows)
            if signature is not None:
                of_batch = signature
                batch.append(one)
                rows += len(one.rows)
        return batch

    def _signature(self, one: _Waiting) -> object | None:
        """None of a request that cannot be taken up, which has failed then."""
        try:
            return id(one.champion), one.rows.signature
        except Exception:
            log.exception("a request could not be taken up")
            self._tell([one], [Failed(_FAILED)], time.monotonic())
            return None

    def _outcomes(self, batch: list[_Waiting]) -> list[_Outcome]:
        """What became of each request."""
        try:
            found = batch[0].champion.answers(_together([one.rows for one in batch]))
            ends = accumulate(len(one.rows) for one in batch)
            return [found[end - len(one.rows) : end] for one, end in zip(batch, ends, strict=True)]
        except Exception:
            if len(batch) == 1:
                log.exception("a request failed")
                return [Failed(_FAILED)]
        # One of them may be to blame: each by itself.
        return [outcome for one in batch for outcome in self._outcomes([one])]

    def _tell(self, batch: list[_Waiting], outcomes: list[_Outcome], since: float) -> None:
        """All by one call, as each wakes the event loop."""
        loop = batch[0].answer.get_loop()
        with suppress(RuntimeError):  # A loop that was closed has nobody who waits.
            loop.call_soon_threadsafe(self._told, batch, outcomes, since)

    def _told(self, batch: list[_Waiting], outcomes: list[_Outcome], taken_up: float) -> None:
        """In the event loop."""
        rows = sum(len(one.rows) for one in batch)
        self._accounts.batch(rows, [taken_up - one.since for one in batch])
        self._accounts.queue(self._rows_come - self._rows_gone)
        for one, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, RequestError):
                _refused([one], outcome)
            elif not one.answer.done():
                one.answer.set_result(outcome)


def _refused(batch: list[_Waiting], error: RequestError) -> None:
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)


def _together(parts: list[Rows]) -> Rows:
    """Rows of several requests of one signature, one after the other."""
    if len(parts) == 1:
        return parts[0]
    raw = [part.table for part in parts if isinstance(part, RawRows)]
    if raw:
        return RawRows(pa.concat_tables(raw).combine_chunks())
    return EncodedRows.together([part for part in parts if isinstance(part, EncodedRows)])
