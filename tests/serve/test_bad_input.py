"""Requests that are wrong: a sentence and 4xx, never a failure, and the server goes on."""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import time
from collections import Counter
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.serve.grpc_server import pb, pb_grpc
from jobs.serve.request.body import HEADER_LENGTH
from jobs.serve.request.tensors import DATATYPES
from tests.builders.servers import Server, serving
from tests.serve.conftest import Served

INFER, ENCODED = "/v2/models/visits/infer", "/v2/models/visits_encoded/infer"
GOOD = {"day": "2024-01-03", "visit": 1, "shop": "a", "amount": 2.0, "age": 30}


def tensor(name: str = "day", datatype: str = "BYTES", shape: Any = (1,), **rest: Any) -> Any:
    return {"name": name, "datatype": datatype, "shape": list(shape), **rest}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


ROW = [tensor(name, data=[str(value)]) for name, value in GOOD.items()]
ROW_OF_GRPC = {
    "model_name": "visits",
    "inputs": [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [1],
            "contents": {"bytes_contents": [str(value).encode()]},
        }
        for name, value in GOOD.items()
    ],
}
TREES: list[tuple[str, Any, str]] = [
    (INFER, [], "list of inputs"),
    (INFER, {"inputs": []}, "needs inputs"),
    (INFER, {"inputs": {}}, "list of inputs"),
    (INFER, {"inputs": [7]}, "name, datatype, shape and data"),
    (INFER, {"inputs": [tensor(data=["x"])]}, "columns are missing: age"),
    (INFER, {"inputs": [tensor(data=["x"]), tensor(data=["x"])]}, "stands twice"),
    (INFER, {"inputs": [tensor(data=["x", "y"])]}, "has 2 values"),
    (INFER, {"inputs": [tensor(data=["x"]), tensor("age", shape=[2], data=["1", "2"])]}, "rows"),
    (INFER, {"inputs": [tensor(shape=[0], data=[])]}, "no rows"),
    (INFER, {"inputs": [tensor(datatype="FP32", data=[1e60])]}, "columns are missing"),
    (INFER, {"inputs": [tensor(datatype={}, data=["x"])]}, "no such datatype"),
    (INFER, {"inputs": ROW, "outputs": [{"name": "none"}]}, "none of score, reasons"),
    (INFER, {"inputs": ROW, "outputs": [{"name": {}}]}, "none of score, reasons"),
    (INFER, {"inputs": ROW, "outputs": [7]}, "none of score, reasons"),
    (INFER, {"inputs": ROW, "id": "\ud800"}, "id"),
    (INFER, {"inputs": [tensor(datatype="INT64", data=[2**63])]}, "does not fit into INT64"),
    (INFER, {"inputs": [tensor(datatype="INT64", data=["7"])]}, "not all of its values"),
    (INFER, {"inputs": [tensor(datatype="BOOL", data=[2])]}, "not all of its values"),
    (INFER, {"inputs": [tensor(parameters={"binary_data_size": -1})]}, "number of bytes"),
    (INFER, {"inputs": [tensor(parameters={"binary_data_size": 9})]}, "fewer bytes"),
    (INFER, {"inputs": [tensor(shape=[5_000], data=["x"] * 5_000)]}, "at most 4096"),
    (ENCODED, {"inputs": [tensor("dense", "FP32", [1, 3], data=[0, 0, 0])]}, "missing: sparse"),
    (
        ENCODED,
        {
            "inputs": [
                tensor("dense", "FP32", [1, 2], data=[0, 0]),
                tensor("sparse", "INT64", [1, 2], data=[0, 0]),
            ]
        },
        "not FP32",
    ),
    (
        ENCODED,
        {
            "inputs": [
                tensor("dense", "FP32", [1, 3], data=[0, 0, 0]),
                tensor("sparse", "INT64", [1, 2], data=[0, 10**6]),
            ]
        },
        "no rows for",
    ),
    (
        ENCODED,
        {
            "inputs": [
                tensor("dense", "FP32", [1, 3], data=[0, 0, 0]),
                tensor("sparse", "INT64", [1, 2], data=[0, -1]),
            ]
        },
        "no rows for",
    ),
    (ENCODED, {"inputs": [tensor("image", "FP32", [1], data=[0])]}, "each once"),
    ("/invocations", {}, "dataframe_split"),
    ("/invocations", {"dataframe_records": []}, "dataframe_split"),
    ("/invocations", {"dataframe_records": [7]}, "dataframe_split"),
    ("/invocations", {"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "dataframe"),
    ("/invocations", {"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "dataframe_split"),
    ("/invocations", {"inputs": {"a": 7}}, "dataframe_split"),
    ("/invocations", {"inputs": {**{k: [v] for k, v in GOOD.items()}, "age": [1, 2]}}, "rows"),
    ("/invocations", {"dataframe_records": [without("shop")]}, "missing: shop"),
    ("/invocations", {"dataframe_records": [{**GOOD, "more": 1}]}, "'more'"),
    ("/invocations", {"dataframe_records": [{**GOOD, "age": {"deep": 1}}]}, "column 'age'"),
    ("/invocations", {"dataframe_records": [{**GOOD, "shop": "\ud800"}]}, "column 'shop'"),
    ("/invocations", {"dataframe_records": [{**GOOD, "shops.size": "huge"}]}, "shops.size"),
]


@pytest.mark.parametrize(("path", "tree", "why"), TREES)
def test_it_is_said_what_is_wrong(server: Server, path: str, tree: Any, why: str) -> None:
    status, _, content = server.ask("POST", path, json.dumps(tree).encode())
    found = json.loads(content)
    assert status in (400, 413), (status, found)
    assert why in found["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/others", 404),
        ("GET", "/v2/models/visits/versions/99", 404),
        ("POST", "/v2/models/others/infer", 400),
        ("POST", "/v2/models/..%2f..%2fetc/infer", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2", 405),
        ("GET", "/none", 404),
    ],
)
def test_paths_that_are_not_there(server: Server, method: str, path: str, status: int) -> None:
    found, _, content = server.ask(method, path, b"{}")
    assert found == status
    assert json.loads(content)["error"]


BODIES = [
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"inputs": NaN}',
    b'{"dataframe_records": [{"age": Infinity}]}',
    b'{"a": 1' * 1_000,
    b"0" * 10_000,
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("path", [INFER, "/invocations"])
def test_bodies_that_are_no_json(server: Server, path: str, body: bytes) -> None:
    status, _, content = server.ask("POST", path, body)
    assert status == 400
    assert json.loads(content)["error"]


@pytest.mark.parametrize("time", ["0", "-1", "x", "²", "9" * 400, "9" * 5_000])
def test_wrong_times_to_wait(server: Server, time: str) -> None:
    body = json.dumps({"dataframe_records": [GOOD]}).encode()
    header = {"X-Request-Timeout-Ms": time.encode().decode("latin1")}
    status, _, content = server.ask("POST", "/invocations", body, **header)
    assert status == 400 and "milliseconds" in json.loads(content)["error"]


@pytest.mark.parametrize("length", ["-1", "x", "9999999999", "9" * 5_000, "²", ""])
def test_wrong_lengths_of_the_json(server: Server, length: str) -> None:
    body = json.dumps({"inputs": []}).encode()
    header = {HEADER_LENGTH: length.encode().decode("latin1")}
    status, _, _ = server.ask("POST", INFER, body, **header)
    assert status == 400


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@given(st.dictionaries(st.sampled_from([*GOOD, "shops.size", "x"]), VALUES, max_size=3))
@settings(max_examples=150)
def test_any_values_are_answered_or_refused(server: Server, changes: dict[str, Any]) -> None:
    body = json.dumps({"dataframe_records": [GOOD, {**GOOD, **changes}, GOOD]}).encode()
    status, _, content = server.ask("POST", "/invocations", body)
    found = json.loads(content)
    assert status in (200, 400), found
    if status == 200:
        first, middle, last = found["predictions"]
        # Its neighbours have their scores.
        assert first["score"] == last["score"] is not None
        assert (middle["score"] is None) == bool(middle["reasons"])


def torn(chance: random.Random, content: bytes) -> bytes:
    """With some bytes changed, left out or put in."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 6))):
        place = chance.randrange(len(made))
        match chance.choice(("out", "in", "end", *["change"] * 9)):
            case "out":
                del made[place]
            case "in":
                made.insert(place, chance.randrange(256))
            case "end":
                del made[place:]
                made += chance.randbytes(chance.randint(1, 9))
            case _:
                made[place] = chance.randrange(256)
    return bytes(made)


@pytest.mark.parametrize("raw", [True, False])
def test_any_bytes_to_grpc_are_answered_or_refused(server: Server, raw: bool) -> None:
    chance = random.Random(3)
    good = pb.ModelInferRequest(model_name="visits", id="x")
    for name, value in GOOD.items():
        made = good.inputs.add(name=name, datatype="BYTES", shape=[1])
        if raw:
            good.raw_input_contents.append(struct.pack("<I", len(str(value))) + str(value).encode())
        else:
            made.contents.bytes_contents.append(str(value).encode())
    (replica,) = server.replicas()
    before = replica.memory_info().rss
    codes = Counter[str]()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(300):
            try:
                call(torn(chance, good.SerializeToString()), timeout=30)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
    print(codes, f"{(replica.memory_info().rss - before) >> 20} MiB more")
    assert set(codes) == {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
    assert replica.memory_info().rss - before < 64 << 20


@pytest.mark.parametrize("name", ["ModelMetadata", "ModelReady", "ServerMetadata", "ServerLive"])
def test_any_bytes_to_the_other_calls_are_answered_or_refused(server: Server, name: str) -> None:
    chance = random.Random(4)
    content = pb.ModelReadyRequest(name="visits", version="1").SerializeToString()
    codes = Counter[str]()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
        for _ in range(50):
            try:
                call(torn(chance, content), timeout=30)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
    assert set(codes) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


def test_wrong_tensors_to_grpc_are_refused_in_words(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        for change, code, why in (
            ({"model_name": "others"}, "NOT_FOUND", "no such model"),
            ({"model_name": "visits", "model_version": "77"}, "NOT_FOUND", "not live"),
            ({"model_name": "visits", "raw_input_contents": [b"", b""]}, "INVALID_ARGUMENT", "one"),
            ({"model_name": "visits"}, "INVALID_ARGUMENT", "needs inputs"),
            ({**ROW_OF_GRPC, "outputs": [{"name": "x"}]}, "INVALID_ARGUMENT", "none of score"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(pb.ModelInferRequest(**change), timeout=30)
            assert refused.value.code().name == code
            assert why in refused.value.details()


def encoded_of_grpc(datatype: str, ids: list[int], shape: list[int] | None = None) -> Any:
    field = "int64_contents" if datatype == "INT64" else "int_contents"
    dense = {"name": "dense", "datatype": "FP32", "shape": shape or [1, 3]}
    numbers = [] if shape else [1.0, 2.0, 3.0]
    sparse = {"name": "sparse", "datatype": datatype, "shape": [len(ids) // 2, 2]}
    return pb.ModelInferRequest(
        model_name="visits_encoded",
        inputs=[
            {**dense, "contents": {"fp32_contents": numbers}},
            {**sparse, "contents": {field: ids}},
        ],
    )


@pytest.mark.parametrize("ids", [[258, 1], [-255, 1], [1, 2**31 - 1]])
def test_numbers_to_grpc_are_of_their_datatype(server: Server, ids: list[int]) -> None:
    """And none is taken for another, that its last bits are."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        small, large = (
            stub.ModelInfer(encoded_of_grpc(kind, [2, 1]), timeout=30).outputs[0]
            for kind in ("INT8", "INT64")
        )
        assert small == large
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(encoded_of_grpc("INT8", ids), timeout=30)
    assert refused.value.code().name == "INVALID_ARGUMENT"
    assert "does not fit into INT8" in refused.value.details()


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [0, 2**63 - 1]])
def test_shapes_of_no_array_are_refused(server: Server, shape: list[int], raw: bool) -> None:
    request = encoded_of_grpc("INT64", [], shape)
    if raw:
        request.raw_input_contents.extend([b"", b""])
    target = f"127.0.0.1:{server.grpc_port}"
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as refused:
        pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    assert refused.value.code().name == "INVALID_ARGUMENT"
    parameters: Any = {"parameters": {"binary_data_size": 0}} if raw else {"data": []}
    tree = json.dumps({"inputs": [tensor("dense", "FP32", shape, **parameters)]}).encode()
    header = {HEADER_LENGTH: str(len(tree))} if raw else {}
    assert server.ask("POST", ENCODED, tree, **header)[0] == 400


