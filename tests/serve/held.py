"""Servers whose scores wait while a file is there, and whose ledger waits while `stuck` is."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.builders.processes import ROOT
from tests.builders.servers import Server, serving
from tests.serve.test_nginx import until

# Python runs it at the start of a process; the replicas are its forks.
_HOOK = """
import os
import time
from pathlib import Path

FILE = Path(os.environ["HELD"])


def hold():
    from jobs.serve.champion import Champion

    own = Champion.answers

    def answers(self, rows):
        while FILE.exists():
            time.sleep(0.01)
        return own(self, rows)

    Champion.answers = answers

    from jobs.serve import accounts

    record = accounts.record

    def stuck(lake, rows):
        while FILE.with_name("stuck").exists():
            time.sleep(0.01)
        return record(lake, rows)

    accounts.record = stuck


os.register_at_fork(after_in_child=hold)
"""


class Asked(threading.Thread):
    """A request under way.

    Attributes:
        answer: status and tree, or what came in the place of an answer.
    """

    def __init__(self, server: Server, path: str, tree: Any) -> None:
        super().__init__()
        self.answer: tuple[int, Any] | Exception = (0, None)
        self._asked = server, path, json.dumps(tree).encode()
        self.start()

    def run(self) -> None:
        server, path, body = self._asked
        try:
            status, _, content = server.ask("POST", path, body)
            self.answer = status, json.loads(content)
        except Exception as error:
            self.answer = error

    def ended(self) -> Any:
        self.join()
        return self.answer


@contextmanager
def held_server(config: Path, folder: Path, *overrides: str) -> Iterator[tuple[Server, Path]]:
    """A server, and the file that holds its scores."""
    (folder / "sitecustomize.py").write_text(_HOOK, encoding="utf-8")
    file = folder / "held"
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "HELD": str(file)}
    with serving(config, folder / "log", *overrides, environment=environment) as server:
        try:
            yield server, file
        finally:
            file.unlink(missing_ok=True)


def until_received(server: Server, count: int) -> None:
    """Returns when a server has received so many requests."""

    def received() -> int:
        page = server.ask("GET", "/metrics")[2].decode()
        return sum(
            int(float(line.rsplit(" ", 1)[1]))
            for line in page.splitlines()
            if line.startswith("millstream_serve_requests_total{") and '"received"' in line
        )

    until(lambda: received() >= count)
