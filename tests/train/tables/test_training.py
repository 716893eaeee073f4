"""Trainings with sharded tables: launched, stopped and gone on with, at other numbers of ranks."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pyspark.sql import SparkSession
from torch import Tensor

from jobs.base.errors import ConfigError
from jobs.lake.examples import Examples
from jobs.models.artifact import load_model
from jobs.settings.train import TrainSettings
from jobs.train.attempts import refuse_unfit_job
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run
from jobs.train.keep.snapshot import Snapshot
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.launch.ranks import launch
from jobs.train.rank import train_rank
from tests.builders.batches import in_ranks
from tests.builders.examples import write_examples
from tests.builders.training import PLACES, TRAIN_ROWS, Killed, Mortal, job_of
from tests.faults.test_survivors import DiesAtStep

pytestmark = pytest.mark.usefixtures("models_one_by_one")

SHARDED = {"tables": "sharded", "table_buckets": 7, "optimizer": "sgd", "learning_rate": 0.5}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), PLACES)


def best_weights(job: TrainJob, result: RankResult) -> dict[str, Tensor]:
    assert result.history.best is not None
    folder = job.best_folder(result.history.best.epoch)
    return load_model(folder, map_files=False).model.state_dict()


def assert_near(found: dict[str, Tensor], known: dict[str, Tensor], atol: float = 1e-5) -> None:
    assert found.keys() == known.keys()
    for name, weight in known.items():
        assert torch.allclose(found[name], weight, rtol=0, atol=atol), name


@pytest.mark.slow
def test_launched_ranks_train_and_store_the_model_that_one_rank_with_whole_tables_does(
    examples: Examples, spark: SparkSession, tmp_path: Path
) -> None:
    weights = {}
    for workers, changes in ((2, SHARDED), (1, SHARDED | {"tables": "replicated"})):
        folder = tmp_path / str(workers)
        job = job_of(examples, folder, workers=workers, **changes)
        refuse_unfit_job(job)
        first = launch(
            partial(train_rank, job),
            spark=spark,
            workers=workers,
            settings=TrainSettings(),
            folder=str(folder),
        )[0]
        assert [epoch.rows for epoch in first.history.epochs] == [TRAIN_ROWS] * 3
        weights[workers] = best_weights(job, first)
    assert_near(weights[2], weights[1])


KEPT: dict[str, Any] = SHARDED | {"commit_steps": 1, "checkpoint_rows": 512}


@pytest.fixture(scope="module")
def known(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a training by one rank that nothing happens to."""
    job = job_of(examples, tmp_path_factory.mktemp("whole"), **KEPT)
    return best_weights(job, train_rank(job, Alone(), RankMemory()))


class Unhurried(RankMemory):
    """Waits at each commit until what was to be written of it is."""

    def committed(self, snapshot: Snapshot) -> None:
        super().committed(snapshot)
        if self.writer is not None:
            self.writer.close()


def killed_at(job: TrainJob, memories: list[RankMemory]) -> None:
    """Trains with as many ranks as memories, until one of them ends."""

    def work(exchange: Exchange) -> RankResult:
        return train_rank(job, exchange, memories[exchange.rank])

    with pytest.raises(Killed):
        in_ranks(work, len(memories))


def gone_on(job: TrainJob, memories: list[RankMemory], exchange: Exchange) -> RankResult:
    """Goes on from the last commit without rank 2."""
    memory = memories[exchange.rank]
    memory.interrupted(None)
    memory.agree(exchange)
    memory.begin(memory.last, ["rank 2"], 2)
    return train_rank(job, exchange, memory)


@pytest.mark.parametrize("ranks", [1, 5])
def test_other_numbers_of_ranks_resume_what_three_began(
    ranks: int, examples: Examples, known: dict[str, Tensor], tmp_path: Path
) -> None:
    job = job_of(examples, tmp_path, **KEPT, checkpoint_whole_every=3)
    killed_at(job, [Unhurried(), RankMemory(), Mortal(7)])
    found = newest_of_run(job.folder)
    assert found is not None and found.tables is not None
    assert found.tables.depth > 0, "changed rows alone"
    job = replace(job, resume=found)
    if ranks == 1:
        first = train_rank(job, Alone(), RankMemory())
    else:
        first = in_ranks(lambda exchange: train_rank(job, exchange, RankMemory()), ranks)[0]
    assert [epoch.rows for epoch in first.history.epochs] == [TRAIN_ROWS] * 3
    assert_near(best_weights(job, first), known)


