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
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, print_figures, print_table
from benchmarks.etl_cases import REPOSITORY
from benchmarks.score_line import CLICK_LOGS, INIT_MADE
from benchmarks.serve_servers import Body, Served, champion, servers

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
    clicks, flights = (champion(case, asked.rows, work) for case in (CLICK_LOGS, INIT_MADE))
    found: dict[str, Any] = {}
    rows = []
    for count in (1, 64):
        for name, server, body in servers(clicks, asked.mlserver, count):
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
    done = subprocess.run(command, input=body.content, stdout=subprocess.PIPE, cwd=REPOSITORY)
    if not done.stdout.strip():
        raise SystemExit("the load ended with no figures; see its errors above")
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
