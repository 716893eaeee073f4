"""Launched trainings with slices: the same bits at any number of ranks, also when it changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError
from jobs.lake.examples import Examples
from jobs.settings.train import TrainSettings
from jobs.train.attempts import refuse_unfit_job
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run
from jobs.train.launch.rank_job import RankResult
from jobs.train.launch.ranks import launch
from jobs.train.rank import train_rank
from tests.builders.batches import in_ranks
from tests.builders.examples import write_examples
from tests.builders.training import PLACES, Killed, Mortal, job_of
from tests.faults.test_survivors import DiesAtStep

pytestmark = pytest.mark.usefixtures("models_one_by_one")

SLICED: dict[str, Any] = {"gradient_slices": 4, "optimizer": "adam", "clip_norm": 0.5}
SHARDED = {"tables": "sharded", "table_buckets": 7}
KEPT = {"commit_steps": 1, "checkpoint_rows": 512}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), PLACES)


def made(result: RankResult) -> tuple[str | None, list[tuple[float | None, ...]]]:
    """What a training made: the digest of the best epoch's weights, and all losses."""
    epochs = result.history.epochs
    return result.digest, [(e.train_loss, e.val_loss, e.val_auc, e.rows) for e in epochs]


@pytest.mark.parametrize("tables", [{}, SHARDED], ids=["replicated", "sharded"])
def test_two_launched_ranks_make_the_bits_of_one(
    tables: dict[str, Any], examples: Examples, spark: SparkSession, tmp_path: Path
) -> None:
    results = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        # Dropout: its masks follow from the slices.
        job = job_of(examples, folder, workers=workers, dropout=0.2, **SLICED, **tables)
        results.append(
            launch(
                partial(train_rank, job),
                spark=spark,
                workers=workers,
                settings=TrainSettings(),
                folder=str(folder),
            )[0]
        )
    one, two = results
    assert two.history.epochs[-1].bytes_sent > 0
    assert made(two) == made(one)


@pytest.mark.parametrize("tables", [{}, SHARDED], ids=["replicated", "sharded"])
def test_ranks_that_are_lost_and_other_numbers_that_resume_change_no_bit(
    tables: dict[str, Any], examples: Examples, tmp_path: Path
) -> None:
    whole = job_of(examples, tmp_path / "whole", **SLICED, **tables, **KEPT)
    known = made(train_rank(whole, Alone(), RankMemory()))
    job = job_of(examples, tmp_path / "killed", **SLICED, **tables, **KEPT)
    with pytest.raises(Killed):
        train_rank(job, Alone(), Mortal(6))
    job = replace(job, resume=newest_of_run(job.folder))
    memories: list[RankMemory] = [RankMemory(), RankMemory(), DiesAtStep(5)]
    with pytest.raises(Killed):
        in_ranks(lambda exchange: train_rank(job, exchange, memories[exchange.rank]), 3)

    def go_on(exchange: Exchange) -> RankResult:
        memory = memories[exchange.rank]
        memory.interrupted(None)
        memory.agree(exchange)
        memory.begin(memory.last, ["rank 2"], 2)
        return train_rank(job, exchange, memory)

    first, _ = in_ranks(go_on, 2)
    assert made(first) == known


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gradient_slices": 2, "workers": 3}, r"3 ranks .*, 2 slices"),
        ({"gradient_slices": 6, "workers": 3}, r"stream\.streams is 16, train\.gradient_slices 6"),
    ],
    ids=["more ranks than slices", "streams that slices cannot share"],
)
def test_what_slices_cannot_do_is_refused_before_ranks_start(
    changes: dict[str, Any], named: str, examples: Examples, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named):
        refuse_unfit_job(job_of(examples, tmp_path, **changes))
