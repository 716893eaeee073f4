"""HTTP servers on loopback: one that keeps what it is told, and one that is a Pushgateway."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias
from urllib.parse import unquote

from prometheus_client.parser import text_string_to_metric_families

Metrics: TypeAlias = dict[str, dict[tuple[str, ...], float]]


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """What was asked, and how it answers: `silent` until `end`, when the server stops."""

    status: int = 200
    silent: bool = False
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    end: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: Request) -> int:
        self.requests.append(request)
        if self.silent:
            self.end.wait()
        return self.status


@dataclass
class Gateway(Server):
    """A Pushgateway: groups by path; POST replaces metrics of the same names, PUT all."""

    groups: dict[str, Metrics] = field(default_factory=dict)

    def answer(self, request: Request) -> int:
        status = super().answer(request)
        path = unquote(request.path)
        if status != 200 or not path.startswith("/metrics/job/"):
            return 404 if status == 200 else status
        group = self.groups.setdefault(path, {})
        if request.method == "PUT":
            group.clear()
        elif request.method != "POST":
            return 405
        group.update(metrics_of(request.body.decode()))
        return status


def metrics_of(text: str) -> Metrics:
    """Metrics by name, then by data set, stage and what other label there is."""
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.name not in found
        values = found[family.name] = {}
        for sample in family.samples:
            rest = dict(sample.labels)
            values[rest.pop("dataset"), rest.pop("stage"), *rest.values()] = sample.value
    return found


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Request(self.command, self.path, dict(self.headers), body)
            self.send_response(server.answer(asked))
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_GET = _any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.end.set()
            http.shutdown()
            thread.join()


def closed_url() -> str:
    """Where nobody listens."""
    with serving(Server()) as server:
        return server.url
