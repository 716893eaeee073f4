"""A training that pauses at any numbers of rows, in the middle of epochs or at their ends, makes
the same model and measures the same as one that never paused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.lake.examples import Examples
from jobs.train.exchange.exchange import Alone
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.rank import train_rank
from tests.builders.examples import write_examples
from tests.builders.training import PLACES, TRAIN_ROWS, job_of

DROPOUT = 0.2


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("paused"), PLACES)


def trained(job: TrainJob) -> RankResult:
    work = replace(job, resume=newest_of_run(job.folder))
    return train_rank(work, Alone(), RankMemory())


@pytest.fixture(scope="module")
def whole(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> RankResult:
    return trained(job_of(examples, tmp_path_factory.mktemp("whole"), dropout=DROPOUT))


@settings(max_examples=8, deadline=None)
@given(rungs=st.sets(st.integers(1, 3 * TRAIN_ROWS - 1), min_size=1, max_size=4))
def test_pauses_change_nothing(
    examples: Examples,
    whole: RankResult,
    tmp_path_factory: pytest.TempPathFactory,
    rungs: set[int],
) -> None:
    folder = tmp_path_factory.mktemp("paused")
    job = job_of(examples, folder, dropout=DROPOUT)
    for rung in sorted(rungs):
        paused = trained(replace(job, until_rows=rung))
        assert paused.rung is not None
        # At the end of the first step there, which may be that of an epoch.
        assert rung <= paused.rung.rows < rung + 256
        # Asked again it has nothing to train, and says the same.
        again = trained(replace(job, until_rows=rung))
        assert again.rung == paused.rung
        if paused.rung.rows % TRAIN_ROWS == 0:
            epoch = whole.history.epochs[paused.rung.rows // TRAIN_ROWS - 1]
            assert (paused.rung.val_loss, paused.rung.val_auc) == (epoch.val_loss, epoch.val_auc)
    ended = trained(job)
    assert ended.rung is None
    assert ended.digest == whole.digest
    seen = [(one.train_loss, one.val_loss, one.val_auc) for one in ended.history.epochs]
    assert seen == [(one.train_loss, one.val_loss, one.val_auc) for one in whole.history.epochs]


def test_a_pause_at_the_end_of_an_epoch_says_what_the_epoch_said(
    examples: Examples, whole: RankResult, tmp_path: Path
) -> None:
    job = job_of(examples, tmp_path, dropout=DROPOUT)
    paused = trained(replace(job, until_rows=2 * TRAIN_ROWS))
    assert paused.rung is not None
    assert paused.rung.rows == 2 * TRAIN_ROWS
    assert paused.rung.val_loss == whole.history.epochs[1].val_loss


def test_validation_rows_are_trained_on_where_that_is_asked_for(
    examples: Examples, tmp_path: Path
) -> None:
    job = replace(job_of(examples, tmp_path), has_validation=False, with_validation=True)
    found = trained(job)
    assert {epoch.rows for epoch in found.history.epochs} == {TRAIN_ROWS + 520}