@pytest.mark.parametrize("kind", sorted(DATATYPES))
def test_each_datatype_may_bring_a_raw_value(server: Server, kind: str) -> None:
    data = np.ones(1, DATATYPES[kind]).tobytes()
    size = {"binary_data_size": len(data)}
    inputs = [*ROW[:-1], tensor("age", kind, parameters=size)]
    tree = json.dumps({"inputs": inputs}).encode()
    header = {HEADER_LENGTH: str(len(tree))}
    status, _, content = server.ask("POST", INFER, tree + data, **header)
    assert status == 200, content


def test_many_names_in_many_records_make_no_columns(server: Server) -> None:
    """Of a short body as many columns as it has rows would be a thousand times as long."""
    (replica,) = server.replicas()
    before = replica.memory_info().rss
    for count, most in ((4_000, 400), (5_000, 413)):
        records = [{f"c{number}": 1} for number in range(count)]
        body = json.dumps({"dataframe_records": records}).encode()
        status, _, content = server.ask("POST", "/invocations", body)
        assert status == most and json.loads(content)["error"]
    status, _, _ = server.ask(
        "POST", "/invocations", json.dumps({"dataframe_records": [GOOD] * 4_097}).encode()
    )
    assert status == 413
    assert replica.memory_info().rss - before < 32 << 20


