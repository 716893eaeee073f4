"""HTTP's connections: they are bounded in number, a request in the size of its headers and in its
time, and a short one to a path that is asked most goes straight to its handler."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.responses import Response
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

# Of a request, before and behind its body; small headers take memory too.
_MOST_HEAD_BYTES, _MOST_HEADERS = 64 << 10, 1_000
# A longer body is read by the application, which bounds it.
_MOST_DIRECT_BYTES = 1 << 20
# Uvicorn sets one when a body has come; a direct answer waits for none.
_NOBODY_WAITS = asyncio.Event()


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
    each of which wakes the client. A client that does not read is not waited for.

    Args:
        patience_s: how long sending may make no progress.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop, patience_s: float) -> None:
        self._transport, self._loop, self._patience_s = transport, loop, patience_s
        self._parts: list[bytes] = []
        self._abort: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.send)
        self._parts.append(data)

    def close(self) -> None:
        self.send()
        self._transport.close()
        self.cut_later()

    def cut_later(self) -> None:
        """Cuts the connection, unless the client reads soon."""
        if self._abort is None:
            self._abort = self._loop.call_later(self._patience_s, self._transport.abort)

    def keep(self) -> None:
        """The client has read, or is gone."""
        if self._abort is not None:
            self._abort.cancel()
            self._abort = None

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
    """Closes a connection whose request has too long a line, headers or trailers, or does not come
    in time, after it was told so; a client that does not read its answers is cut off.

    Attributes:
        request_timeout_s: from the connection or a request's first byte to its last, and for an
            answer to be read.
        direct: by path; what is not exactly such a request goes through the application.
        most_connections: one that is opened beyond these has its request answered by `busy_app`.
    """

    request_timeout_s = 10.0
    direct: Mapping[bytes, DirectPath] = {}
    most_connections = 1_024
    busy_app: ASGIApp
    # Read since the request's begin or the last piece of its body.
    _head_bytes = 0
    # Whether the headers of the request that comes are not yet whole.
    _is_head = True
    _is_too_many = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        joining = _Joining(transport, self.loop, self.request_timeout_s)
        super().connection_made(cast("asyncio.Transport", joining))
        self._is_too_many = len(self.connections) > self.most_connections
        self.headers = []
        if self._is_too_many:
            self.app = cast("Any", self.busy_app)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)
        cast("Any", self.transport).keep()

    def pause_writing(self) -> None:
        super().pause_writing()
        cast("Any", self.transport).cut_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            cast("Any", self.transport).keep()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > _MOST_HEAD_BYTES or len(self.headers) > _MOST_HEADERS:
            self._refuse(400, f"more than {_MOST_HEADERS} headers, or {_MOST_HEAD_BYTES} bytes")

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._start()

    def on_headers_complete(self) -> None:
        self._is_head = False
        path = self.direct.get(self.url)
        if path is None or not self._is_plain():
            super().on_headers_complete()
            if self._is_too_many:
                self.cycle.keep_alive = False
        else:
            keep_alive = self.parser.should_keep_alive()
            self.cycle = cast("Any", _DirectCycle(path, self.headers, keep_alive))

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        cycle: Any = self.cycle
        if isinstance(cycle, _DirectCycle):
            cycle.body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._end()
        self._is_head, self._head_bytes = True, 0
        cycle: Any = self.cycle
        if not isinstance(cycle, _DirectCycle):
            super().on_message_complete()
        elif not cycle.response_complete:
            task = self.loop.create_task(self._answer(cycle))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def _is_plain(self) -> bool:
        """Whether this is a POST whose short body comes unasked, on a connection that waits for no
        other answer."""
        if self._is_too_many or self._owes_answers():
            return False
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return False
        if self.expect_100_continue or parser.should_upgrade():
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
        self._deadline = self.loop.call_later(self.request_timeout_s, self._close)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._deadline = None
        if self._is_head and not self._owes_answers():
            self.transport.close()
        else:
            self._refuse(408, "the request did not come in time")

    def _owes_answers(self) -> bool:
        """Whether the last request that came has no whole answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, why: str) -> None:
        """Answers the request that comes, where that is still to be done, and closes."""
        if self.transport.is_closing():
            return
        if self._is_head and self._owes_answers():
            # Requests before it get theirs, the last of which closes.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        # An answer that has begun, such as that of a wrong token, needs no second one.
        if self._is_head or not (self.cycle.response_started or self.pipeline):
            body = json.dumps({"error": why}).encode()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d"
            parts = [STATUS_LINE[status], head % len(body), b"\r\n\r\n", body]
            self.transport.write(b"".join(parts))
        self.transport.close()


def bounded_http(
    request_timeout_s: float,
    direct: Mapping[bytes, DirectPath],
    most_connections: int,
    busy_app: ASGIApp,
) -> type[BoundedHttp]:
    """The protocol for a server, whose attributes these are: see `BoundedHttp`."""
    of_server = {
        "request_timeout_s": request_timeout_s,
        "direct": direct,
        "most_connections": most_connections,
        "busy_app": staticmethod(busy_app),
    }
    return type("_BoundedHttp", (BoundedHttp,), of_server)
