"""S3 for tests: a server on loopback in a process of its own, and the faults it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from tests.builders.s3_server import CONTROL

BUCKET = "bucket"
SILENCE = 0


class S3:
    """A running server. `environment` points s3fs, delta-rs and Arrow at it."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "loopback",
            "AWS_SECRET_ACCESS_KEY": "no-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self) -> None:
        fs = fsspec.filesystem("s3")
        if not fs.exists(BUCKET):
            fs.mkdir(BUCKET)

    def url(self, *names: str) -> str:
        return "/".join([f"s3://{BUCKET}", *names])

    @contextmanager
    def failing(
        self, part: str, status: int, times: int = -1, method: str = "GET", every: int = 1
    ) -> Iterator[S3]:
        """Requests whose path has `part` fail, each `every`-th, `times` of them (below 0: all)."""
        fault = {"status": status, "times": times, "method": method, "every": every, "delay_s": 0}
        with self._faulty([{**fault, "part": part}]):
            yield self

    @contextmanager
    def slow(
        self, *parts: str, delay_s: float, method: str = "PUT", every: int = 1
    ) -> Iterator[S3]:
        """Requests whose paths have one of `parts`, each `every`-th, are answered so much later."""
        fault = {"status": SILENCE, "times": -1, "method": method, "every": every}
        fault["delay_s"] = delay_s
        with self._faulty([{**fault, "part": part} for part in parts]):
            yield self

    @contextmanager
    def _faulty(self, faults: list[dict[str, Any]]) -> Iterator[None]:
        self._control(faults)
        try:
            yield
        finally:
            self._control([])

    def requests(self) -> list[tuple[str, str, str]]:
        """(method, path, range) of each request since faults were last set or taken away."""
        return [(method, path, range_) for method, path, range_ in self._control(None)]

    def upload(self, folder: Path | str, name: str) -> str:
        """Copies a folder up, its name replaced; returns its URL."""
        url = self.url(name)
        fs, path = fsspec.core.url_to_fs(url)
        fs.put(f"{folder}/", f"{path}/", recursive=True)
        return url

    def _control(self, faults: list[dict[str, Any]] | None) -> Any:
        body = None if faults is None else json.dumps(faults).encode()
        method = "GET" if faults is None else "PUT"
        request = urllib.request.Request(self.endpoint + CONTROL, body, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextmanager
def serving() -> Iterator[S3]:
    """The server; it ends with the block."""
    command = [sys.executable, "-m", "tests.builders.s3_server"]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert process.stdout is not None
        yield S3(int(process.stdout.readline()))
    finally:
        process.communicate()
