"""The queue: rows are answered together; what is too much or too late is shed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from jobs.lake.lake import Lake
from jobs.serve.accounts import Accounts
from jobs.serve.champion import Answers, Champion
from jobs.serve.job import _MOMENT, _Process, _Supervisor
from jobs.serve.live import Live
from jobs.serve.request.errors import Failed, Late, Shed
from jobs.serve.request.rows import RawRows
from jobs.serve.service import Service
from jobs.serve.waiting import WaitingRows
from jobs.settings.serve import ServeSettings
from jobs.settings.settings import Settings


class Doubling:
    """In a champion's place: a row's answer is its number twice. Waits at `gate`.

    Attributes:
        asked: whether it was asked for answers.
    """

    def __init__(self) -> None:
        self.gate, self.asked = threading.Event(), threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def answers(self, rows: RawRows) -> Answers:
        self.asked.set()
        assert self.gate.wait(30)
        numbers = rows.table["n"].to_numpy()
        self.batches.append(len(numbers))
        if (numbers < 0).any():
            raise ZeroDivisionError
        return Answers((2 * numbers).astype(np.float32), {})


def rows_of(*numbers: int, name: str = "n") -> RawRows:
    columns = {"n": pa.array(numbers, pa.int64())}
    return RawRows(pa.table({**columns, name: columns["n"]}))


def run(
    tmp_path: Path,
    work: Callable[[WaitingRows], Any],
    **options: Any,
) -> Any:
    """Runs `work` beside the queue's thread."""

    async def main() -> Any:
        accounts = Accounts(Lake(str(tmp_path), "none"), "serve-1", 0, shared=False)
        sizes = {"batch_rows": 4, "batch_delay_s": 0.0, "queue_rows": 8, **options}
        waiting = WaitingRows(accounts, **sizes)
        waiting.start()
        try:
            return await work(waiting)
        finally:
            waiting.close()

    return asyncio.run(main())


def ask(
    waiting: WaitingRows, champion: Doubling, rows: RawRows, timeout_s: float = 30
) -> asyncio.Future[Answers]:
    return asyncio.ensure_future(waiting.answers(cast("Champion", champion), rows, timeout_s))


def scores(answers: Answers) -> list[float]:
    return answers.scores.tolist()


def test_each_request_gets_its_own_rows(tmp_path: Path) -> None:
    champion = Doubling()

    async def work(waiting: WaitingRows) -> Any:
        champion.gate.clear()
        first = ask(waiting, champion, rows_of(100))
        await asyncio.sleep(0)
        others = [ask(waiting, champion, rows_of(n, n + 50)) for n in range(4)]
        await asyncio.sleep(0)
        champion.gate.set()
        return [scores(await one) for one in [first, *others]]

    assert run(tmp_path, work, queue_rows=20) == [
        [200.0],
        *[[2.0 * n, 2.0 * (n + 50)] for n in range(4)],
    ]
    assert sum(champion.batches) == 9 and max(champion.batches) == 4


def test_rows_of_different_columns_are_not_mixed(tmp_path: Path) -> None:
    champion = Doubling()

    async def work(waiting: WaitingRows) -> Any:
        asked = [rows_of(1), rows_of(2, name="other"), rows_of(3)]
        return await asyncio.gather(*(ask(waiting, champion, one) for one in asked))

    assert [scores(one) for one in run(tmp_path, work)] == [[2.0], [4.0], [6.0]]


