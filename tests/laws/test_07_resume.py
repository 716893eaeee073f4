"""Law 7: resume is continuing. Stop anywhere, go on with the same or another number of ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.base.errors import DataRefused
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import select
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.rank import train_rank
from jobs.train.step.history import EpochResult
from tests.builders.batches import in_ranks
from tests.builders.examples import write_examples
from tests.builders.training import (
    PLACES,
    TRAIN_ROWS,
    Killed,
    Mortal,
    TracedJob,
    index_of,
    job_of,
    traced,
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), PLACES)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path), "clicks")


def job_in(lake: Lake, examples: Examples, run: str, **train: Any) -> TrainJob:
    cadence = {"commit_steps": 1, "checkpoint_rows": 512}
    return job_of(examples, lake.folder("checkpoints", run), **{**cadence, **train})


def resumed(lake: Lake, job: TrainJob, resume: str = "auto") -> TrainJob:
    found = select(lake, resume, job.identity)
    assert found is not None
    return replace(job, resume=found)


def metrics(epoch: EpochResult) -> tuple[float | None, ...]:
    return epoch.train_loss, epoch.val_loss, epoch.val_auc, epoch.rows


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("killed_at", [3, 10, 18], ids=["early", "second epoch", "third epoch"])
def test_killed_and_resumed_ends_with_the_weights_of_uninterrupted(
    optimizer: str, killed_at: int, lake: Lake, examples: Examples
) -> None:
    # Dropout: the random numbers go on as well.
    train = {"optimizer": optimizer, "dropout": 0.2, "schedule": "cosine"}
    whole = train_rank(job_in(lake, examples, "whole", **train), Alone(), RankMemory())
    job = job_in(lake, examples, "killed", **train)
    with pytest.raises(Killed):
        train_rank(job, Alone(), Mortal(killed_at))

    job = resumed(lake, job, "killed")
    assert job.resume is not None
    result = train_rank(job, Alone(), RankMemory())

    assert result.digest == whole.digest
    pairs = zip(result.history.epochs, whole.history.epochs, strict=True)
    assert all(metrics(ours) == metrics(theirs) for ours, theirs in pairs)
    assert result.history.best is not None
    assert result.history.best.epoch == whole.history.best.epoch  # type: ignore[union-attr]


def test_killed_again_and_again_it_still_ends_the_same(lake: Lake, examples: Examples) -> None:
    whole = train_rank(job_in(lake, examples, "whole"), Alone(), RankMemory())
    job = job_in(lake, examples, "killed")
    kills = 0
    while True:
        try:
            result = train_rank(job, Alone(), Mortal(9))
            break
        except Killed:
            kills += 1
            job = resumed(lake, job, "killed")
    assert kills >= 2
    assert result.digest == whole.digest


# Other numbers of ranks


def run_in(job: TracedJob, ranks: int, at_commit: int | None = None) -> list[RankResult]:
    def work(exchange: Exchange) -> RankResult:
        mortal = at_commit is not None and exchange.rank == 0
        return train_rank(
            job, exchange, Mortal(at_commit) if mortal and at_commit else RankMemory()
        )

    return in_ranks(work, ranks)


def test_three_ranks_go_on_as_two_and_as_one(lake: Lake, examples: Examples) -> None:
    whole = traced(job_in(lake, examples, "whole"))
    train_rank(whole, Alone(), RankMemory())
    expected = whole.trace.steps()
    assert sum(len(step) for epoch, step in expected if epoch == 0) == TRAIN_ROWS

    job = job_in(lake, examples, "killed")
    for ranks, at_commit in ((3, 6), (2, 9), (1, None)):
        run = traced(job)
        start = run.resume.position if run.resume else None
        if at_commit is not None:
            with pytest.raises(Killed):
                run_in(run, ranks, at_commit)
        else:
            (result,) = run_in(run, ranks)
        first = 0 if start is None else index_of(expected, start.epoch, start.row)
        steps = run.trace.steps()
        assert len(steps) > 3
        assert steps == expected[first : first + len(steps)]
        if at_commit is not None:
            job = resumed(lake, replace(job, resume=None), "killed")
    assert first + len(steps) == len(expected)
    assert [epoch.rows for epoch in result.history.epochs] == [TRAIN_ROWS] * 3


def test_a_checkpoint_made_on_other_data_is_refused_by_name(lake: Lake, tmp_path: Path) -> None:
    one = write_examples(tmp_path / "data", PLACES)
    job = job_in(lake, one, "killed")
    with pytest.raises(Killed):
        train_rank(job, Alone(), Mortal(5))
    places = {("2026-01-02", "train"): [[251, 250]]}
    other = write_examples(tmp_path / "data", places, run="again", first_row=9000, token=2)
    with pytest.raises(DataRefused, match="2026-01-02 had 502 rows, has 501") as refused:
        select(lake, "killed", replace(job, examples=other).identity)
    assert refused.value.exit_code == 3
    assert select(lake, "auto", replace(job, examples=other).identity) is None
    assert select(lake, "killed", job.identity) is not None


def test_a_smaller_batch_goes_on_at_the_same_row(lake: Lake, examples: Examples) -> None:
    job = job_in(lake, examples, "killed")
    with pytest.raises(Killed):
        train_rank(job, Alone(), Mortal(5))
    smaller = traced(resumed(lake, job_in(lake, examples, "killed", batch_rows=64)))
    assert smaller.resume is not None
    result = train_rank(smaller, Alone(), RankMemory())
    epoch, first = smaller.trace.steps()[0]
    start = smaller.resume.position
    assert (epoch, min(first), len(first)) == (start.epoch, start.row, 64)
    assert [epoch.rows for epoch in result.history.epochs] == [TRAIN_ROWS] * 3
