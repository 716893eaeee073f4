"""How fast the ETL is, beside DuckDB doing the same declared work, on three declarations.

    python -m benchmarks.bench_etl [--rows 10000000] [--only a,b60,b1,c] [--code CHECKOUT]

    a    click logs in Criteo's format, one date: `schemas.criteo`
    b60  a table with a key, as `millstream init` declares it, over 60 dates; a tenth of the rows
    b1   the same over one date
    c    departures joined with weather and planes, with expressions, one date: `schemas.flights`

Each engine is a command of its own, process start included, over the same raw files, with the same
threads and rows a row group: Millstream by spark-submit or by the command that `init` names, from
raw files to the commit; DuckDB as `benchmarks/etl_duckdb.py` says. Afterwards both must have kept
and refused as many rows, by kind of reason. `--code` measures another checkout beside this one,
with its own declarations.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable

from benchmarks.common import Measured, machine, measured, print_figures, print_table
from benchmarks.etl_cases import REPOSITORY, Case, Code, cases, click_logs

DUCKDB, OURS, OTHER = "DuckDB", "Millstream", "Millstream, other checkout"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000, help="of one date; b60 has a tenth")
    parser.add_argument("--only", default="a,b60,b1,c", help="some of a,b60,b1,c")
    parser.add_argument(
        "--curve", default="1000000,3000000", help="smaller sizes of a; '' for none"
    )
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; the median counts")
    parser.add_argument("--code", type=Path, help="another checkout, measured too")
    parser.add_argument(
        "--skip-own", action="store_true", help="with --code: do not measure this checkout"
    )
    parser.add_argument("--dated-by", choices=("column", "path"), default="column", help="of b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-gb", type=int, default=12, help="of each engine at most")
    parser.add_argument("--row-group-rows", type=int, default=16_384)
    parser.add_argument("--work", type=Path, help="raw files, kept; a temporary folder when absent")
    asked = parser.parse_args()
    work = (asked.work or Path(tempfile.mkdtemp(prefix="bench-etl-"))).resolve()
    try:
        _compare(asked, work)
    finally:
        if asked.work is None:
            shutil.rmtree(work)


def _compare(asked: argparse.Namespace, work: Path) -> None:
    bench = Bench(work, asked.threads, asked.memory_gb, asked.row_group_rows)
    codes = [] if asked.skip_own else [Code.at(OURS, REPOSITORY)]
    codes += [Code.at(OTHER, asked.code.resolve())] if asked.code else []
    chosen = [cases(asked.rows, asked.dated_by)[name] for name in asked.only.split(",")]
    print(f"ETL, {machine('pyspark', 'duckdb', 'pyarrow')}\n", flush=True)
    figures: dict[str, Any] = {}
    for case in chosen:
        runs = _runs(bench, case, codes, asked.repeats)
        figures[case.name] = _shown(case, runs)
    sizes = [int(size) for size in asked.curve.split(",") if size]
    if "a" in figures and sizes:
        figures["curve_s"] = _curve(bench, codes[0], sizes, asked.rows, figures["a"])
    print_figures(figures)


@dataclass(frozen=True)
class Outcome:
    """What an engine made of the rows; `kinds`: refused ones by kind of reason."""

    kept: int
    refused: int
    kinds: dict[str, int]

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.kinds.items()))
        return f"{self.kept:,} kept, {self.refused:,} refused ({kinds})"


@dataclass(frozen=True)
class Run:
    cost: Measured
    outcome: Outcome


class Bench:
    """The commands that are compared, and what is left of the machine to each."""

    def __init__(self, work: Path, threads: int, memory_gb: int, row_group_rows: int) -> None:
        self.work, self._row_group_rows = work, row_group_rows
        self._threads, self._memory_gb = threads, memory_gb
        work.mkdir(parents=True, exist_ok=True)

    def duckdb(self, case: Case) -> Callable[[], Run]:
        order, out = case.work_order(self.work, self._row_group_rows), self.work / "duckdb"
        command = [sys.executable, str(REPOSITORY / "benchmarks" / "etl_duckdb.py")]
        command += ["--work", str(order), "--out", str(out)]
        command += ["--threads", str(self._threads), "--memory-gb", str(self._memory_gb)]

        def run() -> Run:
            cost = measured(command)
            said = json.loads(cost.output.splitlines()[-1])
            shutil.rmtree(out)
            return Run(cost, Outcome(**said))

        return run

    def millstream(self, case: Case, code: Code) -> Callable[[], Run]:
        config = case.config(case, code, self.work)
        lake = self.work / f"lake-{case.name}"
        command = [*self._program(config, code), "--config", str(config)]
        command += ["--dates", "..".join(case.dates)]
        settings = {f"etl.sources.{n}": path for n, path in case.sources(self.work).items()}
        settings |= {"lake": str(lake), "etl.row_group_rows": str(self._row_group_rows)}
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]

        def run() -> Run:
            shutil.rmtree(lake, ignore_errors=True)
            cost = code.run(*command)
            outcome = outcome_of(lake / case.dataset)
            shutil.rmtree(lake)
            return Run(cost, outcome)

        return run

    def _program(self, config: Path, code: Code) -> list[str]:
        """The command that `init` names, with its Spark; or spark-submit with the bulk settings."""
        drafted = config.with_name(f"{config.stem}.spark.conf")
        if drafted.exists():
            text = drafted.read_text(encoding="utf-8")
            drafted.write_text(text.replace("local[*]", f"local[{self._threads}]"))
            return [*code.millstream, "etl"]
        properties = str(code.folder / "conf" / "spark" / "bulk.conf")
        submit = ["spark-submit", "--master", f"local[{self._threads}]"]
        submit += ["--driver-memory", f"{self._memory_gb}g", "--properties-file", properties]
        return [*submit, str(code.folder / "jobs" / "etl" / "job.py")]


def outcome_of(tables: Path) -> Outcome:
    """What stands in the tables of a data set; a malformed line has no other reason."""
    kept = _count(DeltaTable(str(tables / "examples")).file_uris())
    refused = DeltaTable(str(tables / "quarantine")).file_uris()
    if not refused:
        return Outcome(kept, 0, {})
    kinds = duckdb.execute(
        "SELECT kind, count(*) FROM (SELECT unnest(list_distinct(list_transform(CASE WHEN "
        "list_contains(reasons, 'malformed') THEN ['malformed'] ELSE reasons END, "
        "lambda why: split_part(why, ':', 1)))) AS kind FROM read_parquet($files)) GROUP BY kind",
        {"files": refused},
    ).fetchall()
    return Outcome(kept, _count(refused), dict(kinds))


def _count(files: Sequence[str]) -> int:
    found = duckdb.execute("SELECT count(*) FROM read_parquet($files)", {"files": files})
    return int(found.fetchall()[0][0])


def _runs(bench: Bench, case: Case, codes: Sequence[Code], repeats: int) -> dict[str, Run]:
    """Of each engine the run of median time, engine after engine in each repeat.

    Ends the benchmark where they did not do the same.
    """
    case.made(bench.work)
    engines = {DUCKDB: bench.duckdb(case)}
    engines |= {code.name: bench.millstream(case, code) for code in codes}
    runs: dict[str, list[Run]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, run in engines.items():
            runs[name].append(run())
    _refuse_other_work(case, runs)
    return {name: _median(found) for name, found in runs.items()}


def _refuse_other_work(case: Case, runs: dict[str, list[Run]]) -> None:
    expected = runs[DUCKDB][0].outcome
    print(f"{case.name}, {case.title}, {case.rows:,} rows: {expected}\n", flush=True)
    if any(run.outcome != expected for found in runs.values() for run in found):
        lines = [f"  {name}: {run.outcome}" for name, found in runs.items() for run in found]
        sys.exit("\n".join([f"{case.name}: the engines did not do the same:", *lines]))


def _median(runs: Sequence[Run]) -> Run:
    return sorted(runs, key=lambda run: run.cost.seconds)[(len(runs) - 1) // 2]


def _shown(case: Case, runs: dict[str, Run]) -> dict[str, Any]:
    """Prints a case's table; returns its figures."""
    base = runs[DUCKDB].cost.seconds
    print_table(
        ("engine", "seconds", "CPU s", "rows/s", "peak MiB", "times DuckDB"),
        [
            (
                name,
                f"{run.cost.seconds:.1f}",
                f"{run.cost.cpu_s:.1f}",
                f"{case.rows / run.cost.seconds:,.0f}",
                f"{run.cost.peak_mb:,.0f}",
                f"{run.cost.seconds / base:.2f}",
            )
            for name, run in runs.items()
        ],
    )
    print(flush=True)
    figures: dict[str, Any] = {
        "rows": case.rows,
        "kept": runs[DUCKDB].outcome.kept,
        "refused": runs[DUCKDB].outcome.refused,
        "seconds": {name: round(run.cost.seconds, 2) for name, run in runs.items()},
        "cpu_s": {name: round(run.cost.cpu_s, 2) for name, run in runs.items()},
        "peak_mb": {name: round(run.cost.peak_mb) for name, run in runs.items()},
        "times_duckdb": {
            name: round(run.cost.seconds / base, 2) for name, run in runs.items() if name != DUCKDB
        },
    }
    if OURS in runs and OTHER in runs:
        other = runs[OTHER].cost.seconds
        figures["of_other_checkout"] = round(runs[OURS].cost.seconds / other, 3)
    return figures


def _curve(
    bench: Bench, code: Code, sizes: Sequence[int], rows: int, whole: dict[str, Any]
) -> dict[str, float]:
    """Seconds of the click logs by size, the largest as measured before."""
    seconds = {rows: whole["seconds"][code.name]}
    for size in sizes:
        case = click_logs(size)
        case.made(bench.work)
        seconds[size] = bench.millstream(case, code)().cost.seconds
    print(f"{code.name}, click logs by size:\n")
    print_table(
        ("rows", "seconds", "rows/s"),
        [(f"{n:,}", f"{s:.1f}", f"{n / s:,.0f}") for n, s in sorted(seconds.items())],
    )
    print(flush=True)
    return {str(size): round(taken, 1) for size, taken in sorted(seconds.items())}


if __name__ == "__main__":
    main()
