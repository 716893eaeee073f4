"""An S3 server on loopback that fails on request: `python -m tests.builders.s3_server`.

A process of its own, because delta-rs waits for the store with Python's interpreter lock held. It
prints its port. Faults are set by a request to /_faults, and what was asked is read there.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

CONTROL = "/_faults"
_CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}
# Longer than any deadline that a test sets: a silent request ends when its fault is taken away.
_SILENCE_S = 300


class Server:
    """moto's S3 behind faults: a list of {part, method, status, times, every, delay_s}.

    Status 0 is silence, and an empty method any. The fault meets each `every`-th request; one with
    `delay_s` is answered well, but as much later.
    """

    def __init__(self) -> None:
        self._backend = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._faults: list[dict[str, Any]] = []
        self._changed = threading.Event()
        self._requests: list[list[str]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == CONTROL:
            return self._control(environ, start_response)
        fault = self._fault_of(environ)
        if fault is None:
            answer: Iterable[bytes] = self._backend(environ, start_response)
            return answer
        if fault["status"] == 0:
            fault["changed"].wait(fault["delay_s"] or _SILENCE_S)
            return self._backend(environ, start_response)
        code = _CODES[fault["status"]]
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        if environ["REQUEST_METHOD"] == "HEAD":
            body = b""
        return _answer(start_response, f"{fault['status']} {code}", "application/xml", body)

    def _fault_of(self, environ: dict[str, Any]) -> dict[str, Any] | None:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        with self._lock:
            self._requests.append([method, path, environ.get("HTTP_RANGE", "")])
            for fault in self._faults:
                if fault["part"] in path and fault["method"] in ("", method) and fault["times"]:
                    fault["met"] = fault.get("met", 0) + 1
                    if fault["met"] % fault["every"]:
                        continue
                    fault["times"] -= 1
                    return {**fault, "changed": self._changed}
        return None

    def _control(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            found = json.dumps(self._requests).encode()
            if environ["REQUEST_METHOD"] == "PUT":
                size = int(environ["CONTENT_LENGTH"])
                self._faults = json.loads(environ["wsgi.input"].read(size))
                self._requests = []
                self._changed.set()
                self._changed = threading.Event()
        return _answer(start_response, "200 OK", "application/json", found)


def _answer(start_response: Any, status: str, kind: str, body: bytes) -> Iterable[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        pass


def main() -> None:
    server = make_server("127.0.0.1", 0, Server(), threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    # The tests' end, however it comes, closes this.
    sys.stdin.read()


if __name__ == "__main__":
    main()
