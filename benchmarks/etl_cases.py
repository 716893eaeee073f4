"""What `bench_etl` measures: raw files, a declaration, the command that turns them into examples.

A case is made for a checkout of Millstream, since each has its own `init` and its own declarations:
expressions were Spark's SQL before they were DuckDB's. DuckDB's work order comes from the
declarations of this checkout alone.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import yaml

from benchmarks.common import Measured, measured
from benchmarks.etl_work import work_order
from benchmarks.make_flights import DEPARTURE_DAY, FIRST_DAY
from jobs.settings.objects import load_object
from schemas.dataset import Dataset

REPOSITORY = Path(__file__).resolve().parent.parent
CLICK_DAY = "2026-01-01"
# Of the click logs' lines, so that there is something to refuse.
_STRANGE = 1e-4


@dataclass(frozen=True)
class Code:
    """A checkout of Millstream, and the Python that runs it."""

    name: str
    folder: Path
    python: str

    @classmethod
    def at(cls, name: str, folder: Path) -> Code:
        own = folder / ".venv" / "bin" / "python"
        return cls(name, folder, str(own) if own.exists() else sys.executable)

    @property
    def millstream(self) -> tuple[str, ...]:
        """The command `millstream`, whose module had another name once."""
        module = "main" if (self.folder / "jobs" / "main.py").exists() else "cli"
        return ("python", "-m", f"jobs.{module}")

    def run(self, *command: str) -> Measured:
        """A program of its environment, with its own packages before those installed."""
        program, *more = command
        path = str(Path(self.python).with_name(program))
        environment = {
            "PYTHONPATH": str(self.folder),
            "PYSPARK_PYTHON": self.python,
            "SPARK_LOCAL_IP": "127.0.0.1",
        }
        return measured([path, *more], environment, self.folder)


@dataclass(frozen=True)
class Case:
    """One declaration over one set of raw files.

    Attributes:
        name: as `--only` has it.
        make: writes the raw files into a folder, a command of `benchmarks`.
        dates: first and last.
        paths: of each source, below that folder.
        dataset: the declaration's name.
        config: settings of a checkout, in a folder, over the raw files.
        declaration: the one that DuckDB works by, once the settings are there.
    """

    name: str
    title: str
    rows: int
    make: tuple[str, ...]
    dates: tuple[str, str]
    paths: Mapping[str, str]
    dataset: str
    config: Callable[[Case, Code, Path], Path]
    declaration: str

    def raw(self, work: Path) -> Path:
        return work / f"raw-{self.name}-{self.rows}"

    def made(self, work: Path) -> None:
        """The raw files, whole, unless an earlier run left them."""
        raw = self.raw(work)
        if not raw.exists():
            unfinished = raw.with_name(f"{raw.name}-unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            module, *more = self.make
            options = ["--rows", str(self.rows), "--out", str(unfinished)]
            here = Code("", REPOSITORY, sys.executable)
            here.run("python", "-m", f"benchmarks.{module}", *more, *options)
            unfinished.rename(raw)

    def sources(self, work: Path) -> dict[str, str]:
        return {name: str(self.raw(work) / path) for name, path in self.paths.items()}

    def work_order(self, work: Path, row_group_rows: int) -> Path:
        """DuckDB's, by the declaration of this checkout."""
        config = self.config(self, Code.at("", REPOSITORY), work)
        dataset: Dataset = load_object(self.declaration, str(config.parent))
        raw = {name: path.replace("{ds}", "*") for name, path in self.sources(work).items()}
        order = work_order(dataset, raw, self.dates[0], row_group_rows)
        file = work / f"{self.name}-{self.rows}.json"
        file.write_text(json.dumps(order, indent=1), encoding="utf-8")
        return file


def cases(rows: int, dated_by: str) -> dict[str, Case]:
    """Those of one date have so many rows, that of sixty a tenth.

    Args:
        dated_by: what says the date of the rows of an `init`-made declaration: column or path.
    """
    last = (date.fromisoformat(FIRST_DAY) + timedelta(days=59)).isoformat()
    return {
        "a": click_logs(rows),
        "b60": _table("b60", "init-made, 60 dates", rows // 10, last, dated_by),
        "b1": _table("b1", "init-made, one date", rows, FIRST_DAY, dated_by),
        "c": Case(
            name="c",
            title="parents and expressions",
            rows=rows,
            make=("make_flights", "parents"),
            dates=(DEPARTURE_DAY, DEPARTURE_DAY),
            paths={name: f"{name}.csv" for name in ("flights", "weather", "planes")},
            dataset="flights",
            config=_shipped("schemas.flights:FLIGHTS"),
            declaration="schemas.flights:FLIGHTS",
        ),
    }


def click_logs(rows: int) -> Case:
    return Case(
        name="a",
        title="click logs",
        rows=rows,
        make=("make_criteo", "--strange", str(_STRANGE)),
        dates=(CLICK_DAY, CLICK_DAY),
        paths={"criteo": "day_{ds}*"},
        dataset="criteo",
        config=_shipped("schemas.criteo:CRITEO"),
        declaration="schemas.criteo:CRITEO",
    )


def _table(name: str, title: str, rows: int, last: str, dated_by: str) -> Case:
    days = (date.fromisoformat(last) - date.fromisoformat(FIRST_DAY)).days + 1
    return Case(
        name=name,
        title=title,
        rows=rows,
        make=("make_flights", "table", "--dates", str(days)),
        dates=(FIRST_DAY, last),
        paths={"flights": "*.csv" if dated_by == "column" else "{ds}.csv"},
        dataset="flights",
        config=_drafted(dated_by),
        declaration="./flights.py:FLIGHTS",
    )


def _shipped(schema: str) -> Callable[[Case, Code, Path], Path]:
    """Settings for a declaration that the checkout ships, as for millions of rows."""

    def config(case: Case, code: Code, work: Path) -> Path:
        folder = _fresh_folder(case, code, work)
        tree = {
            "schema": schema,
            "lake": "lake",
            "etl": {"sources": {}},
            "spark": {"properties_file": str(code.folder / "conf" / "spark" / "bulk.conf")},
        }
        file = folder / f"{case.dataset}.yaml"
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return file

    return config


def _drafted(dated_by: str) -> Callable[[Case, Code, Path], Path]:
    """What the checkout's `init` proposes for the first file."""

    def config(case: Case, code: Code, work: Path) -> Path:
        folder = _fresh_folder(case, code, work)
        first = case.raw(work) / f"{FIRST_DAY}.csv"
        wishes = ["--label", "late", "--key", "flight", "--name", case.dataset]
        wishes += ["--date", "day"] if dated_by == "column" else []
        command = [*code.millstream, "init", "--from", str(first), "--to", str(folder)]
        code.run(*command, *wishes)
        return folder / f"{case.dataset}.yaml"

    return config


def _fresh_folder(case: Case, code: Code, work: Path) -> Path:
    whose = re.sub(r"\W+", "-", code.name).lower() or "duckdb"
    folder = work / f"settings-{case.name}-{whose}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
