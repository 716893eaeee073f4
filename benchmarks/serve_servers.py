"""The servers that `bench_serve` compares, and what they are asked."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.etl_cases import REPOSITORY, Code
from benchmarks.score_line import LATER, Case, Line
from benchmarks.serve_peers import FASTAPI, MLSERVER_MODEL, MLSERVER_SETTINGS
from jobs.batch.batch import Batch
from jobs.evaluate.predict.exported import batch_of, inputs_of, scorer, session
from jobs.evaluate.predict.predict import Predictor, forward_of
from jobs.lake.lake import Lake
from jobs.lake.ledger import new_run_id
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion
from jobs.serve.request.body import HEADER_LENGTH
from jobs.serve.request.tensors import NamedTensor, as_bytes, as_json
from jobs.settings.load import load_settings


@dataclass(frozen=True)
class Body:
    """What a request of `rows` rows brings."""

    rows: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Served:
    """A running server: its port, the path that is asked, and its process."""

    port: int
    path: str
    process: psutil.Process

    def cpu_s(self) -> float:
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in family)


@dataclass(frozen=True)
class Champion:
    """A line with a promoted model."""

    line: Line
    version: ModelVersion

    def encoded(self, count: int, binary: bool = False) -> Body:
        """A request of encoded rows."""
        arrays = self.inputs(count)
        tensors = [
            NamedTensor(name, "FP32" if array.dtype == np.float32 else "INT64", array.shape, array)
            for name, array in arrays.items()
        ]
        if not binary:
            content = json.dumps({"inputs": [as_json(one) for one in tensors]}).encode()
            return Body(count, content)
        parts = [as_bytes(one) for one in tensors]
        inputs = [
            {
                "name": one.name,
                "datatype": one.datatype,
                "shape": one.shape,
                "parameters": {"binary_data_size": len(part)},
            }
            for one, part in zip(tensors, parts, strict=True)
        ]
        outputs = {"parameters": {"binary_data_output": True}}
        head = json.dumps({"inputs": inputs, **outputs}).encode()
        return Body(count, b"".join([head, *parts]), {HEADER_LENGTH: str(len(head))})

    def inputs(self, count: int) -> dict[str, np.ndarray]:
        """Encoded rows: `dense` float32 [count, D] and `sparse` int64 [count, C]."""
        spec = self._loaded().spec
        draw = np.random.default_rng(7)
        dense = draw.normal(size=(count, spec.num_dense)).round(6).astype(np.float32)
        limits = np.array(spec.table_rows)
        sparse = (1 + draw.random((count, len(limits))) * (limits - 1)).astype(np.int64)
        return {"dense": dense, "sparse": sparse}

    def raw(self, count: int) -> Body:
        """A request of raw rows, texts by column."""
        with (self.line.raw / f"{LATER[0]}.csv").open(newline="") as file:
            lines = list(islice(csv.DictReader(file), 100, 100 + count))
        dataset = self.line.settings().dataset()
        names = [c.name for c in dataset.row_source.columns if not c.of_label]
        texts = [{name: line[name] for name in names} for line in lines]
        return Body(count, json.dumps({"dataframe_records": texts}).encode())

    def _loaded(self) -> Any:
        return Predictor.of(self.version, self.line.settings().dataset(), 64).model

    def loops_rows_per_s(self) -> dict[str, float]:
        """Of the plain forward by each engine, 64 rows at a time, in one thread."""
        torch.set_num_threads(1)
        exported = scorer(session(str(self.export() / "model.onnx"), 1))
        forwards: dict[str, Callable[[Batch], Any]] = {
            "torch": forward_of(Predictor.of(self.version, self.line.settings().dataset(), 64), 1),
            "ONNX Runtime": lambda batch: exported(inputs_of(batch)),
        }
        batch = batch_of({name: torch.from_numpy(a) for name, a in self.inputs(64).items()})
        return {engine: _loop(forward, batch) for engine, forward in forwards.items()}

    @contextmanager
    def serving(self, engine: str) -> Iterator[Served]:
        port, dataset = _free_port(), self.line.case.dataset
        overrides = [*self.line.overrides, f"serve.port={port}", "serve.grpc_port=null"]
        overrides.append(f"serve.engine={engine}")
        options = [part for one in overrides for part in ("--set", one)]
        command = [sys.executable, "-m", "jobs.main", "serve", "--config", self.line.config]
        with _process([*command, *options], REPOSITORY, port, "/v2/health/ready") as process:
            yield Served(port, f"/v2/models/{dataset}_encoded/infer", process)

    def export(self) -> Path:
        """The folder with `model.onnx`."""
        folder = self.line.folder / "onnx"
        if not folder.exists():
            self.line.run("export", "--model", self.version.version, "--to", str(folder))
        return folder


def _loop(forward: Callable[[Batch], Any], batch: Batch) -> float:
    """Rows a second of a forward that is called again and again."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 3:
        forward(batch)
        count += len(batch)
    return count / (time.perf_counter() - started)


def champion(case: Case, rows: int, work: Path) -> Champion:
    line = Line(case, Code.at("this checkout", REPOSITORY), case.made(work, rows), work)
    made = line.lake.exists()
    if not made:
        line.train()
        for engine in ("torch", "onnx"):
            line.run("evaluate", "--set", f"serve.engine={engine}")
    settings = load_settings(line.config, line.overrides)
    registry = Registry(settings, Lake(settings.lake_url, case.dataset))
    if not made:
        registry.promote("latest", new_run_id("promote"))
    return Champion(line, registry.resolve("champion"))


def servers(clicks: Champion, mlserver: str | None, count: int) -> list[tuple[str, Any, Body]]:
    """What is compared: a name, the server, and what it is asked."""
    text, binary = clicks.encoded(count), clicks.encoded(count, binary=True)
    found = [
        ("Millstream, torch, binary", clicks.serving("torch"), binary),
        ("Millstream, ONNX Runtime, binary", clicks.serving("onnx"), binary),
        ("Millstream, ONNX Runtime, JSON", clicks.serving("onnx"), text),
        ("FastAPI, ONNX Runtime, JSON", _fastapi(clicks), text),
    ]
    if mlserver:
        found.append(("MLServer, ONNX Runtime, JSON", _mlserver(clicks, mlserver), text))
    return found


@contextmanager
def _fastapi(clicks: Champion) -> Iterator[Served]:
    port, folder = _free_port(), clicks.export()
    (folder / "app.py").write_text(FASTAPI, encoding="utf-8")
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--no-access-log"]
    with _process(command, folder, port, "/ready") as process:
        yield Served(port, "/infer", process)


@contextmanager
def _mlserver(clicks: Champion, python: str) -> Iterator[Served]:
    port, folder = _free_port(), clicks.export()
    settings = {
        **MLSERVER_SETTINGS,
        "http_port": port,
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "runtime.py").write_text(MLSERVER_MODEL, encoding="utf-8")
    model = {"name": "clicks", "implementation": "runtime.Onnx"}
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    command = [python, "-c", "from mlserver.cli.main import main; main()", "start", "."]
    with _process(command, folder, port, "/v2/models/clicks/ready") as process:
        yield Served(port, "/v2/models/clicks/infer", process)


@contextmanager
def _process(
    command: Sequence[str], folder: Path, port: int, ready: str
) -> Iterator[psutil.Process]:
    """A server from the moment when it is ready to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    with Path(os.devnull).open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            _until_ready(process, f"http://127.0.0.1:{port}{ready}")
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{url} does not answer")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
