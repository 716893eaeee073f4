"""Asks a server with other projects' own clients, in an environment that has none of our code.

    python -I serve_clients.py HTTP_PORT GRPC_PORT MODEL ROWS.json OUT.json

ROWS.json has a text, null or `{"base64": ...}` for each row by column. OUT.json gets by each client
the rows' scores (null of a refused one) and reasons, in the order of the rows.
"""

import base64
import io
import json
import pathlib
import sys
import time

import numpy as np
import pandas as pd
import tritonclient.grpc
import tritonclient.http
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

ROWS_A_REQUEST = 1000


def texts(module, part):
    """All columns as texts, bytes as they are; an empty one is null."""
    inputs = []
    for name, values in part.items():
        content = [v if isinstance(v, bytes) else (v or "").encode() for v in values]
        inputs.append(module.InferInput(name, [len(content)], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array(content, np.object_))
    return inputs


def typed(module, part):
    """Columns of the types that pandas finds in a CSV file."""
    inputs = []
    kinds = {"i": ("INT64", np.int64), "f": ("FP64", np.float64)}
    for name, values in frame(part).items():
        if values.dtype.kind in kinds:
            datatype, dtype = kinds[values.dtype.kind]
            array = values.to_numpy(dtype)
        else:
            datatype = "BYTES"
            found = [v if isinstance(v, bytes) else "" if pd.isna(v) else str(v) for v in values]
            array = np.array([v if isinstance(v, bytes) else v.encode() for v in found], np.object_)
        inputs.append(module.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def frame(part):
    """As pandas reads the rows from a CSV file; columns of bytes as they are."""
    plain = {name: v for name, v in part.items() if not any(isinstance(x, bytes) for x in v)}
    file = io.StringIO()
    pd.DataFrame(plain).to_csv(file, index=False, na_rep="NA")
    file.seek(0)
    found = pd.read_csv(file)
    return found.assign(**{name: v for name, v in part.items() if name not in plain})


def of_tensors(result):
    reasons = [json.loads(text) if text else [] for text in result.as_numpy("reasons").tolist()]
    scores = result.as_numpy("score").tolist()
    return [None if score != score else score for score in scores], reasons


def triton(module, port, model, make):
    client = module.InferenceServerClient(f"127.0.0.1:{port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
    metadata = client.get_model_metadata(model)
    names = metadata["inputs"] if isinstance(metadata, dict) else metadata.inputs
    assert len(names)
    return lambda part: of_tensors(client.infer(model, make(module, part)))


def mlflow(port):
    client = ScoringServerClient("127.0.0.1", port)
    client.wait_server_ready()
    assert client.get_version()

    def ask(part):
        found = client.invoke(frame(part).map(as_text)).get_predictions()
        scores = [None if pd.isna(score) else score for score in found["score"]]
        return scores, found["reasons"].tolist()

    return ask


def as_text(value):
    """Bytes as MLflow asks for them in JSON."""
    return base64.encodebytes(value).decode() if isinstance(value, bytes) else value


def main(http_port, grpc_port, model, rows, out):
    columns = json.loads(pathlib.Path(rows).read_text())
    for values in columns.values():
        values[:] = [base64.b64decode(v["base64"]) if isinstance(v, dict) else v for v in values]
    count = len(next(iter(columns.values())))
    parts = [
        {name: values[start : start + ROWS_A_REQUEST] for name, values in columns.items()}
        for start in range(0, count, ROWS_A_REQUEST)
    ]
    http, grpc = tritonclient.http, tritonclient.grpc
    clients = {
        "tritonclient http": triton(http, http_port, model, texts),
        "tritonclient http, typed": triton(http, http_port, model, typed),
        "tritonclient grpc": triton(grpc, grpc_port, model, texts),
        "tritonclient grpc, typed": triton(grpc, grpc_port, model, typed),
        "mlflow": mlflow(http_port),
    }
    found = {}
    for client, ask in clients.items():
        started = time.monotonic()
        answers = [ask(part) for part in parts]
        found[client] = {
            "scores": [score for scores, _ in answers for score in scores],
            "reasons": [why for _, reasons in answers for why in reasons],
            "seconds": time.monotonic() - started,
        }
    assert not {"jobs", "schemas"} & set(sys.modules)
    pathlib.Path(out).write_text(json.dumps(found))


main(*sys.argv[1:])
