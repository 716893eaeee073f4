"""A rank is lost: the others go on from the last commit, and the row ledger closes."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.base.errors import ConfigError
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory, Recovery
from jobs.train.launch.rank_job import RankResult
from jobs.train.rank import train_rank
from jobs.train.step.history import Position
from tests.builders.batches import in_ranks
from tests.builders.examples import write_examples
from tests.builders.training import PLACES, TRAIN_ROWS, Killed, Mortal, index_of, job_of, traced

RANKS = 3


class DiesAtStep(RankMemory):
    """Ends its rank in the middle of an epoch, between commits."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def stepped(self, position: Position) -> Recovery | None:
        self._left -= 1
        if not self._left:
            raise Killed
        return super().stepped(position)


@pytest.mark.parametrize("dies_at", [2, 7, 13])
def test_the_ranks_that_are_left_train_every_row_once(dies_at: int, tmp_path: Path) -> None:
    examples = write_examples(tmp_path / "lake", PLACES)
    whole = traced(job_of(examples, tmp_path / "whole"))
    train_rank(whole, Alone(), RankMemory())
    expected = whole.trace.steps()

    job = job_of(examples, tmp_path / "run", commit_steps=3)
    memories: list[RankMemory] = [RankMemory(), RankMemory(), DiesAtStep(dies_at)]

    def work(exchange: Exchange) -> RankResult:
        return train_rank(before, exchange, memories[exchange.rank])

    before = traced(job)
    with pytest.raises(Killed):
        in_ranks(work, RANKS)
    last = memories[0].last
    assert last is not None
    for memory in memories[:2]:
        memory.interrupted(None)
        # Each process has its own.
        memory.begin(copy.deepcopy(last), ["rank 2 (host, pid 7)"], 2)

    before = after = traced(job)
    first, second = in_ranks(work, 2)

    committed = index_of(expected, last.position.epoch, last.position.row)
    assert after.trace.steps() == expected[committed:]
    assert [epoch.rows for epoch in first.history.epochs] == [TRAIN_ROWS] * 3
    (recovery,) = first.recoveries
    # A rank that is ahead has fed its piece of one more step.
    assert 0 <= recovery.redone_rows <= 3 * 256
    assert recovery.lost == ("rank 2 (host, pid 7)",)
    assert recovery.line().startswith("lost rank 2 (host, pid 7), noticed after ")
    assert len(second.recoveries) == 1


def test_survivors_go_on_with_more_streams_than_the_budget_has_room_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "millstream.train")
    examples = write_examples(tmp_path / "lake", PLACES)
    whole = train_rank(job_of(examples, tmp_path / "whole"), Alone(), RankMemory())
    job = job_of(examples, tmp_path / "run", commit_steps=3)
    mortal = Mortal(at_commit=2)
    with pytest.raises(Killed):
        train_rank(job, Alone(), mortal)

    stream = job.settings.stream.model_copy(update={"memory_mb": 1})
    narrow = replace(job, settings=job.settings.model_copy(update={"stream": stream}))
    with pytest.raises(ConfigError, match="16 open windows"):
        train_rank(narrow, Alone(), RankMemory())
    memory = RankMemory()
    memory.begin(mortal.last, ["rank 1"], 1)
    assert train_rank(narrow, Alone(), memory).digest == whole.digest
    assert "16 streams are read batch by batch, stream.decode_threads at 1, in " in caplog.text


def test_two_losses_before_a_step_are_one_recovery() -> None:
    memory = RankMemory()
    memory.reached = Position(row=512)
    memory.interrupted(None)
    memory.begin(None, ["rank 2"], 2)
    memory.interrupted(None)
    memory.begin(None, ["rank 1"], 1)
    recovery = memory.stepped(Position(row=256))
    assert recovery is not None
    assert (recovery.lost, recovery.ranks) == (("rank 2", "rank 1"), 1)
    assert memory.stepped(Position(row=512)) is None
    assert memory.recoveries == [recovery]


def suffered(fault: str, **options: object) -> tuple[dict[str, Any], str]:
    """The figures of a training that a fault hits, and what its log says."""
    sizes = {"epochs": 10, "stall-s": 8, "seed": 3, "faults": fault, **options}
    flags = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.bench_recovery", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])[fault], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "copies"),
    [
        ("two", "memory"),
        ("two", "disk"),
        ("neighbours", "memory"),
        ("freeze", "memory"),
        ("checkpoint", "memory"),
        ("commit", "memory"),
        ("half-commit", "memory"),
        ("half-commit", "disk"),
    ],
)
def test_ranks_that_shard_tables_are_lost_and_training_goes_on(fault: str, copies: str) -> None:
    sharded = {"tables": "sharded", "ranks": 4, "checkpoint-rows": 12_800, "table-copies": copies}
    figures, said = suffered(fault, **sharded)
    assert figures["epochs_closed"] == 10
    assert figures["lost"][0].startswith("rank ")
    assert len(figures["lost"]) == (2 if fault in ("two", "neighbours") else 1)
    together = "lost together; going on from epoch"
    assert (together in said) == (fault == "neighbours")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "freeze", "executor"])
def test_processes_are_lost_and_training_goes_on(fault: str) -> None:
    figures, _ = suffered(fault)
    assert figures["epochs_closed"] == 10
    assert 0 <= figures["redone_rows"] <= 21 * 256
    assert figures["lost"][0].startswith("rank ")
    assert figures["all_ranks_s"] > figures["next_step_s"], "the replacement joined"


@pytest.mark.slow
def test_of_three_ranks_a_killed_one_takes_no_other_with_it() -> None:
    # Those that are left wait for each other; with two ranks, for the killed one alone.
    figures, _ = suffered("kill", ranks=3, epochs=4)
    assert len(figures["lost"]) == 1
    assert figures["ranks"][0] == 2
    assert figures["epochs_closed"] == 4
