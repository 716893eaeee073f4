"""The stream beside Arrow's decode and other loaders; planning, memory and mixing.

    python -m benchmarks.bench_stream [--rows 8388608] [--repeats 3] [--data data/bench]

All readers read the same 40 columns of the same files in one process, in turn, whole epochs; each
figure is that of the best repeat after one for warming up. Only peers that would take minutes are
stopped, after --seconds. Ends with 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import machine, measured, print_figures, print_table

_LINE_ROWS, _LINE_GROUPS = 10**12, 15_300_000
_MEMORY_MB = 1_536
_EPOCHS = 5
_MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8_388_608)
    parser.add_argument("--group-rows", type=int, default=65_536, help="rows a row group")
    parser.add_argument("--shards", type=int, default=5_000, help="small ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="longest repeat of slow peers")
    parser.add_argument("--data", type=Path, default=Path("data/bench"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    parts = {"speed": _speed, "small": _small, "simulated": _simulated, "memory": _memory}
    if arguments.part:
        print(json.dumps(parts[arguments.part](arguments)))
        return
    _prepare(arguments)
    print(f"{machine('torch', 'pyarrow', 'petastorm', 'numpy')}\n")
    figures: dict[str, Any] = {"speed": _in_process("speed")}
    _print_speed(figures["speed"])
    figures |= {name: _in_process(name) for name in ("small", "simulated")}
    _print_planning(figures)
    figures["memory"] = _in_process("memory")
    _print_memory(figures["memory"])
    figures["mixing"] = _mixing(arguments)
    broken = [name for name, holds in _bounds(figures).items() if not holds]
    figures["broken_bounds"] = broken
    print_figures(figures)
    sys.exit(f"broken: {'; '.join(broken)}" if broken else 0)


def _in_process(part: str) -> dict[str, Any]:
    """A part in a process of its own, so that none finds another's memory."""
    command = [sys.executable, "-m", "benchmarks.bench_stream", *sys.argv[1:], "--part", part]
    found: dict[str, Any] = json.loads(measured(command).output.splitlines()[-1])
    return found


def _prepare(arguments: argparse.Namespace) -> None:
    from benchmarks import stream_data

    stream_data.wide(_wide(arguments), arguments.rows, arguments.group_rows)
    stream_data.small_shards(_small_shards(arguments), arguments.shards, 200)


def _wide(arguments: argparse.Namespace) -> Path:
    return Path(arguments.data).resolve() / f"wide-{arguments.rows}-{arguments.group_rows}"


def _small_shards(arguments: argparse.Namespace) -> Path:
    return Path(arguments.data).resolve() / f"small-{arguments.shards}"


# Speed


