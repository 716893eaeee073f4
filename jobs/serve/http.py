"""HTTP's connections: a request is bounded in the size of its head and in its time."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_MOST_HEAD_BYTES = 64 << 10
_TOO_SLOW = json.dumps({"error": "the request did not come in time"}).encode()


class _Joining:
    """A transport that sends the head and the body of an answer by one call of the system, not two,
    each of which wakes the client."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request line and headers are too long, or whose request does not
    come in time; where the headers have come it is told 408.

    Attributes:
        request_timeout_s: from the connection or a request's first byte to its last.
    """

    request_timeout_s = 10.0
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
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._end()
        super().on_message_complete()

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


def bounded_http(request_timeout_s: float) -> type[BoundedHttp]:
    """The protocol for a server whose requests have so long to come."""
    return type("_BoundedHttp", (BoundedHttp,), {"request_timeout_s": request_timeout_s})
