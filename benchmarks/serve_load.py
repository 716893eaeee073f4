"""The load of `bench_serve`: Poisson arrivals over kept connections, latencies from when due.

python -m benchmarks.serve_load \
    '{"port": 1, "path": "/", "headers": {}, "rate": 100, "seconds": 5}' < BODY
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import numpy as np

CONNECTIONS = 64
# What is not answered by then after the last arrival has failed.
_GRACE_S = 3.0


class Connections:
    """Connections that are kept, as many as are needed at a time."""

    def __init__(self, port: int, path: str, headers: dict[str, str], body: bytes) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._places = asyncio.Semaphore(CONNECTIONS)

    async def ask(self) -> bool:
        """One request; whether its answer was 200."""
        async with self._places:
            pair = self._free.pop() if self._free else None
            reader, writer = pair or await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin1").lower().split("\r\n")
            sizes = [line.split(":")[1] for line in lines if line.startswith("content-length:")]
            await reader.readexactly(int(sizes[0]))
            self._free.append((reader, writer))
            return " 200 " in f"{lines[0]} "


async def run(order: dict[str, Any], body: bytes) -> dict[str, Any]:
    draw = np.random.default_rng(11)
    gaps = draw.exponential(1 / order["rate"], int(order["rate"] * order["seconds"] * 2) + 10)
    moments = [moment for moment in np.cumsum(gaps).tolist() if moment < order["seconds"]]
    connections = Connections(order["port"], order["path"], order["headers"], body)
    latencies: list[float] = []
    started = time.perf_counter()
    last = [0.0]

    async def one(due: float) -> None:
        if await connections.ask():
            last[0] = time.perf_counter() - started
            latencies.append(1000 * (last[0] - due))

    tasks = []
    for due in moments:
        wait = due - (time.perf_counter() - started)
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(due)))
    _, late = await asyncio.wait(tasks, timeout=_GRACE_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "due": len(moments),
        "latencies_ms": latencies,
        "failed": len(moments) - len(latencies),
        "seconds": last[0],
    }


if __name__ == "__main__":
    found = asyncio.run(run(json.loads(sys.argv[1]), sys.stdin.buffer.read()))
    print(json.dumps(found))
