"""What a lake's age costs: the ETL and the scoring of one more small date after few or many nights.

    make bench-nights        or: python -m benchmarks.bench_nights --nights 400

Every night lands a file of a few rows, so that a night's seconds are those of its steps' beginning
and end. All nights run in this process with one Spark session: starts are not in the figures. One
model is trained in the sixth night and scores from then on. BENCH="--code CHECKOUT" measures
another checkout as well, in a process of its own, after this one.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.common import machine, print_figures, print_table, session_for
from jobs.lake.lake import Lake
from jobs.main import main as millstream
from tests.builders.visits import HEADER, Raw, rows_of

_ROWS, _MODEL_NIGHT = 30, 5
_FIRST = dt.date(2022, 1, 1)
# So many nights count as one age.
_TOGETHER = 10


def night(raw: Raw, number: int) -> tuple[float, float]:
    """Seconds of the ETL and of the scoring of a night."""
    ds = str(_FIRST + dt.timedelta(number))
    lines = [HEADER, *rows_of(ds, _ROWS), f"{ds},5,a,1,30,NA"]
    (raw.folder / f"visits-{ds}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if number == _MODEL_NIGHT:
        seconds(raw, "nightly", ds)
    return seconds(raw, "etl", ds), seconds(raw, "score", ds) if number > _MODEL_NIGHT else 0.0


def seconds(raw: Raw, command: str, ds: str) -> float:
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = millstream([command, "--date", ds, "--config", str(raw.config), "--quiet"])
    if code:
        sys.exit(f"{command} of {ds} ended with {code}: {said.getvalue()}")
    return time.monotonic() - started


def ages(nights: int, folder: Path) -> list[dict[str, float]]:
    """By age, the median seconds of its nights, and the ledger's files."""
    raw = Raw(folder).write()
    raw.configure({"visits": "visits-{ds}.csv"})
    session_for("bench-nights", 1)
    found: list[dict[str, float]] = []
    passed = []
    for number in range(nights):
        passed.append(night(raw, number))
        if number + 1 in {2 * _TOGETHER, *range(100, nights + 1, 100)}:
            etl, score = zip(*passed[-_TOGETHER:], strict=True)
            files = len(Lake(str(raw.lake), "visits").table("ledger").files())
            found.append(
                {"nights": number + 1, "etl_s": median(etl), "score_s": median(score)}
                | {"ledger_files": files}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=200)
    parser.add_argument("--code", help="another checkout, measured after this one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = ages(options.nights, Path(name))
    print(machine("pyspark", "deltalake"))
    print_table(
        ["nights before", "ETL s", "scoring s", "files of the ledger"],
        [
            [
                *(f"{age['nights']:.0f}", f"{age['etl_s']:.2f}"),
                *(f"{age['score_s']:.2f}", f"{age['ledger_files']:.0f}"),
            ]
            for age in found
        ],
    )
    print_figures({"ages": found})
    if options.code:
        command = [sys.executable, __file__, "--nights", str(options.nights)]
        print(f"\nThe same of {options.code}:", flush=True)
        subprocess.run(
            command, cwd=options.code, env={**os.environ, "PYTHONPATH": options.code}, check=True
        )


if __name__ == "__main__":
    main()