def test_too_many_rows_are_shed_at_once(tmp_path: Path) -> None:
    champion = Doubling()

    async def work(waiting: WaitingRows) -> Any:
        champion.gate.clear()
        busy = ask(waiting, champion, rows_of(1))
        assert await asyncio.to_thread(champion.asked.wait, 30)
        held = [ask(waiting, champion, rows_of(n)) for n in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(Shed):
            await ask(waiting, champion, rows_of(9))
        champion.gate.set()
        return len(await asyncio.gather(busy, *held))

    assert run(tmp_path, work) == 9


def test_what_is_late_is_not_computed(tmp_path: Path) -> None:
    champion = Doubling()

    async def work(waiting: WaitingRows) -> None:
        champion.gate.clear()
        busy = ask(waiting, champion, rows_of(1))
        assert await asyncio.to_thread(champion.asked.wait, 30)
        with pytest.raises(Late):
            await ask(waiting, champion, rows_of(2, 3), 0.01)
        champion.gate.set()
        assert scores(await busy) == [2.0]
        assert scores(await ask(waiting, champion, rows_of(4))) == [8.0]

    run(tmp_path, work)
    assert champion.batches == [1, 1]


def test_one_that_fails_does_not_take_its_neighbours(tmp_path: Path) -> None:
    champion = Doubling()

    async def work(waiting: WaitingRows) -> Any:
        champion.gate.clear()
        asked = [ask(waiting, champion, rows_of(n)) for n in (1, 2, -3, 4)]
        assert await asyncio.to_thread(champion.asked.wait, 30)
        champion.gate.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    found = run(tmp_path, work)
    assert isinstance(found[2], Failed)
    assert [scores(one) for place, one in enumerate(found) if place != 2] == [[2.0], [4.0], [8.0]]


def test_the_queue_outlives_a_failure_of_its_own(tmp_path: Path) -> None:
    class Strange(Doubling):
        def answers(self, rows: RawRows) -> Answers:
            found = super().answers(rows)
            return cast("Answers", None) if found.scores[0] == 2 else found

    champion = Strange()

    async def work(waiting: WaitingRows) -> Any:
        with pytest.raises(Failed):
            await ask(waiting, champion, rows_of(1))
        return scores(await ask(waiting, champion, rows_of(2)))

    assert run(tmp_path, work) == [4.0]


def test_requests_that_cannot_be_taken_up_do_not_end_the_thread(tmp_path: Path) -> None:
    class Torn(RawRows):
        @property
        def signature(self) -> object:
            raise ZeroDivisionError

    champion = Doubling()

    async def work(waiting: WaitingRows) -> Any:
        champion.gate.clear()
        asked = [rows_of(1), rows_of(2), Torn(rows_of(3).table)]
        waits = [ask(waiting, champion, one) for one in asked]
        assert await asyncio.to_thread(champion.asked.wait, 30)
        champion.gate.set()
        found = await asyncio.gather(*waits, return_exceptions=True)
        return [found[2], scores(found[0]), scores(await ask(waiting, champion, rows_of(4)))]

    torn, *whole = run(tmp_path, work)
    assert isinstance(torn, Failed) and whole == [[2.0], [8.0]]


def test_who_goes_away_is_shed_and_not_failed(tmp_path: Path) -> None:
    """gRPC cancels a request whose deadline passes."""
    accounts = Accounts(Lake(str(tmp_path), "none"), "serve-1", 0, shared=False)
    with pytest.raises(asyncio.CancelledError), accounts.request("1"):
        raise asyncio.CancelledError
    page = accounts.page().decode()
    assert 'outcome="shed",version="1"} 1.0' in page and "failed" not in page


def test_scores_that_hang_make_a_replica_not_ready_and_its_beat_old(tmp_path: Path) -> None:
    champion = Doubling()
    settings = ServeSettings(deadline_ms=50, stall_s=2)

    async def work(waiting: WaitingRows) -> None:
        live = cast("Live", SimpleNamespace(champion=champion))
        none = cast("Any", None)
        service = Service(settings, none, live, waiting, none, none)
        process = _Process(0, started=time.monotonic())
        supervisor = _Supervisor(cast("Settings", SimpleNamespace(serve=settings)), tmp_path)

        def is_still() -> bool:
            process.beat[:] = _MOMENT.pack(service.alive_at)
            return supervisor._is_still(process, time.monotonic())

        assert service.ready and not is_still()
        champion.gate.clear()
        with pytest.raises(Late):
            await ask(waiting, champion, rows_of(1), 0.05)
        while service.ready or not is_still():
            await asyncio.sleep(0.01)
        champion.gate.set()
        assert scores(await ask(waiting, champion, rows_of(2))) == [4.0]
        assert service.ready and not is_still()

    run(tmp_path, work)


def test_rows_are_answered_by_the_champion_that_they_came_with(tmp_path: Path) -> None:
    class Other(Doubling):
        def answers(self, rows: RawRows) -> Answers:
            return Answers(10 * super().answers(rows).scores, {})

    first, second = Doubling(), Other()

    async def work(waiting: WaitingRows) -> Any:
        first.gate.clear()
        by = [first, first, second, first, second, second]
        asked = [ask(waiting, champion, rows_of(n)) for n, champion in enumerate(by)]
        assert await asyncio.to_thread(first.asked.wait, 30)
        first.gate.set()
        return [scores(one) for one in await asyncio.gather(*asked)]

    assert run(tmp_path, work) == [[0.0], [2.0], [40.0], [6.0], [80.0], [100.0]]
    assert second.batches == [1, 2]
