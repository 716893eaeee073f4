"""Nights whose steps do what a test says, on real raw files, records, locks and ledgers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.base.errors import GateRefused
from jobs.main import main
from jobs.nightly.names import SEARCH, STEPS
from jobs.nightly.record import Record, load
from jobs.nightly.steps import Outcome, Steps
from jobs.observe.run import Run
from tests.builders.lakes import lake_of
from tests.builders.visits import HEADER, Raw, rows_of

DATES = [f"2024-01-{day:02d}" for day in range(1, 8)]


class Nights:
    """A data set with a raw file a date, and steps that only say that they were done.

    Attributes:
        done: (step, dates) in the order in which they were done.
        fails: what to raise, by step and date; taken out when it was raised.
        refuses: as `fails`, and it stays.
        champion: what the gate made the champion.
    """

    def __init__(self, folder: Path, dates: Sequence[str]) -> None:
        self.raw = Raw(folder).write()
        for ds in dates:
            self.land(ds)
        self.configure()
        self.done: list[tuple[str, tuple[str, ...]]] = []
        self.fails: dict[tuple[str, str], BaseException] = {}
        self.refuses: dict[tuple[str, str], Exception] = {}
        self.champion = ""

    def configure(self, **sections: Mapping[str, Any]) -> None:
        self.raw.settings = {name: dict(values) for name, values in sections.items()}
        self.raw.configure({"visits": "visits-{ds}.csv"})

    def land(self, ds: str, rows: int = 3) -> None:
        """The date's raw file; another number of rows is another file."""
        text = "\n".join([HEADER, *rows_of(ds, rows)]) + "\n"
        (self.raw.folder / f"visits-{ds}.csv").write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> int:
        """Runs `millstream nightly`; returns its exit code. `done` is of this run."""
        self.done.clear()
        return main(["nightly", "--config", str(self.raw.config), *arguments])

    def record(self, ds: str) -> Record:
        return load(lake_of(self.raw), ds)

    def states(self, ds: str) -> dict[str, str]:
        return {name: step.status for name, step in self.record(ds).steps.items()}

    def steps_done(self) -> list[str]:
        return [name for name, _ in self.done]

    def do(self, name: str, nights: Sequence[Record]) -> list[Outcome]:
        self.done.append((name, tuple(night.ds for night in nights)))
        for night in nights:
            if error := self.fails.pop((name, night.ds), None) or self.refuses.get(
                (name, night.ds)
            ):
                raise error
        if name == "gate":
            self.champion = nights[0].ds
        values = {"versions": {"model": self.champion}} if name == "score" else {}
        return [Outcome(f"{name} of {night.ds}", values) for night in nights]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Nights], Nights]:
    """Puts a test's steps in the place of the real ones."""

    def put(nights: Nights) -> Nights:
        class Scripted(Steps):
            def champion(self) -> str:
                return nights.champion

            def work(self, name: str) -> Callable[[Run, Sequence[Record]], list[Outcome]]:
                assert name in (*STEPS, SEARCH)
                return lambda _, records: nights.do(name, records)

        monkeypatch.setattr("jobs.nightly.work.Steps", Scripted)
        return nights

    return put


def gate_refused() -> GateRefused:
    return GateRefused("the model is worse", "a better one")
