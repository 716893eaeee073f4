"""A request has one answer, however its bytes come: short ones go past the application."""

from __future__ import annotations

import json
import socket

import pytest

from tests.builders.servers import Server

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
        found = []
        while len(found) < count:
            status, size = int(file.readline().split()[1]), 0
            while (line := file.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            if status != 100:
                found.append((status, file.read(size)))
        return found


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
