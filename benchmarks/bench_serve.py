"""Serving: requests at rising rates to `millstream serve`, beside MLServer and a bare FastAPI.

    python -m benchmarks.bench_serve [--rows 200000] [--seconds 5] [--mlserver PYTHON]

A DLRM on click logs, made by this checkout's commands and promoted; MLServer and FastAPI run its
ONNX export, the server here both engines. Then a declaration that `init` writes, on raw rows.
Arrivals are Poisson and open-loop: a latency is counted from the moment when the request was due,
whether or not it could be sent then. The rate doubles until p99 is over 20 ms or the server cannot
keep up, and the limit is then halved in; the table has the highest rate that was kept, at the first
or second try. Tensors are JSON, which all take, and binary, which Triton's client sends unasked and
MLServer's HTTP does not take. The generator is a process beside the server, so on few cores both
are slower than alone, all servers alike.

`--mlserver` is a Python with MLServer, which does not install beside our packages:
`python -m venv V && V/bin/pip install mlserver==1.7.1 onnxruntime`. Without it that row lacks.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
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

from benchmarks.bench_score import CLICK_LOGS, INIT_MADE, LATER, Case, Line
from benchmarks.common import machine, print_figures, print_table
from benchmarks.etl_cases import REPOSITORY, Code
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

P99_MS, KEPT = 20.0, 0.95
# A rate that was not kept is followed by so many between it and the highest that was.
RISE, FIRST_RATE, HALVINGS = 2.0, 400.0, 3
RAW_P99_MS, RAW_RATE = 50.0, 100.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="of each raw day")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each rate")
    parser.add_argument(
        "--work", type=Path, help="its champions are taken, or made; a temporary one when absent"
    )
    parser.add_argument("--mlserver", help="a Python that has MLServer and ONNX Runtime")
    asked = parser.parse_args()
    work = (asked.work or Path(tempfile.mkdtemp(prefix="bench-serve-"))).resolve()
    try:
        _measure(asked, work)
    finally:
        if asked.work is None:
            shutil.rmtree(work)


def _measure(asked: argparse.Namespace, work: Path) -> None:
    print(f"{machine('torch', 'onnxruntime', 'duckdb')}, load {os.getloadavg()[0]:.1f}\n")
    clicks, flights = (_champion(case, asked.rows, work) for case in (CLICK_LOGS, INIT_MADE))
    found: dict[str, Any] = {}
    rows = []
    for count in (1, 64):
        for name, server, body in _servers(clicks, asked.mlserver, count):
            with server as served:
                best = _rising(served, served.path, body, asked.seconds)
            found[f"{name} {count}"] = best.json()
            rows.append((name, count, *best.cells()))
    _print("Encoded rows of click logs, DLRM", rows)
    for engine, limit in clicks.loops_rows_per_s().items():
        print(
            f"The forward loop over tensors in memory, {engine}, one thread: {limit:,.0f} rows/s.\n"
        )
        found[f"loop {engine} rows/s"] = round(limit)
    rows = []
    with flights.serving("torch") as served:
        for count, rate in ((1, RAW_RATE), (64, 0.0)):
            body = flights.raw(count)
            path = "/invocations"
            best = (
                _at(served, path, body, rate, 3 * asked.seconds)
                if rate
                else _rising(served, path, body, asked.seconds, RAW_P99_MS)
            )
            name = f"{rate:.0f} requests/s" if rate else "rising"
            found[f"raw {count}"] = best.json()
            rows.append((name, count, *best.cells()))
    _print("Raw rows of flights, what `init` proposes, /invocations", rows)
    print_figures(found)


def _print(title: str, rows: Sequence[Sequence[object]]) -> None:
    print(f"{title}\n")
    heads = ("", "rows a request", "requests/s", "rows/s", "p50, ms", "p99, ms", "CPU us a row")
    print_table(heads, [tuple(map(str, row)) for row in rows])
    print(flush=True)


# The servers


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


def _champion(case: Case, rows: int, work: Path) -> Champion:
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


def _servers(clicks: Champion, mlserver: str | None, count: int) -> list[tuple[str, Any, Body]]:
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


# The load


@dataclass(frozen=True)
class Result:
    """A rate that was offered, and what came of it.

    Attributes:
        load_cores: that the generator kept busy; near 1 it is what was measured.
    """

    requests_per_s: float
    rows_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_row: float
    failed: int
    kept: bool
    load_cores: float

    def within(self, p99_ms: float) -> bool:
        """Whether the server kept up, without failures, and soon enough."""
        return self.kept and self.p99_ms <= p99_ms and not self.failed

    def cells(self) -> tuple[str, ...]:
        times = (f"{self.p50_ms:.1f}", f"{self.p99_ms:.1f}", f"{self.cpu_us_per_row:,.1f}")
        return (f"{self.requests_per_s:,.0f}", f"{self.rows_per_s:,.0f}", *times)

    def json(self) -> dict[str, float]:
        return {
            "rows_per_s": round(self.rows_per_s),
            "p50_ms": round(self.p50_ms, 2),
            "p99_ms": round(self.p99_ms, 2),
            "cpu_us_per_row": round(self.cpu_us_per_row, 1),
            "load_cores": round(self.load_cores, 2),
            "failed": self.failed,
        }


def _rising(
    served: Served, path: str, body: Body, seconds: float, p99_ms: float = P99_MS
) -> Result:
    """The highest rate that was kept with p99 within the bound; 1 a second where none was."""
    _at(served, path, body, FIRST_RATE, 1.0)
    rate, kept, too_high, halvings = FIRST_RATE, 0.0, math.inf, 0
    while True:
        found = _at(served, path, body, rate, seconds)
        if not found.within(p99_ms):
            # Once more, as a moment of the machine's other work is not the server's limit.
            found = _at(served, path, body, rate, seconds)
        if found.within(p99_ms):
            best, kept = found, rate
        else:
            too_high = rate
        if kept and halvings == HALVINGS:
            return best
        if math.isinf(too_high):
            rate *= RISE
        elif kept:
            rate, halvings = (kept + too_high) / 2, halvings + 1
        elif rate <= 1:
            return found
        else:
            rate = max(1.0, rate / RISE)


def _at(served: Served, path: str, body: Body, rate: float, seconds: float) -> Result:
    """Offers one rate, by a process of its own."""
    headers = {"Content-Type": "application/json", **body.headers}
    order = {
        "port": served.port,
        "path": path,
        "headers": headers,
        "rate": rate,
        "seconds": seconds,
    }
    before = served.cpu_s()
    command = [sys.executable, "-m", "benchmarks.serve_load", json.dumps(order)]
    done = subprocess.run(
        command, input=body.content, stdout=subprocess.PIPE, check=True, cwd=REPOSITORY
    )
    cpu_s, found = served.cpu_s() - before, json.loads(done.stdout)
    latencies = np.array(found["latencies_ms"] or [np.inf])
    answered = len(found["latencies_ms"])
    achieved = answered / max(found["seconds"], seconds)
    return Result(
        achieved,
        achieved * body.rows,
        float(np.percentile(latencies, 50)),
        float(np.percentile(latencies, 99)),
        1e6 * cpu_s / max(1, answered * body.rows),
        found["failed"],
        achieved >= KEPT * found["due"] / seconds,
        found["cores"],
    )


if __name__ == "__main__":
    main()
