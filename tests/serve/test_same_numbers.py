"""What the server says is what Spark's scoring says, by every protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from jobs.rows.base.names import REASONS
from jobs.serve.grpc_server import pb, pb_grpc
from jobs.serve.request.body import HEADER_LENGTH
from jobs.serve.request.tensors import NamedTensor, as_bytes, of_bytes
from tests.builders.lakes import example_rows, lake_of, quarantined
from tests.builders.models import scores_of
from tests.builders.servers import Server
from tests.serve.conftest import SECOND, Served

COLUMNS = ("day", "visit", "shop", "amount", "age")


@pytest.fixture(scope="module")
def expected(served: Served) -> dict[str, Any]:
    """By the key: Spark's score, or its reasons."""
    predictions = lake_of(served.raw).table("predictions").read_arrow().to_pylist()
    found: dict[str, Any] = {str(row["visit"]): row["score"] for row in predictions}
    for row in quarantined(served.raw, "score"):
        found[row["raw"].split(",")[1]] = row[REASONS]
    assert len(found) == len(served.night)
    return found


def check(
    served: Served, expected: dict[str, Any], scores: list[Any], reasons: list[list[str]]
) -> None:
    compared = refused = 0
    for row, score, why in zip(served.night, scores, reasons, strict=True):
        wanted = expected[row["visit"]]
        if isinstance(wanted, list):
            assert (score is None or np.isnan(score), why) == (True, wanted)
            refused += 1
        else:
            assert score == pytest.approx(wanted, abs=1e-6)
            assert why == []
            compared += 1
    assert (compared, refused) == (303, 3)


def test_invocations_in_each_form(served: Served, server: Server, expected: dict[str, Any]) -> None:
    rows = [{name: row[name] for name in COLUMNS} for row in served.night]
    split = {"columns": list(COLUMNS), "data": [list(row.values()) for row in rows]}
    by_column = {name: [row[name] for row in rows] for name in COLUMNS}
    for tree in ({"dataframe_records": rows}, {"dataframe_split": split}, {"inputs": by_column}):
        found = server.post("/invocations", tree)["predictions"]
        scores = [row["score"] for row in found]
        check(served, expected, scores, [row["reasons"] for row in found])
        assert {row["model_version"] for row in found} == {served.models[0]}


@pytest.mark.parametrize(("whole", "missing"), [(int, None), (float, math.nan)])
def test_numbers_are_judged_as_their_texts(
    served: Served,
    server: Server,
    expected: dict[str, Any],
    whole: Callable[[str], float],
    missing: float | None,
) -> None:
    """JSON's own numbers and nulls, and what pandas makes of integers of which some are missing."""

    def typed(name: str, text: str) -> Any:
        if text in ("NA", ""):
            return missing
        try:
            return {"visit": whole, "age": whole, "amount": float}.get(name, str)(text)
        except ValueError:
            return text

    rows = [{name: typed(name, row[name]) for name in COLUMNS} for row in served.night]
    found = server.invoke(rows)
    check(served, expected, [r["score"] for r in found], [r["reasons"] for r in found])


def test_whole_numbers_come_as_floating_tensors_too(
    served: Served, server: Server, expected: dict[str, Any]
) -> None:
    (row,) = [row for row in served.night if row["visit"] == "240103000"]
    values = {"visit": 2.40103e8, "age": float(row["age"]), "amount": float(row["amount"])}
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}
        for name, value in values.items()
    ]
    inputs += [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": [row[name]]}
        for name in ("day", "shop")
    ]
    outputs = server.post("/v2/models/visits/infer", {"inputs": inputs})["outputs"]
    by_name = {one["name"]: one["data"] for one in outputs}
    assert by_name == {"score": [pytest.approx(expected["240103000"], abs=1e-6)], "reasons": [""]}


def texts(served: Served) -> list[NamedTensor]:
    count = len(served.night)
    return [
        NamedTensor(name, "BYTES", (count,), [row[name].encode() for row in served.night])
        for name in COLUMNS
    ]


def test_tensors_as_json(served: Served, server: Server, expected: dict[str, Any]) -> None:
    inputs = [
        {
            "name": t.name,
            "datatype": t.datatype,
            "shape": list(t.shape),
            "data": [value.decode() for value in t.data],
        }
        for t in texts(served)
    ]
    path = f"/v2/models/visits/versions/{served.models[0]}/infer"
    found = server.post(path, {"id": "seven", "inputs": inputs})
    assert (found["id"], found["model_version"]) == ("seven", served.models[0])
    by_name = {one["name"]: one["data"] for one in found["outputs"]}
    why = [json.loads(text) if text else [] for text in by_name["reasons"]]
    check(served, expected, by_name["score"], why)


