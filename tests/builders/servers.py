"""`millstream serve` as a process, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.builders.processes import ROOT

_PORTS = re.compile(r"replica \d+: http \[?(.+?)\]?:(\d+)(?:, grpc \S+:(\d+))?\n")
_DEADLINE_S = 120.0


@dataclass
class Server:
    """A running server.

    Attributes:
        said: lines of its standard error so far, as `lines` reads them.
    """

    process: subprocess.Popen[str]
    log: Path
    host: str = ""
    port: int = 0
    grpc_port: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def replicas(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of an answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, {**self.headers, **named})
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, _, content = self.ask("GET", path)
        assert status == 200, (status, content)
        return json.loads(content)

    def post(self, path: str, tree: Any) -> Any:
        status, _, content = self.ask("POST", path, json.dumps(tree).encode())
        assert status == 200, (status, content)
        return json.loads(content)

    def invoke(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answers to raw rows by `/invocations`."""
        found: list[dict[str, Any]] = self.post("/invocations", {"dataframe_records": list(rows)})[
            "predictions"
        ]
        return found

    def until(self, text: str, times: int = 1) -> None:
        """Returns when it has said the text so often."""
        end = time.monotonic() + _DEADLINE_S
        while self.said.count(text) < times:
            assert time.monotonic() < end and self.process.poll() is None, self.said
            time.sleep(0.05)

    def end(self) -> int:
        """Asks it to end; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=_DEADLINE_S)


@contextmanager
def serving(
    config: Path, log: Path, *overrides: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server on free ports, whose replicas have opened them."""
    settings = ("serve.port=0", "serve.grpc_port=0", *overrides)
    options = [part for one in settings for part in ("--set", one)]
    command = [sys.executable, "-m", "jobs.main", "serve", "--config", str(config), *options]
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    server = Server(process, log)
    try:
        server.until("replica 0: http")
        found = _PORTS.search(server.said)
        assert found
        server.host, server.port, server.grpc_port = found[1], int(found[2]), int(found[3] or 0)
        yield server
    finally:
        if process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