def _speed(arguments: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import stream_data, stream_readers

    examples = stream_data.wide(_wide(arguments), arguments.rows, arguments.group_rows)
    readers = stream_readers.readers(examples, arguments.threads)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for repeat in range(arguments.repeats + 1):
        for name, read in readers.items():
            cpu, began = _cpu_s(), time.monotonic()
            rows = read(repeat, arguments.seconds)
            run = (rows / (time.monotonic() - began), (_cpu_s() - cpu) / rows * 1e9)
            if repeat:
                runs[name].append(run)
    return {
        "rows": arguments.rows,
        "group_rows": arguments.group_rows,
        "rows_s": {name: max(speed for speed, _ in of) for name, of in runs.items()},
        "cpu_ns_row": {name: min(cpu for _, cpu in of) for name, of in runs.items()},
        "not_installed": stream_readers.absent(),
    }


def _cpu_s() -> float:
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def _print_speed(found: dict[str, Any]) -> None:
    layout = f"zstd, row groups of {found['group_rows']:,} rows"
    print(f"Reading {found['rows']:,} rows of 40 columns ({layout})\n")
    best = _of_arrow(found["rows_s"])
    print_table(
        ["reader", "rows/s", "of Arrow", "CPU ns a row"],
        [
            [name, f"{speed:,.0f}", f"{speed / best:.2f}", f"{found['cpu_ns_row'][name]:,.0f}"]
            for name, speed in found["rows_s"].items()
        ],
    )
    print(f"\nNot installed: {', '.join(found['not_installed']) or 'none of the peers'}\n")


def _of_arrow(speeds: dict[str, float]) -> float:
    """The faster of the two: they differ by less than runs do."""
    return max(speed for name, speed in speeds.items() if name.startswith("Arrow"))


# Planning


def _small(arguments: argparse.Namespace) -> dict[str, Any]:
    """Real small shards: from the table's version to the first batch."""
    from benchmarks import stream_data
    from jobs.lake.examples import Examples
    from jobs.train.read.stream import Stream

    url = f"{_small_shards(arguments)}/{stream_data.NARROW.name}/examples"
    before, began = _peak_mb(), time.monotonic()
    stream = Stream(Examples.open(url), stream_data.NARROW, split="train", batch_rows=8_192)
    planned, memory = time.monotonic() - began, _peak_mb() - before
    next(iter(stream.epoch(0)))
    return {
        "shards": arguments.shards,
        "planning_s": planned,
        "planning_mb": memory,
        "first_batch_s": time.monotonic() - began,
    }


def _simulated(arguments: argparse.Namespace) -> dict[str, Any]:
    """The plan of a line that nobody has, up to the windows of the first batch."""
    import numpy as np

    from jobs.train.order.plan import EpochPlan, windows_by_need
    from jobs.train.order.share import RankShare

    group_rows = np.full(_LINE_GROUPS, _LINE_ROWS // _LINE_GROUPS, np.int64)
    group_rows[: _LINE_ROWS % _LINE_GROUPS] += 1
    before, began = _peak_mb(), time.monotonic()
    plan = EpochPlan(group_rows, streams=64, window_rows=16_384, seed=7, epoch=0)
    share = RankShare(plan.rows, 64, 8_192)
    windows = windows_by_need(plan, share.owned.tolist(), share.rows_before(0))
    first = [next(windows) for _ in range(64)]
    return {
        "rows": plan.rows,
        "row_groups": _LINE_GROUPS,
        "planning_s": time.monotonic() - began,
        "planning_mb": _peak_mb() - before,
        "first_window_rows": first[0].rows,
    }


def _print_planning(figures: dict[str, Any]) -> None:
    small, simulated = figures["small"], figures["simulated"]
    print("Planning; no footer is read before the first row group\n")
    print_table(
        ["of", "seconds", "MiB", "seconds to the first batch"],
        [
            [
                f"{small['shards']:,} shards of 200 rows",
                f"{small['planning_s']:.2f}",
                f"{small['planning_mb']:.0f}",
                f"{small['first_batch_s']:.2f}",
            ],
            [
                f"{simulated['rows']:,} rows in {simulated['row_groups']:,} row groups, simulated",
                f"{simulated['planning_s']:.2f}",
                f"{simulated['planning_mb']:.0f}",
                "-",
            ],
        ],
    )


# Memory


def _memory(arguments: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import stream_data
    from jobs.train.read.stream import Stream

    examples = stream_data.wide(_wide(arguments), arguments.rows, arguments.group_rows)
    examples.shards("train")
    interpreter = _resident_mb()
    stream = Stream(
        examples, stream_data.WIDE, split="train", batch_rows=8_192, memory_mb=_MEMORY_MB
    )
    peaks = [_peak_of_epoch(stream, epoch) for epoch in range(_EPOCHS)]
    return {"interpreter_mb": interpreter, "memory_mb": _MEMORY_MB, "peak_mb": peaks}


def _peak_of_epoch(stream: Any, epoch: int) -> float:
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], _resident_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in stream.epoch(epoch):
        pass
    ended.set()
    thread.join()
    return peak[0]


def _print_memory(found: dict[str, Any]) -> None:
    peaks = ", ".join(f"{peak:,.0f}" for peak in found["peak_mb"])
    print(
        f"\nPeak of resident memory in {_EPOCHS} epochs: {peaks} MiB; the budget is "
        f"{found['memory_mb']:,} MiB, the interpreter with its libraries "
        f"{found['interpreter_mb']:,.0f}\n"
    )


def _resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / _MIB


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


# Mixing


def _mixing(arguments: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from benchmarks import stream_data, stream_quality
    from jobs.settings.etl import EtlSettings

    root, rows = Path(arguments.data).resolve(), arguments.rows
    group_rows = EtlSettings.model_fields["row_group_rows"].default
    found = {}
    for name, made in {
        "sorted by label before the ETL": stream_data.sorted_labels,
        "60 dates, label rate 5 % to 50 %": stream_data.drifting_dates,
    }.items():
        examples = made(root / f"{made.__name__}-{rows}-{group_rows}", rows, group_rows)
        found[name] = stream_quality.quality_of(examples, stream_data.NARROW, 8_192)
    print("Batches of 8,192 rows beside those of an ideal permutation, at default settings\n")
    print_table(
        ["data", "spread of label rates over the ideal", "lag 1", "dates", "shards"],
        [list(stream_quality.row(name, quality)) for name, quality in found.items()],
    )
    return {name: asdict(quality) for name, quality in found.items()}


def _bounds(figures: dict[str, Any]) -> dict[str, bool]:
    speed, memory = figures["speed"]["rows_s"], figures["memory"]
    ours = speed["Millstream, shuffled"]
    return {
        "at least 6 times Petastorm shuffled": ours
        >= 6 * speed["Petastorm BatchedDataLoader, shuffled"],
        "at least half of Arrow's decode": ours >= 0.5 * _of_arrow(speed),
        "10^12 rows planned within 3 s": figures["simulated"]["planning_s"] <= 3,
        "10^12 rows planned in 1 GiB": figures["simulated"]["planning_mb"] <= 1024,
        "memory within the budget": max(memory["peak_mb"])
        <= memory["memory_mb"] + memory["interpreter_mb"],
        # The first epoch begins with nothing; allocators reach what they keep in the second.
        "memory flat over epochs": memory["peak_mb"][-1] <= 1.05 * memory["peak_mb"][1],
        "mixing within twice the ideal": all(
            quality["spread"] <= 2 for quality in figures["mixing"].values()
        ),
    }


if __name__ == "__main__":
    main()