def test_binary_tensors(served: Served, server: Server, expected: dict[str, Any]) -> None:
    parts = [as_bytes(tensor) for tensor in texts(served)]
    inputs = [
        {
            "name": t.name,
            "datatype": t.datatype,
            "shape": list(t.shape),
            "parameters": {"binary_data_size": len(part)},
        }
        for t, part in zip(texts(served), parts, strict=True)
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ("score", "reasons")]
    tree = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    status, headers, content = server.ask(
        "POST",
        "/v2/models/visits/infer",
        b"".join([tree, *parts]),
        **{HEADER_LENGTH: str(len(tree))},
    )
    assert status == 200, content
    size = int({k.lower(): v for k, v in headers.items()}[HEADER_LENGTH.lower()])
    answer, rest = json.loads(content[:size]), memoryview(content)[size:]
    found = {}
    for one in answer["outputs"]:
        length = one["parameters"]["binary_data_size"]
        shape = tuple(one["shape"])
        found[one["name"]] = of_bytes(one["name"], one["datatype"], shape, rest[:length]).data
        rest = rest[length:]
    why = [json.loads(text) if text else [] for text in found["reasons"]]
    check(served, expected, list(found["score"]), why)


@pytest.mark.parametrize("raw", [True, False])
def test_grpc(served: Served, server: Server, expected: dict[str, Any], raw: bool) -> None:
    request = pb.ModelInferRequest(model_name="visits", id="eight")
    for tensor in texts(served):
        made = request.inputs.add(name=tensor.name, datatype="BYTES", shape=list(tensor.shape))
        if raw:
            request.raw_input_contents.append(as_bytes(tensor))
        else:
            made.contents.bytes_contents.extend(tensor.data)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name="visits")).ready
        assert not stub.ModelReady(pb.ModelReadyRequest(name="others")).ready
        kinds = stub.ModelMetadata(pb.ModelMetadataRequest(name="visits"))
        found = stub.ModelInfer(request, timeout=30)
    assert [one.name for one in kinds.inputs] == list(COLUMNS)
    assert (found.id, found.model_version) == ("eight", served.models[0])
    assert found.parameters["weights_digest"].string_param
    if raw:
        scores = np.frombuffer(found.raw_output_contents[0], np.float32).tolist()
        kept = memoryview(found.raw_output_contents[1])
        why = of_bytes("reasons", "BYTES", (len(scores),), kept).data
    else:
        scores = list(found.outputs[0].contents.fp32_contents)
        why = list(found.outputs[1].contents.bytes_contents)
    check(served, expected, scores, [json.loads(text) if text else [] for text in why])


def test_parents_may_come_with_the_rows(
    served: Served, server: Server, expected: dict[str, Any]
) -> None:
    lines = (served.raw.folder / "shops.csv").read_text().splitlines()
    shops = dict(line.split(",") for line in lines[1:])
    assert shops
    rows = [
        {
            **{name: row[name] for name in COLUMNS},
            "shops.shop": row["shop"] if row["shop"] in shops else None,
            "shops.size": shops.get(row["shop"]),
        }
        for row in served.night
    ]
    found = server.invoke(rows)
    check(served, expected, [r["score"] for r in found], [r["reasons"] for r in found])


def test_encoded_rows(served: Served, server: Server) -> None:
    rows = example_rows(served.raw, SECOND).head(100)
    wanted = scores_of(served.settings, served.models[0], rows)
    kinds = {one["name"]: one for one in server.get("/v2/models/visits_encoded")["inputs"]}
    dataset = served.settings.dataset()
    dense = rows[[f.name for f in dataset.numeric]].to_numpy(np.float32)
    sparse = rows[[f.name for f in dataset.categorical]].to_numpy(np.int64)
    assert kinds["dense"]["shape"] == [-1, dense.shape[1]]
    inputs = [
        {
            "name": "dense",
            "datatype": "FP32",
            "shape": list(dense.shape),
            "data": [None if np.isnan(v) else v for v in dense.reshape(-1).tolist()],
        },
        {
            "name": "sparse",
            "datatype": "INT64",
            "shape": list(sparse.shape),
            "data": sparse.reshape(-1).tolist(),
        },
    ]
    found = server.post("/v2/models/visits_encoded/infer", {"inputs": inputs})
    assert found["outputs"][0]["data"] == pytest.approx(wanted.tolist(), abs=1e-6)


def test_a_score_does_not_depend_on_its_batch_mates(served: Served, server: Server) -> None:
    """Bit for bit: alone, among others, and in another order."""
    rows = [{name: row[name] for name in COLUMNS} for row in served.night]
    together = [row["score"] for row in server.invoke(rows)]
    backwards = [row["score"] for row in server.invoke(rows[::-1])]
    assert backwards[::-1] == together
    for place in (0, 7, 63, 64, 200, 301):
        (alone,) = server.invoke(rows[place : place + 1])
        assert alone["score"] == together[place]
