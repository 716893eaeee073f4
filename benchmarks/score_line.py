"""A checkout's line from raw days to scores, by its own commands, for two declarations."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
from deltalake import DeltaTable

from benchmarks.etl_cases import Code
from benchmarks.make_criteo import write_days
from benchmarks.make_flights import write_table
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings

FIRST, LATER = "2026-01-01", ("2026-01-02", "2026-01-03", "2026-01-04")
TRAINED_SHARE = 0.1


@dataclass(frozen=True)
class Case:
    """A declaration, and raw files of a first day and of others.

    Attributes:
        file: of a day, where `{ds}` stands for it.
        write: days into a folder, each of so many rows.
        drafted: whether the declaration is `init`'s.
    """

    name: str
    title: str
    dataset: str
    file: str
    write: Callable[[Path, int, Sequence[str]], None]
    settings: tuple[str, ...]
    drafted: bool

    def raw(self, work: Path, rows: int) -> Path:
        return work / f"raw-{self.name}-{rows}"

    def made(self, work: Path, rows: int) -> Path:
        """A folder with the first day and a later one, which the days after it repeat."""
        raw = self.raw(work, rows)
        unfinished = raw.with_name(f"{raw.name}-unfinished")
        if not raw.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            self.write(unfinished, rows, [FIRST, LATER[0]])
            for day in LATER[1:]:
                made = self.file.replace("{ds}", LATER[0])
                (unfinished / self.file.replace("{ds}", day)).hardlink_to(unfinished / made)
            unfinished.rename(raw)
        return raw


def _write_clicks(folder: Path, rows: int, days: Sequence[str]) -> None:
    for number, day in enumerate(days):
        write_days(folder, rows, [day], seed=7 + number)


def _write_flights(folder: Path, rows: int, days: Sequence[str]) -> None:
    write_table(folder, rows * len(days), list(days), seed=7)


CLICK_LOGS = Case(
    "clicks",
    "Rows in Criteo's format, DLRM",
    "criteo",
    "day_{ds}",
    _write_clicks,
    ("train.model=dlrm",),
    drafted=False,
)
INIT_MADE = Case(
    "init", "Flights, all that `init` proposes", "flights", "{ds}.csv", _write_flights, (), True
)


@dataclass(frozen=True)
class Cost:
    """Seconds of a score command, and of its run from raw to the commit; its rows predicted."""

    command_s: float
    run_s: float
    predicted: int


@dataclass(frozen=True)
class Line:
    """A checkout's commands over the raw days, in a lake of its own."""

    case: Case
    code: Code
    raw: Path
    work: Path

    @property
    def folder(self) -> Path:
        return self.work / f"{self.case.name}-{self.code.name.replace(' ', '-')}"

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def overrides(self) -> list[str]:
        rest = round(1 - TRAINED_SHARE - 0.05, 2)
        return [
            f"lake={self.lake}",
            f"etl.sources.{self.case.dataset}={self.raw}/{self.case.file}",
            f"etl.split={{train: {TRAINED_SHARE}, val: 0.05, test: {rest}, seed: 7}}",
            "train.workers=1",
            *self.case.settings,
        ]

    @cached_property
    def config(self) -> str:
        if not self.case.drafted:
            return str(self.code.folder / "conf" / f"{self.case.dataset}.yaml")
        config = self.folder / f"{self.case.dataset}.yaml"
        if not config.exists():
            first = self.raw / self.case.file.replace("{ds}", FIRST)
            wishes = ["--label", "late", "--key", "flight", "--name", self.case.dataset]
            command = [*self.code.millstream, "init", "--from", str(first)]
            self.code.run(*command, "--to", str(self.folder), *wishes)
        return str(config)

    def settings(self) -> Settings:
        return load_settings(self.config, self.overrides)

    def train(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.run("etl", "--date", FIRST)
        self.run("train")

    def score(self, day: str) -> Cost:
        command_s = self.run("score", "--date", day, "--model", "latest")
        ledger = DeltaTable(str(self.lake / self.case.dataset / "ledger")).file_uris()
        ((run_s, predicted_rows),) = duckdb.execute(
            "SELECT seconds, counts['predicted'] FROM read_parquet($files) "
            "WHERE stage = 'score' AND ds = $day",
            {"files": ledger, "day": day},
        ).fetchall()
        return Cost(command_s, run_s, predicted_rows)

    def run(self, command: str, *options: str) -> float:
        overrides = [part for text in self.overrides for part in ("--set", text)]
        config = ["--config", self.config, *overrides]
        return self.code.run(*self.code.millstream, command, *config, *options).seconds
