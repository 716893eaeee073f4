"""A search whose driver, and all that it started, is killed again and again ends as undisturbed."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.lake.ledger import read_ledger
from tests.builders.lakes import lake_of, run_etl
from tests.builders.processes import Process, millstream
from tests.builders.visits import Raw, rows_of

SPACE = "tune.space={train.dropout: [0.0, 0.1, 0.2], train.hidden: [[8], [16, 8]]}"
TRIALS, KILLS, SEED = 8, 5, 11


def journal(raw: Raw) -> list[dict[str, Any]]:
    path = Path(lake_of(raw).folder("studies", "killed", "journal.log"))
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def outcome(raw: Raw) -> list[tuple[Any, ...]]:
    """Parameters, values and weights of the trials, as the journal has them."""
    attributes = [
        line["user_attr"]["millstream"]
        for line in journal(raw)
        if "trial_id" in line and "millstream" in line.get("user_attr", {})
    ]
    return [(one["params"], one["weights"]) for one in attributes]


def searching(raw: Raw) -> Any:
    options = [f"tune.trials={TRIALS}", "tune.generation=2", "tune.parallel=2", SPACE]
    changes = [part for one in options for part in ("--set", one)]
    return millstream("tune", "--config", str(raw.config), "--study", "killed", *changes)


def until_longer(process: Process, raw: Raw, lines: int) -> bool:
    """Waits until the journal has so many lines; False when the search ended before."""
    while process.popen.poll() is None:
        if len(journal(raw)) >= lines:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
def test_a_search_that_is_killed_ends_as_undisturbed(tmp_path: Path, spark: SparkSession) -> None:
    raw = Raw(tmp_path / "raw").add(rows_of("2024-01-01", 400)).write()
    run_etl(raw, spark, ["2024-01-01"])
    whole = raw.copy(tmp_path / "whole")
    with searching(whole) as process:
        assert process.code() == 0, process.said
    draw = random.Random(SEED)
    whole_lines = len(journal(whole))
    for moment in sorted(draw.sample(range(1, whole_lines), KILLS)):
        with searching(raw) as process:
            if not until_longer(process, raw, moment):
                break
            process.kill()
    with searching(raw) as process:
        assert process.code() == 0, process.said
    assert outcome(raw) == outcome(whole)
    assert len(outcome(raw)) == TRIALS
    runs = [
        row["run"] for row in read_ledger(lake_of(raw), stage="tune") if "-killed-" in row["run"]
    ]
    assert sorted(runs) == [f"tune-killed-{number:04d}" for number in range(TRIALS)]
    assert not list(Path(lake_of(raw).folder("checkpoints")).glob("tune-*"))
