"""How fast the ETL is, beside a native engine and a plain Spark script, on click logs.

    python -m benchmarks.bench_etl [--rows 10000000] [--curve 1000000,3000000] [--plain-rows N]

Each runs as a command of its own, process start included, over the same raw file of one day:
Millstream by spark-submit from raw TSV to committed shards; DuckDB doing the same work; DuckDB
applying the same rules to rows too; and the script that one would write first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks.common import Measured, machine, measured, print_figures, print_table

_REPOSITORY = Path(__file__).resolve().parent.parent
_DS = "2026-01-01"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--curve", default="1000000,3000000", help="smaller sizes, for the curve")
    parser.add_argument("--plain-rows", type=int, help="of the plain script; all rows when absent")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-gb", type=int, default=12, help="of each engine")
    parser.add_argument("--folder", type=Path, help="for raw files and outputs; kept")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="bench-etl-"))
    try:
        compare(asked, folder)
    finally:
        if asked.folder is None:
            shutil.rmtree(folder)


def compare(asked: argparse.Namespace, folder: Path) -> None:
    bench = Bench(folder, asked.threads, asked.memory_gb)
    sizes = [int(size) for size in asked.curve.split(",") if size]
    plain_rows = asked.plain_rows or asked.rows
    for rows in sorted({*sizes, asked.rows, plain_rows}):
        bench.make(rows)
    runs = {
        "DuckDB": (asked.rows, bench.duckdb(asked.rows)),
        "DuckDB, with row rules": (asked.rows, bench.duckdb(asked.rows, "--rules")),
        "Millstream": (asked.rows, bench.millstream(asked.rows)),
        "plain Spark script": (plain_rows, bench.plain(plain_rows)),
    }
    print(f"ETL of click logs, {machine('pyspark', 'duckdb', 'pyarrow')}\n")
    print_table(
        ("engine", "rows", "seconds", "CPU s", "rows/s", "peak MiB", "time a row, DuckDB = 1"),
        [_line(name, rows, run, runs["DuckDB"]) for name, (rows, run) in runs.items()],
    )
    curve = {rows: bench.millstream(rows) for rows in sizes} | {asked.rows: runs["Millstream"][1]}
    print("\nMillstream by size:\n")
    print_table(
        ("rows", "seconds", "rows/s", "peak MiB"),
        [_size_line(rows, run) for rows, run in sorted(curve.items())],
    )
    print()
    print_figures(_figures(runs, curve))


class Bench:
    """The commands that are compared, over raw files in a folder."""

    def __init__(self, folder: Path, threads: int, memory_gb: int) -> None:
        self._folder, self._threads, self._memory_gb = folder, threads, memory_gb

    def _raw(self, rows: int) -> Path:
        return self._folder / f"raw-{rows}"

    def make(self, rows: int) -> None:
        if not self._raw(rows).exists():
            script = str(_REPOSITORY / "benchmarks" / "make_criteo.py")
            out = str(self._raw(rows))
            measured([sys.executable, script, "--rows", str(rows), "--out", out], _ENVIRONMENT)

    def duckdb(self, rows: int, *more: str) -> Measured:
        out = self._folder / "duckdb"
        command = [sys.executable, str(_REPOSITORY / "benchmarks" / "etl_duckdb.py"), *more]
        command += ["--raw", str(self._raw(rows) / f"day_{_DS}"), "--out", str(out)]
        command += ["--threads", str(self._threads), "--memory-gb", str(self._memory_gb)]
        return self._cleaned(measured(command, _ENVIRONMENT), out)

    def millstream(self, rows: int) -> Measured:
        config, lake = self._folder / f"criteo-{rows}.yaml", self._folder / "lake"
        tree = {
            "schema": "schemas.criteo:CRITEO",
            "lake": str(lake),
            "etl": {"sources": {"criteo": str(self._raw(rows) / "day_{ds}*")}},
        }
        config.write_text(yaml.safe_dump(tree), encoding="utf-8")
        properties = _REPOSITORY / "conf" / "spark" / "bulk.conf"
        command = [*self._submit(), "--properties-file", str(properties)]
        command += [str(_REPOSITORY / "jobs" / "etl" / "job.py")]
        command += ["--config", str(config), "--date", _DS]
        done = measured(command, _ENVIRONMENT)
        assert f"{rows:,} rows = " in done.output, done.output[-2000:]
        return self._cleaned(done, lake)

    def plain(self, rows: int) -> Measured:
        out = self._folder / "plain"
        command = [*self._submit(), str(_REPOSITORY / "benchmarks" / "etl_plain.py")]
        command += [str(self._raw(rows) / f"day_{_DS}"), str(out)]
        return self._cleaned(measured(command, _ENVIRONMENT), out)

    def _submit(self) -> list[str]:
        submit = Path(sys.executable).with_name("spark-submit")
        memory = ["--driver-memory", f"{self._memory_gb}g"]
        return [str(submit), "--master", f"local[{self._threads}]", *memory]

    @staticmethod
    def _cleaned(done: Measured, folder: Path) -> Measured:
        shutil.rmtree(folder, ignore_errors=True)
        return done


_ENVIRONMENT = {
    "PYTHONPATH": str(_REPOSITORY),
    "PYSPARK_PYTHON": sys.executable,
    "SPARK_LOCAL_IP": "127.0.0.1",
}


def _line(name: str, rows: int, run: Measured, base: tuple[int, Measured]) -> tuple[str, ...]:
    ratio = (run.seconds / rows) / (base[1].seconds / base[0])
    return (name, f"{rows:,}", *_costs(rows, run), f"{ratio:.2f}")


def _costs(rows: int, run: Measured) -> tuple[str, ...]:
    speed = f"{rows / run.seconds:,.0f}"
    return (f"{run.seconds:.1f}", f"{run.cpu_s:.1f}", speed, f"{run.peak_mb:,.0f}")


def _size_line(rows: int, run: Measured) -> tuple[str, ...]:
    return (
        f"{rows:,}",
        f"{run.seconds:.1f}",
        f"{rows / run.seconds:,.0f}",
        f"{run.peak_mb:,.0f}",
    )


def _figures(
    runs: dict[str, tuple[int, Measured]], curve: dict[int, Measured]
) -> dict[str, object]:
    a_row = {name: run.seconds / rows for name, (rows, run) in runs.items()}
    ours = a_row["Millstream"]
    return {
        "rows": runs["Millstream"][0],
        "rows_per_s": {name: round(1 / seconds) for name, seconds in a_row.items()},
        "peak_mb": {name: round(run.peak_mb) for name, (_, run) in runs.items()},
        "times_duckdb": round(ours / a_row["DuckDB"], 2),
        "times_duckdb_with_rules": round(ours / a_row["DuckDB, with row rules"], 2),
        "plain_times_ours": round(a_row["plain Spark script"] / ours, 2),
        "plain_rows": runs["plain Spark script"][0],
        "curve_s": {str(rows): round(run.seconds, 1) for rows, run in sorted(curve.items())},
    }


if __name__ == "__main__":
    main()
