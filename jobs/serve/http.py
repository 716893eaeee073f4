"""HTTP's connections: a request is bounded in the size of its head and in its time, and a short one
to a path that is asked most goes straight to its handler."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_MOST_HEAD_BYTES = 64 << 10
# A longer body is read by the application, which bounds it.
_MOST_DIRECT_BYTES = 1 << 20
# Uvicorn sets one when a body has come; a direct answer waits for none.
_NOBODY_WAITS = asyncio.Event()
_TOO_SLOW = json.dumps({"error": "the request did not come in time"}).encode()


@dataclass(frozen=True, slots=True)
class WholeRequest:
    """A request whose body has come, in the place of Starlette's.

    Attributes:
        headers: by names in lower case; of equal names the first.
        path_params: what the application's route would have found in the path.
    """

    headers: Mapping[str, str]
    path_params: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class DirectPath:
    """What answers POST to a path without the application around it.

    Attributes:
        answer: raises nothing.
    """

    answer: Callable[[WholeRequest], Awaitable[Response]]
    path_params: Mapping[str, str]


class _Joining:
    """A transport that sends the head and the body of an answer by one call of the system, not two,
    each of which wakes the client."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.send)
        self._parts.append(data)

    def close(self) -> None:
        self.send()
        self._transport.close()

    def send(self, *more: bytes) -> None:
        """Sends what was written, and more, now."""
        parts, self._parts = [*self._parts, *more], []
        if parts:
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@dataclass(slots=True)
class _DirectCycle:
    """A request and its answer, with what uvicorn's protocol asks of its own such object."""

    path: DirectPath
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    body: list[bytes] = field(default_factory=list)
    disconnected: bool = False
    response_started: bool = False
    response_complete: bool = False
    message_event: asyncio.Event = _NOBODY_WAITS

    def request(self) -> WholeRequest:
        named = {name.decode("latin-1"): v.decode("latin-1") for name, v in reversed(self.headers)}
        return WholeRequest(named, self.path.path_params, b"".join(self.body))


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request line and headers are too long, or whose request does not
    come in time; where the headers have come it is told 408.

    Attributes:
        request_timeout_s: from the connection or a request's first byte to its last.
        direct: by path; what is not exactly such a request goes through the application.
    """

    request_timeout_s = 10.0
    direct: Mapping[bytes, DirectPath] = {}
    _head_bytes = 0
    _is_head = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(cast("asyncio.Transport", _Joining(transport, self.loop)))
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self.send_400_response(f"the headers have more than {_MOST_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._start()

    def on_headers_complete(self) -> None:
        self._is_head = False
        path = self.direct.get(self.url)
        if path is None or not self._is_plain():
            super().on_headers_complete()
        else:
            keep_alive = self.parser.should_keep_alive()
            self.cycle = cast("Any", _DirectCycle(path, self.headers, keep_alive))

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if isinstance(cycle, _DirectCycle):
            cycle.body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._end()
        cycle: Any = self.cycle
        if not isinstance(cycle, _DirectCycle):
            super().on_message_complete()
        elif not cycle.response_complete:
            task = self.loop.create_task(self._answer(cycle))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def _is_plain(self) -> bool:
        """Whether this is a POST whose short body comes unasked, on a connection that waits for no
        other answer, of a server that is not too busy."""
        before = self.cycle
        if before is not None and not before.response_complete:
            return False
        parser, most = self.parser, self.limit_concurrency
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return False
        if self.expect_100_continue or parser.should_upgrade():
            return False
        if most is not None and max(len(self.connections), len(self.tasks)) >= most:
            return False
        sizes = [value for name, value in self.headers if name == b"content-length"]
        return len(sizes) == 1 and sizes[0].isdigit() and int(sizes[0]) <= _MOST_DIRECT_BYTES

    async def _answer(self, cycle: _DirectCycle) -> None:
        try:
            response = await cycle.path.answer(cycle.request())
            if self.flow.write_paused and not cycle.disconnected:
                await self.flow.drain()
            if not cycle.disconnected and not self.transport.is_closing():
                self._send(cycle, response)
        finally:
            if not cycle.response_complete:
                self.transport.close()

    def _send(self, cycle: _DirectCycle, response: Response) -> None:
        headers = [*self.server_state.default_headers, *response.raw_headers]
        if not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        lines = [b"%b: %b\r\n" % one for one in headers]
        transport: Any = self.transport
        transport.send(STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            transport.close()
        self.on_response_complete()

    def _start(self) -> None:
        self._end()
        self._is_head, self._head_bytes = True, 0
        self._deadline = self.loop.call_later(self.request_timeout_s, self._close)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        # An answer that has begun, such as that of a wrong token, needs no second one.
        if not self._is_head and not self.cycle.response_started:
            size = str(len(_TOO_SLOW)).encode()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
            self.transport.write(b"".join([STATUS_LINE[408], head, size, b"\r\n\r\n", _TOO_SLOW]))
        self.transport.close()


def bounded_http(request_timeout_s: float, direct: Mapping[bytes, DirectPath]) -> type[BoundedHttp]:
    """The protocol for a server whose requests have so long to come.

    Args:
        direct: see `BoundedHttp`.
    """
    of_server = {"request_timeout_s": request_timeout_s, "direct": direct}
    return type("_BoundedHttp", (BoundedHttp,), of_server)
