"""Servers behind nginx with one retry: one killed, one frozen, a host away, and nothing is lost."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from jobs.lake.ledger import read_ledger
from jobs.serve.grpc_server import pb, pb_grpc
from jobs.serve.left import OUTCOMES, RECEIVED, STAGE
from tests.builders.lakes import lake_of
from tests.builders.processes import ROOT
from tests.builders.servers import Server, serving
from tests.serve.conftest import Served

CONFIG = ROOT / "deploy" / "nginx" / "millstream.conf"
# As docs/serve.md has it.
RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "inference.GRPCInferenceService"}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_DEADLINE_S = 90.0
_CLIENTS = 4


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def balancing(servers: list[Server], folder: Path) -> Iterator[tuple[int, int]]:
    """nginx with the configuration of deploy/ before the servers; its ports of HTTP and gRPC."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert program, "no nginx: run tools/install_nginx.sh (Debian's package nginx-light)"
    own = free_port(), free_port()
    addresses = {"8088": f"127.0.0.1:{own[0]}", "8089": f"127.0.0.1:{own[1]}"}
    for number, server in enumerate(servers):
        addresses[str(8091 + 2 * number)] = f"{server.host}:{server.port}"
        addresses[str(8092 + 2 * number)] = f"{server.host}:{server.grpc_port}"
    text = CONFIG.read_text(encoding="utf-8")
    given = re.compile(r"^ *server 127\.0\.0\.1:(\d+) .*\n", re.MULTILINE)
    text = given.sub(lambda m: m[0] if m[1] in addresses else "", text)
    text = re.sub(r"127\.0\.0\.1:(\d+)", lambda m: addresses[m[1]], text)
    config = folder / "nginx.conf"
    config.write_text(text, encoding="utf-8")
    with (folder / "log").open("w") as log:
        command = [program, "-p", str(folder), "-c", str(config), "-g", "daemon off;"]
        process = subprocess.Popen(command, stderr=log)
    try:
        until(lambda: is_ready(own[0]))
        yield own
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


class Clients:
    """Clients that ask one after the other, each waiting for its answer.

    Args:
        asks: what each of them does; it tells what came of it.
    """

    def __init__(self, asks: Sequence[Callable[[], str]]) -> None:
        self.outcomes: Counter[str] = Counter()
        self._asks = asks
        self._end, self._lock = threading.Event(), threading.Lock()

    @property
    def asked(self) -> int:
        with self._lock:
            return self.outcomes.total()

    def _ask_until_end(self, ask: Callable[[], str]) -> None:
        while not self._end.is_set():
            found = ask()
            with self._lock:
                self.outcomes[found] += 1

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask_until_end, args=(one,)) for one in self._asks]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in threads:
                thread.join()


def http_status(port: int, row: dict[str, str], authorization: str = "") -> str:
    """Of a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": authorization}
    body = json.dumps({"dataframe_records": [row]})
    try:
        connection.request("POST", "/invocations", body, headers)
        answer = connection.getresponse()
        return f"{answer.status}" + (answer.read().decode() if answer.status > 200 else "")
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()


def grpc_status(call: Callable[..., Any], row: dict[str, str]) -> str:
    inputs = [
        {"name": n, "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [v.encode()]}}
        for n, v in row.items()
    ]
    try:
        answer = call(pb.ModelInferRequest(model_name="visits", inputs=inputs), timeout=60)
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
    return "OK" if len(answer.outputs[0].contents.fp32_contents) == 1 else str(answer)


def hurt(server: Server, clients: Clients, name: signal.Signals) -> None:
    """Sends a signal to the server's replica, and returns when another answers in its place."""
    (replica,) = server.replicas()
    replica.send_signal(name)
    until(lambda: is_replaced(server, replica) and is_ready(server.port))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest(), wait_for_ready=True, timeout=60).ready
    before = clients.asked
    until(lambda: clients.asked > before + 50)


def is_replaced(server: Server, before: psutil.Process) -> bool:
    return [one.pid for one in server.replicas()] not in ([], [before.pid])


@pytest.mark.slow
def test_a_server_killed_one_frozen_and_one_ended_lose_no_request(
    served: Served, tmp_path: Path
) -> None:
    """Over HTTP and gRPC at once."""
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
        port, grpc_port = stack.enter_context(balancing(servers, folder))
        channel = stack.enter_context(
            grpc.insecure_channel(f"127.0.0.1:{grpc_port}", [("grpc.service_config", RETRIES)])
        )
        call = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        half = _CLIENTS // 2
        clients = Clients(
            [partial(http_status, port, row)] * half + [partial(grpc_status, call, row)] * half
        )
        with clients.asking():
            until(lambda: clients.asked > 100)
            hurt(servers[0], clients, signal.SIGKILL)
            hurt(servers[1], clients, signal.SIGSTOP)
            assert servers[2].end() == 0
            before = clients.asked
            until(lambda: clients.asked > before + 50)
        print(clients.outcomes)
        assert clients.outcomes.keys() == {"200", "OK"}
        for server in servers[:2]:
            assert server.end() == 0
    rows = [row for row in read_ledger(lake_of(raw), stage=STAGE) if row["run"] not in others]
    check_sums(rows, clients.outcomes.total())


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
    # What was under way in the killed, and what waited too long while others were away.
    assert total["failed"] + total["shed"] <= 2 * _CLIENTS
    assert total["refused"] == 0


@pytest.mark.slow
def test_of_two_hosts_one_that_is_gone_loses_no_request(served: Served, tmp_path: Path) -> None:
    """Two addresses with the same ports, as hosts have, which ask for a token; one is killed whole,
    and its connections are refused from then on."""
    row = {name: served.night[0][name] for name in ("day", "visit", "shop", "amount", "age")}
    token = "Bearer of-the-balancers-clients"
    options = (served.parents, "serve.token_env=SERVE_TOKENS")
    tokens = {"SERVE_TOKENS": token.split()[1]}

    def host(name: str, *ports: str) -> AbstractContextManager[Server]:
        asked = (*options, f"serve.host={name}", *ports)
        return serving(served.raw.config, tmp_path / name, *asked, environment=tokens)

    with ExitStack() as stack:
        near = stack.enter_context(host("127.0.0.1"))
        ports = f"serve.port={near.port}", f"serve.grpc_port={near.grpc_port}"
        far = stack.enter_context(host("127.0.0.2", *ports))
        folder = tmp_path / "nginx"
        folder.mkdir()
        port, grpc_port = stack.enter_context(balancing([near, far], folder))
        channel = stack.enter_context(
            grpc.insecure_channel(f"127.0.0.1:{grpc_port}", [("grpc.service_config", RETRIES)])
        )
        call = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        authorized = partial(call, metadata=[("authorization", token)])
        assert http_status(port, row).startswith("401")
        half = _CLIENTS // 2
        clients = Clients(
            [partial(http_status, port, row, token)] * half
            + [partial(grpc_status, authorized, row)] * half
        )
        with clients.asking():
            until(lambda: clients.asked > 100)
            for process in (far.process, *far.replicas()):
                process.send_signal(signal.SIGKILL)
            before = clients.asked
            # Longer than nginx leaves it alone.
            end = time.monotonic() + 7
            until(lambda: clients.asked > before + 50 and time.monotonic() > end)
        print(clients.outcomes)
        assert clients.outcomes.keys() == {"200", "OK"}
