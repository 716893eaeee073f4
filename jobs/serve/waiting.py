"""Requests that wait for their scores: taken together by size, shed when too many wait.

All of this runs in one event loop; the scores are computed in one thread beside it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from jobs.serve.accounts import Accounts
from jobs.serve.champion import Answers, Champion
from jobs.serve.request.encoded import EncodedRows
from jobs.serve.request.errors import Failed, Late, NotReady, RequestError, Shed
from jobs.serve.request.rows import RawRows

log = logging.getLogger("millstream.serve")

Rows = RawRows | EncodedRows


@dataclass
class _Waiting:
    """A request's rows.

    Attributes:
        until: by the event loop's clock; later nobody waits for the answer.
        answer: to be set.
    """

    rows: Rows
    until: float
    answer: asyncio.Future[tuple[Champion, Answers]]
    since: float = field(default_factory=time.monotonic)


class WaitingRows:
    """The queue before the champion.

    Args:
        champion: the one that is live, asked for once a batch; None where there is none.
        batch_rows, batch_delay_s: a batch is computed when it has so many rows, or its first row
            has waited so long, and the thread is free.
        queue_rows: rows that may wait.
    """

    def __init__(
        self,
        champion: Callable[[], Champion | None],
        accounts: Accounts,
        batch_rows: int,
        batch_delay_s: float,
        queue_rows: int,
    ) -> None:
        self._champion, self._accounts = champion, accounts
        self._batch_rows, self._delay_s, self._queue_rows = batch_rows, batch_delay_s, queue_rows
        self._waiting: deque[_Waiting] = deque()
        self._rows = 0
        self._came = asyncio.Event()
        self._since: float | None = None
        self._thread = ThreadPoolExecutor(1, "scores")

    async def answers(self, rows: Rows, timeout_s: float) -> tuple[Champion, Answers]:
        """The answers, and the version that gave them.

        Raises:
            Shed, Late, NotReady, Failed: there is none.
        """
        if self._rows + len(rows) > self._queue_rows:
            raise Shed("too many rows wait here; try again later")
        loop = asyncio.get_running_loop()
        one = _Waiting(rows, loop.time() + timeout_s, loop.create_future())
        self._waiting.append(one)
        self._rows += len(rows)
        self._came.set()
        late = loop.call_at(one.until, _refused, [one], Late("no answer before the deadline"))
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

    async def run(self) -> None:
        """Computes batches until it is cancelled."""
        while True:
            await self._came.wait()
            if self._delay_s and self._rows < self._batch_rows:
                await asyncio.sleep(self._delay_s)
            batch = self._batch()
            try:
                if batch:
                    await self._computed(batch)
            except Exception:
                # Whatever it was, those who wait after these must not wait for ever.
                log.exception("requests failed")
                _refused(batch, Failed("the request could not be answered"))

    def _batch(self) -> list[_Waiting]:
        """The next requests of one signature, in their order; late ones are left out."""
        batch: list[_Waiting] = []
        rows = 0
        now = asyncio.get_running_loop().time()
        while self._waiting:
            one = self._waiting[0]
            late = one.answer.done() or one.until <= now
            if not late and batch:
                other = batch[0].rows.signature != one.rows.signature
                if other or rows + len(one.rows) > self._batch_rows:
                    break
            self._waiting.popleft()
            self._rows -= len(one.rows)
            if not late:
                batch.append(one)
                rows += len(one.rows)
        if not self._waiting:
            self._came.clear()
        self._accounts.queue(self._rows)
        return batch

    async def _computed(self, batch: list[_Waiting]) -> None:
        champion = self._champion()
        if champion is None:
            return _refused(batch, NotReady("no model is live here"))
        self._accounts.batch(sum(len(one.rows) for one in batch), [one.since for one in batch])
        try:
            found = await self._in_thread(champion, _together([one.rows for one in batch]))
        except Exception:
            # One of them may be to blame: each by itself.
            if len(batch) == 1:
                log.exception("a request failed")
                return _refused(batch, Failed("the request could not be answered"))
            for one in batch:
                await self._computed([one])
            return None
        start = 0
        for one in batch:
            own = found[start : start + len(one.rows)]
            start += len(one.rows)
            if not one.answer.done():
                one.answer.set_result((champion, own))
        return None

    async def _in_thread(self, champion: Champion, rows: Rows) -> Answers:
        loop = asyncio.get_running_loop()
        self._since = time.monotonic()
        try:
            return await loop.run_in_executor(self._thread, champion.answers, rows)
        finally:
            self._since = None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


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
