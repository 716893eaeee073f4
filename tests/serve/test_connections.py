"""A request has one answer, however its bytes come: short ones go past the application."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from tests.builders.servers import Server, serving
from tests.serve.conftest import Served

PATH = "/v2/models/visits_encoded/infer"


def body(*numbers: float) -> bytes:
    inputs = [
        {"name": "dense", "datatype": "FP32", "shape": [1, 3], "data": numbers},
        {"name": "sparse", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]},
    ]
    return json.dumps({"inputs": inputs, "id": str(numbers[0])}).encode()


def post(content: bytes, *headers: str, path: str = PATH) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def chunked(content: bytes) -> bytes:
    parts = [content[:50], content[50:], b""]
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def answers(server: Server, *parts: bytes, count: int) -> list[tuple[int, bytes]]:
    """Status and content of the answers to what is sent over one connection."""
    with socket.create_connection((server.host, server.port), 30) as connection:
        for part in parts:
            connection.sendall(part)
        file = connection.makefile("rb")
        return [answer(file) for _ in range(count)]


def answer(file: BinaryIO) -> tuple[int, bytes]:
    """Status and content of the next answer."""
    status = 100
    while status == 100:
        status, size = int(file.readline().split()[1]), 0
        while (line := file.readline().strip().lower()) != b"":
            if line.startswith(b"content-length:"):
                size = int(line.split(b":")[1])
    return status, file.read(size)


@pytest.fixture(scope="module")
def alone(server: Server) -> tuple[int, bytes]:
    (found,) = answers(server, post(body(1.0, 2.0, 3.0)), count=1)
    assert found[0] == 200
    return found


@pytest.mark.parametrize(
    "sent",
    [
        chunked(body(1.0, 2.0, 3.0)),
        post(body(1.0, 2.0, 3.0), "Expect: 100-continue"),
        post(body(1.0, 2.0, 3.0), "Connection: close"),
        post(body(1.0, 2.0, 3.0), path=f"{PATH}?x=1"),
        post(body(1.0, 2.0, 3.0), path=PATH.replace("visits", "%76isits")),
    ],
)
def test_each_way_has_the_same_answer(
    server: Server, alone: tuple[int, bytes], sent: bytes
) -> None:
    assert answers(server, sent, count=1) == [alone]
    assert answers(server, *(sent[n : n + 40] for n in range(0, len(sent), 40)), count=1) == [alone]


def test_requests_one_behind_the_other_are_answered_in_order(server: Server) -> None:
    numbers = [float(n) for n in range(1, 9)]
    ways = [chunked if n % 3 == 0 else post for n in range(len(numbers))]
    sent = [way(body(number, 2.0, 3.0)) for way, number in zip(ways, numbers, strict=True)]
    found = answers(server, b"".join([*sent, post(b"[]")]), count=9)
    assert [status for status, _ in found] == [200] * 8 + [400]
    assert [json.loads(content)["id"] for _, content in found[:8]] == list(map(str, numbers))


def test_a_connection_serves_one_request_after_the_other(
    server: Server, alone: tuple[int, bytes]
) -> None:
    sent = [post(body(1.0, 2.0, 3.0)), post(b"{"), b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"] * 2
    with socket.create_connection((server.host, server.port), 30) as connection:
        file = connection.makefile("rb")
        statuses = []
        for part in sent:
            connection.sendall(part)
            statuses.append(int(file.readline().split()[1]))
            sizes = [line for line in iter(file.readline, b"\r\n") if b"ength: " in line]
            file.read(int(sizes[-1].split()[1]))
    assert statuses == [200, 400, 200] * 2


def test_who_asks_to_close_is_closed(server: Server) -> None:
    with socket.create_connection((server.host, server.port), 30) as connection:
        connection.sendall(post(body(1.0, 2.0, 3.0), "Connection: close"))
        said = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert said.startswith(b"HTTP/1.1 200 ") and b"\r\nconnection: close\r\n" in said


def test_who_goes_away_before_the_answer_takes_nothing_along(server: Server) -> None:
    for _ in range(20):
        with socket.create_connection((server.host, server.port), 30) as connection:
            connection.sendall(post(body(1.0, 2.0, 3.0)))
    (found,) = answers(server, post(body(1.0, 2.0, 3.0)), count=1)
    assert found[0] == 200
    page = server.ask("GET", "/metrics")[2].decode()
    lines = [line for line in page.splitlines() if line.startswith("millstream_serve_requests")]
    assert not any('outcome="failed"' in line for line in lines)


ENDLESS = [
    b"x-a: " + b"y" * 8_000 + b"\r\n",
    b"y" * 8_000,
    b"a:\r\n" * 2_000,
]


@pytest.mark.parametrize("line", ENDLESS)
@pytest.mark.parametrize("before", ["", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"])
def test_headers_and_trailers_that_never_end_are_cut(
    server: Server, line: bytes, before: str
) -> None:
    (replica,) = server.replicas()
    used = replica.memory_info().rss
    with socket.create_connection((server.host, server.port), 30) as connection:
        connection.sendall(f"POST /invocations HTTP/1.1\r\nHost: x\r\n{before}".encode())
        sent = 0
        with suppress(OSError):
            while sent < 64 << 20:
                connection.sendall(line * 10)
                sent += 10 * len(line)
    assert sent < 64 << 20
    assert replica.memory_info().rss - used < 32 << 20


def test_trailers_are_taken(server: Server, alone: tuple[int, bytes]) -> None:
    sent = chunked(body(1.0, 2.0, 3.0)).removesuffix(b"\r\n") + b"x-a: y\r\n\r\n"
    assert answers(server, sent, count=1) == [alone]


def test_a_head_behind_a_long_body_is_no_long_head(server: Server) -> None:
    (replica,) = server.replicas()
    long = post(body(1.0, 2.0, 3.0) + b" " * 60_000)
    short = post(body(2.0, 2.0, 3.0), "X-Long: " + "x" * 10_000)
    with socket.create_connection((server.host, server.port), 30) as connection:
        file = connection.makefile("rb")
        # So that it reads all of this at once.
        replica.suspend()
        connection.sendall(long + short[:30])
        replica.resume()
        assert answer(file)[0] == 200
        connection.sendall(short[30:8_000])
        connection.sendall(short[8_000:])
        status, content = answer(file)
    assert status == 200 and json.loads(content)["id"] == "2.0"


def test_what_is_no_http_is_refused_in_words(server: Server) -> None:
    ((status, content),) = answers(server, b"NONSENSE\r\n\r\n", count=1)
    assert status == 400 and json.loads(content)["error"]


def test_what_is_wrong_takes_no_answer_of_those_before_it(
    server: Server, alone: tuple[int, bytes]
) -> None:
    for way in (post, chunked):
        sent = way(body(1.0, 2.0, 3.0)) + b"NONSENSE\r\n\r\n"
        with socket.create_connection((server.host, server.port), 30) as connection:
            connection.sendall(sent)
            said = b"".join(iter(lambda: connection.recv(10_000), b""))
        assert said.startswith(b"HTTP/1.1 200 ") and alone[1] in said and said.count(b"HTTP") == 1


@pytest.fixture(scope="module")
def narrow(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves two connections at a time, and is not patient."""
    log: Path = tmp_path_factory.mktemp("narrow") / "log"
    limits = ("serve.most_connections=2", "serve.body_timeout_s=2")
    with serving(served.raw.config, log, *limits) as found:
        yield found


