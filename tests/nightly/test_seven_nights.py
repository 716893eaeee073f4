"""Nights of flights, each killed at a random moment and run again, end as undisturbed ones."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.lake.lake import Lake
from jobs.main import main
from jobs.nightly.names import STEPS
from jobs.nightly.record import WAITING, Record, load
from jobs.settings.load import load_settings
from tests.builders.contents import contents
from tests.builders.flights import configure, dates, land
from tests.builders.processes import Process, millstream

NIGHTS = 7
ROWS = 300
SEED_BITS = 32
SHORT_S = 1.0


@dataclass
class Killer:
    """Kills nights at random moments, and sees to it that every step is hit.

    Attributes:
        lasted_s: how long each step took in the undisturbed nights, by date and step.
        left: steps that were not hit yet.
    """

    lake: Lake
    lasted_s: dict[str, dict[str, float]]
    chance: random.Random
    left: list[str] = field(default_factory=lambda: list(STEPS))
    lines: list[str] = field(default_factory=list)

    def kill(self, process: Process, ds: str) -> None:
        """Kills the night at a random moment of a random step that is left."""
        step = self.chance.choice(self.left or STEPS)
        lasted_s = self.lasted_s[ds][step]
        # The time it takes to kill is itself a random moment of a short step.
        delay_s = self.chance.uniform(0, lasted_s) if lasted_s > SHORT_S else 0.0
        process.until(f"{ds}: step {step}")
        # The moment is the test's subject: nothing is waited for.
        time.sleep(delay_s)
        process.kill()
        hit = _standing(load(self.lake, ds))
        if hit in self.left:
            self.left.remove(hit)
        self.lines.append(f"{ds}: aimed at {step} + {delay_s:.2f} s, killed in {hit}")


def _standing(night: Record) -> str:
    """The last step that had begun."""
    begun = [name for name, step in night.steps.items() if step.status != WAITING]
    return begun[-1] if begun else "none"


@pytest.mark.slow
def test_seven_killed_nights_end_as_seven_undisturbed_ones(
    tmp_path: Path, spark: SparkSession
) -> None:
    seed = random.SystemRandom().getrandbits(SEED_BITS)
    print(f"seed {seed}")
    days = dates(NIGHTS)
    land(tmp_path, days, ROWS)
    calm, hard = configure(tmp_path, "calm"), configure(tmp_path, "hard")
    expected = [main(["nightly", "--config", str(calm), "--date", ds, "--quiet"]) for ds in days]
    assert expected[0] == 0 and set(expected) <= {0, 4}

    settings = load_settings(calm)
    lake = Lake(settings.lake_url, "flights")
    lasted = {ds: {n: s.seconds for n, s in load(lake, ds).steps.items()} for ds in days}
    killer = Killer(Lake(load_settings(hard).lake_url, "flights"), lasted, random.Random(seed))
    codes = []
    for ds in days:
        nightly = ("nightly", "--config", str(hard), "--date", ds)
        with millstream(*nightly) as process:
            killer.kill(process, ds)
        with millstream(*nightly) as process:
            codes.append(process.code())
            assert codes[-1] in (0, 4), "".join(process.said)
        print(killer.lines[-1], f"; exit code {codes[-1]}")
    assert killer.left == []
    assert codes == expected
    assert contents(load_settings(hard), days) == contents(settings, days)


@pytest.mark.slow
def test_of_two_nights_started_together_one_works(tmp_path: Path, spark: SparkSession) -> None:
    (ds,) = days = dates(1)
    land(tmp_path, days, ROWS)
    calm, both = configure(tmp_path, "calm"), configure(tmp_path, "both")
    assert main(["nightly", "--config", str(calm), "--date", ds, "--quiet"]) == 0
    nightly = ("nightly", "--config", str(both), "--date", ds)
    with millstream(*nightly) as one, millstream(*nightly) as other:
        codes = {one.code(): one, other.code(): other}
    assert sorted(codes) == [0, 5], [*one.said, *other.said]
    assert "is held by run nightly-" in "".join(codes[5].said)
    assert contents(load_settings(both), days) == contents(load_settings(calm), days)