def test_large_and_slow_senders_are_cut(served: Served, tmp_path_factory: Any) -> None:
    log = tmp_path_factory.mktemp("limits") / "log"
    limits = ("serve.most_body_mb=1", "serve.body_timeout_s=0.5", served.parents)
    with serving(served.raw.config, log, *limits) as server:
        status, _, _ = server.ask("POST", "/invocations", b" " * (2 << 20))
        assert status == 413
        with socket.create_connection(("127.0.0.1", server.port), 30) as silent:
            assert silent.recv(1) == b""
        with socket.create_connection(("127.0.0.1", server.port), 30) as slow:
            slow.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert b" 408 " in slow.recv(100)
        with socket.create_connection(("127.0.0.1", server.port), 30) as second:
            second.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nGET /ping HTTP/1.1\r\nHost: ")
            said = b"".join(iter(lambda: second.recv(10_000), b""))
            assert said.count(b"HTTP/1.1 200 ") == 1
        with socket.create_connection(("127.0.0.1", server.port), 30) as long:
            long.sendall(b"GET /ping HTTP/1.1\r\nx: " + b"x" * (512 << 10))
            assert b" 400 " in long.recv(100)
        with socket.create_connection(("127.0.0.1", server.port), 30) as torn:
            torn.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
            assert b" 400 " in torn.recv(100)
        assert server.invoke([GOOD])[0]["score"] is not None


def test_after_all_that_it_stands(server: Server) -> None:
    """No growth, nothing failed, and the log has no input in it."""
    (replica,) = server.replicas()
    before = replica.memory_info().rss
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    started = time.monotonic()
    for number in range(300):
        body = BODIES[number % len(BODIES)]
        connection.request("POST", INFER, body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 400
    assert time.monotonic() - started < 60
    assert psutil.Process(replica.pid).memory_info().rss - before < 64 << 20
    page = server.ask("GET", "/metrics")[2].decode()
    failed = [line for line in page.splitlines() if 'outcome="failed"' in line]
    assert all(line.endswith(" 0.0") for line in failed), failed
    assert "Traceback" not in server.said
