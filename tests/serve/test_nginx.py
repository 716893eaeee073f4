"""Three servers behind nginx with one retry: one killed, one frozen, and nothing is lost."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.lake.ledger import read_ledger
from jobs.serve.left import OUTCOMES, RECEIVED, STAGE
from tests.builders.lakes import lake_of
from tests.builders.processes import ROOT
from tests.builders.servers import Server, serving
from tests.serve.conftest import Served

CONFIG = ROOT / "deploy" / "nginx" / "millstream.conf"
_DEADLINE_S = 90.0
_CLIENTS = 4


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def balancing(servers: list[Server], folder: Path) -> Iterator[int]:
    """nginx with the configuration of deploy/ before the servers; its port."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert program, "no nginx: run tools/install_nginx.sh (Debian's package nginx-light)"
    ports = {"8088": free_port(), "8089": free_port()}
    for number, server in enumerate(servers):
        ports[str(8091 + 2 * number)] = server.port
        ports[str(8092 + 2 * number)] = server.grpc_port
    text = CONFIG.read_text(encoding="utf-8")
    text = re.sub(r"127\.0\.0\.1:(\d+)", lambda m: f"127.0.0.1:{ports[m[1]]}", text)
    config = folder / "nginx.conf"
    config.write_text(text, encoding="utf-8")
    with (folder / "log").open("w") as log:
        command = [program, "-p", str(folder), "-c", str(config), "-g", "daemon off;"]
        process = subprocess.Popen(command, stderr=log)
    try:
        until(lambda: is_ready(ports["8088"]))
        yield ports["8088"]
    finally:
        process.terminate()
        process.wait(timeout=30)


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


@dataclass
class Clients:
    """Clients that ask one after the other, each waiting for its answer."""

    port: int
    body: bytes
    outcomes: Counter[str] = field(default_factory=Counter)
    _end: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def asked(self) -> int:
        with self._lock:
            return self.outcomes.total()

    def ask_until_end(self) -> None:
        while not self._end.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                connection.request("POST", "/invocations", self.body)
                answer = connection.getresponse()
                found = f"{answer.status}" + (answer.read().decode() if answer.status > 200 else "")
            except (OSError, http.client.HTTPException) as error:
                found = repr(error)
            finally:
                connection.close()
            with self._lock:
                self.outcomes[found] += 1

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.ask_until_end) for _ in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in threads:
                thread.join()


def hurt(server: Server, clients: Clients, name: signal.Signals) -> None:
    """Sends a signal to the server's replica, and returns when another answers in its place."""
    (replica,) = server.replicas()
    replica.send_signal(name)
    before = clients.asked
    until(lambda: is_replaced(server, replica) and is_ready(server.port))
    until(lambda: clients.asked > before + 50)


def is_replaced(server: Server, before: psutil.Process) -> bool:
    return [one.pid for one in server.replicas()] not in ([], [before.pid])


@pytest.mark.slow
def test_a_replica_killed_and_one_frozen_lose_no_request(served: Served, tmp_path: Path) -> None:
    raw = served.raw.copy(tmp_path / "lake")
    others = {row["run"] for row in read_ledger(lake_of(raw), stage=STAGE)}
    row = {name: served.night[0][name] for name in ("day", "visit", "shop", "amount", "age")}
    # The ledger would get the counts after a minute: those of the killed are written for them.
    options = (served.parents, "serve.stall_s=3")
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serving(raw.config, tmp_path / f"log-{number}", *options))
            for number in range(3)
        ]
        folder = tmp_path / "nginx"
        folder.mkdir()
        port = stack.enter_context(balancing(servers, folder))
        clients = Clients(port, json.dumps({"dataframe_records": [row]}).encode())
        with clients.asking():
            until(lambda: clients.asked > 100)
            hurt(servers[0], clients, signal.SIGKILL)
            hurt(servers[1], clients, signal.SIGSTOP)
        assert clients.outcomes.keys() == {"200"}
        for server in servers:
            assert server.end() == 0
    rows = [row for row in read_ledger(lake_of(raw), stage=STAGE) if row["run"] not in others]
    check_sums(rows, clients.outcomes["200"])


def check_sums(rows: list[dict[str, Any]], answered: int) -> None:
    """Each replica's counts add up, also of the killed; nothing that was answered is missing."""
    total: Counter[str] = Counter()
    by_run: dict[str, Counter[str]] = {}
    for row in rows:
        by_run.setdefault(row["run"], Counter()).update(row["counts"])
    # Three servers, two replicas that were replaced.
    assert len(by_run) == 5
    for counts in by_run.values():
        assert counts[RECEIVED] == sum(counts[name] for name in OUTCOMES)
        assert counts["rows_scored"] == counts["answered"]
        total.update(counts)
    # What was answered just before its replica died, nginx may have asked of another as well.
    assert answered <= total["answered"] <= answered + 2 * _CLIENTS
    assert total["failed"] <= 2 * _CLIENTS
    assert total["refused"] == total["shed"] == 0
