"""The benchmark's load: connections that a server closes are opened again."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.serve_load import CONNECTIONS, run


def test_connections_that_are_closed_while_idle_are_opened_again() -> None:
    opened = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        # The first are closed before anybody asks.
        if opened > CONNECTIONS:
            while await reader.readline():
                while await reader.readline() != b"\r\n":
                    pass
                await reader.readexactly(2)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async def load() -> dict[str, Any]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            order = {"path": "/", "headers": {}, "rate": 20, "seconds": 2}
            return await run({**order, "port": server.sockets[0].getsockname()[1]}, b"{}")

    found = asyncio.run(load())
    latencies = found["latencies_ms"]
    # One may be sent while its connection is being closed.
    assert len(latencies) >= found["due"] - 1
    assert opened >= CONNECTIONS + 1
