"""The load of `bench_serve`: Poisson arrivals over kept connections, latencies from when due.

python -m benchmarks.serve_load \
    '{"port": 1, "path": "/", "headers": {}, "rate": 100, "seconds": 5}' < BODY

Its timers are of a millisecond, so that a request may be sent that much after it was due, and all
latencies are longer by half of one.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import deque
from typing import Any

import numpy as np
import uvloop

CONNECTIONS = 64
# What is not answered by then after the last arrival has failed.
_GRACE_S = 3.0
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class Load:
    """Requests that are sent as they become due, one at a time over each connection.

    Attributes:
        latencies_ms: of answers with status 200.
        last_s: when the last of them came, after `started`.
        waiting: moments of requests that are due while all connections are taken.
        unanswered: requests that were due.
    """

    def __init__(self, request: bytes, port: int) -> None:
        self.request, self.started, self.port = request, 0.0, port
        self.ended = False
        self._opening: set[asyncio.Task[None]] = set()
        self.latencies_ms: list[float] = []
        self.last_s, self.unanswered = 0.0, 0
        self.free: list[_Connection] = []
        self.waiting: deque[float] = deque()
        self.none_open = asyncio.Event()

    def clock_s(self) -> float:
        return time.perf_counter() - self.started

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)

    def lost(self, connection: _Connection, is_asked: bool) -> None:
        """A server closes connections that are idle, or that it does not answer."""
        if is_asked:
            self._is_done()
        else:
            self.free.remove(connection)
        if not self.ended:
            opening = asyncio.ensure_future(self.open())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def take(self, connection: _Connection) -> None:
        """Takes one that is free."""
        if self.waiting:
            connection.ask(self.waiting.popleft())
        else:
            self.free.append(connection)

    def due(self, moment: float) -> None:
        self.unanswered += 1
        self.none_open.clear()
        if self.free:
            self.free.pop().ask(moment)
        else:
            self.waiting.append(moment)

    def answered(self, connection: _Connection, moment: float, well: bool) -> None:
        if well:
            self.last_s = self.clock_s()
            self.latencies_ms.append(1000 * (self.last_s - moment))
        self.take(connection)
        self._is_done()

    def _is_done(self) -> None:
        self.unanswered -= 1
        if not self.unanswered:
            self.none_open.set()


class _Connection(asyncio.Protocol):
    """One that is closed before an answer loses it; another takes its place."""

    def __init__(self, load: Load) -> None:
        self._load, self._moment = load, 0.0
        self._is_asked = False
        self._answer, self._size = bytearray(), 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._load.take(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self, self._is_asked)

    def ask(self, moment: float) -> None:
        self._moment, self._size, self._is_asked = moment, 0, True
        self._answer.clear()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._size:
            end = self._answer.find(_HEAD_END)
            length = _LENGTH.search(self._answer, 0, max(end, 0))
            if length is None:
                return
            self._size = end + len(_HEAD_END) + int(length[1])
        if len(self._answer) >= self._size:
            self._is_asked = False
            self._load.answered(self, self._moment, b" 200 " in self._answer[:16])


def _request(order: dict[str, Any], body: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in order["headers"].items())
    head = f"POST {order['path']} HTTP/1.1\r\nHost: x\r\n{lines}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def run(order: dict[str, Any], body: bytes) -> dict[str, Any]:
    draw = np.random.default_rng(11)
    gaps = draw.exponential(1 / order["rate"], int(order["rate"] * order["seconds"] * 2) + 10)
    moments = [moment for moment in np.cumsum(gaps).tolist() if moment < order["seconds"]]
    load = Load(_request(order, body), order["port"])
    for _ in range(CONNECTIONS):
        await load.open()
    before_s = time.process_time()
    load.started = time.perf_counter()
    for moment in moments:
        await asyncio.sleep(max(0.0, moment - load.clock_s()))
        load.due(moment)
    try:
        await asyncio.wait_for(load.none_open.wait(), _GRACE_S)
    except TimeoutError:
        load.waiting.clear()
    load.ended = True
    return {
        "due": len(moments),
        "latencies_ms": load.latencies_ms,
        "failed": len(moments) - len(load.latencies_ms),
        "seconds": load.last_s,
        "cores": (time.process_time() - before_s) / load.clock_s(),
    }


if __name__ == "__main__":
    found = uvloop.run(run(json.loads(sys.argv[1]), sys.stdin.buffer.read()))
    print(json.dumps(found))