def test_one_connection_too_many_is_shed_and_counted(narrow: Server) -> None:
    first = http.client.HTTPConnection(narrow.host, narrow.port, timeout=30)
    second = http.client.HTTPConnection(narrow.host, narrow.port, timeout=30)
    for connection in (first, second):
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read() == b'{"live":true}'
    status, headers, content = narrow.ask("POST", PATH, body(1.0, 2.0, 3.0))
    assert status == 503 and "too many connections" in json.loads(content)["error"]
    assert headers["retry-after"] and headers["connection"] == "close"
    # A server that is too busy is alive, and says how busy.
    assert narrow.get("/v2/health/live") == {"live": True}
    page = narrow.ask("GET", "/metrics")[2].decode()
    assert 'requests_total{outcome="received",version="1"} 1.0' in page
    assert 'requests_total{outcome="shed",version="1"} 1.0' in page
    # Those that are open go on.
    first.request("POST", PATH, body(1.0, 2.0, 3.0))
    assert first.getresponse().status == 200
    first.close()
    second.close()


def test_who_reads_no_answers_is_cut_off(narrow: Server) -> None:
    (replica,) = narrow.replicas()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect((narrow.host, narrow.port))
        own = connection.getsockname()[1]
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000)
        end = time.monotonic() + 60
        while own in peers(replica):
            assert time.monotonic() < end
            time.sleep(0.05)


def peers(replica: psutil.Process) -> set[int]:
    """Ports of those who are connected to it."""
    return {found.raddr.port for found in replica.net_connections("tcp") if found.raddr}