def test_copies_on_disk_bring_a_lost_ranks_tables_back_bit_by_bit(
    examples: Examples, tmp_path: Path
) -> None:
    found = {}
    for room in ("memory", "disk"):
        changes = {"optimizer": "adam", "learning_rate": 0.05, "table_copies": room}
        job = job_of(examples, tmp_path / room, **KEPT | changes, checkpoint_whole_every=3)
        memories: list[RankMemory] = [RankMemory(), RankMemory(), DiesAtStep(8)]
        killed_at(job, memories)
        first, _ = in_ranks(partial(gone_on, job, memories), 2)
        assert [epoch.rows for epoch in first.history.epochs] == [TRAIN_ROWS] * 3
        assert len(first.recoveries) == 1
        found[room] = best_weights(job, first)
    assert_near(found["disk"], found["memory"], atol=0)


def test_neighbours_that_are_lost_together_cost_the_way_from_the_last_checkpoint(
    examples: Examples,
    known: dict[str, Tensor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "millstream.train")
    job = job_of(examples, tmp_path, **KEPT)
    memories: list[RankMemory] = [RankMemory(), RankMemory(), DiesAtStep(12)]
    killed_at(job, memories)
    left = memories[0]
    assert left.reached is not None
    reached_rows = left.reached.total_rows(TRAIN_ROWS)
    left.interrupted(None)
    left.agree(Alone())
    left.begin(left.last, ["rank 1", "rank 2"], 1)
    first = train_rank(job, Alone(), left)
    said = re.search(r"lost together; going on from epoch (\d+), row (\d+)", caplog.text)
    assert said is not None
    from_rows = (int(said[1]) - 1) * TRAIN_ROWS + int(said[2])
    assert [recovery.redone_rows for recovery in first.recoveries] == [reached_rows - from_rows]
    assert [epoch.rows for epoch in first.history.epochs] == [TRAIN_ROWS] * 3
    assert_near(best_weights(job, first), known)


def test_other_numbers_of_ranks_go_on_from_a_checkpoint_and_from_a_commit(
    examples: Examples, known: dict[str, Tensor], tmp_path: Path
) -> None:
    job = job_of(examples, tmp_path / "killed", **KEPT)
    with pytest.raises(Killed):
        train_rank(job, Alone(), Mortal(6))
    job = replace(job, resume=newest_of_run(job.folder))
    memories: list[RankMemory] = [RankMemory(), RankMemory(), DiesAtStep(5)]

    killed_at(job, memories)

    first, _ = in_ranks(partial(gone_on, job, memories), 2)
    assert [epoch.rows for epoch in first.history.epochs] == [TRAIN_ROWS] * 3
    assert_near(best_weights(job, first), known)


def test_short_rows_are_kept_gone_on_with_stored_and_looked_up(
    examples: Examples, tmp_path: Path
) -> None:
    changes = KEPT | {"optimizer": "row_adagrad", "learning_rate": 0.05, "table_dtype": "bfloat16"}
    whole = job_of(examples, tmp_path / "whole", **changes)
    known = best_weights(whole, train_rank(whole, Alone(), RankMemory()))
    job = job_of(examples, tmp_path / "killed", **changes, checkpoint_whole_every=3)
    killed_at(job, [Unhurried(), RankMemory(), Mortal(7)])
    job = replace(job, resume=newest_of_run(job.folder))
    first = train_rank(job, Alone(), RankMemory())
    # A sum that other ranks add up in another order may be rounded to the next number.
    assert_near(best_weights(job, first), known, atol=0.01)
    best = first.history.best
    assert best is not None
    loaded = load_model(job.best_folder(best.epoch))
    for files in loaded.tables.values():
        assert files.whole().dtype == torch.bfloat16
        assert files.table.model_bytes == 2 * files.table.nbytes
    batch = next(iter(job.stream("val", 0, 1).epoch(0)))
    entire = load_model(job.best_folder(best.epoch), map_files=False)
    assert torch.equal(loaded.model(batch), entire.model(batch))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"workers": 8}, r"train\.table_buckets"),
        ({"tables": "replicated", "table_dtype": "float16"}, r"train\.table_dtype"),
    ],
    ids=["more ranks than buckets", "short rows of whole tables"],
)
def test_what_sharded_tables_cannot_do_is_refused_before_ranks_start(
    changes: dict[str, Any], named: str, examples: Examples, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named):
        refuse_unfit_job(job_of(examples, tmp_path, **SHARDED | changes))
