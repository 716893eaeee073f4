"""A store that is slow, or refuses now and then: no rank is lost for it, and no weight changes."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.lake.examples import Examples
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep import writer as writer_module
from jobs.train.keep.checkpoint import listed, verified
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.snapshot import Snapshot, take
from jobs.train.keep.table_writer import TablesWriter
from jobs.train.keep.together import StoreHangs, limit_s, together
from jobs.train.keep.writer import Task, Writer
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.launch.ranks import launch
from jobs.train.rank import train_rank
from jobs.train.step.history import EpochResult, History, Position
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step
from tests.builders.batches import in_ranks
from tests.builders.examples import write_examples
from tests.builders.reference import fresh_model
from tests.builders.s3 import S3
from tests.builders.training import PLACES, Killed, Mortal, job_of

# Ranks that are healthy wait for half as long again at most.
STALL_S = 6


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), PLACES)


def job_in(folder: Path | str, examples: Examples) -> TrainJob:
    return job_of(examples, folder, epochs=2, stall_s=STALL_S)


def launched(job: TrainJob, spark: SparkSession) -> RankResult:
    first, second = launch(
        partial(train_rank, job),
        spark=spark,
        workers=2,
        settings=job.settings.train,
        folder=job.folder,
    )
    assert (first.digest is None) != (second.digest is None)
    return first if first.digest else second


@pytest.fixture(scope="module")
def undisturbed(
    examples: Examples, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> RankResult:
    return launched(job_in(tmp_path_factory.mktemp("run"), examples), spark)


@pytest.fixture
def store(s3: S3, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> S3:
    """S3 that the ranks find too."""
    for name, value in s3.environment.items():
        monkeypatch.setitem(spark.sparkContext.environment, name, value)
    return s3


def test_no_rank_is_lost_while_models_and_notes_take_long_to_store(
    store: S3, examples: Examples, undisturbed: RankResult, spark: SparkSession, tmp_path: Path
) -> None:
    job = job_in(store.url(tmp_path.name), examples)
    with store.slow("/model.safetensors", "/progress.json", delay_s=2 * STALL_S):
        assert launched(job, spark).digest == undisturbed.digest


def test_a_store_that_refuses_every_third_write_changes_nothing(
    store: S3, examples: Examples, undisturbed: RankResult, spark: SparkSession, tmp_path: Path
) -> None:
    job = job_in(store.url(tmp_path.name), examples)
    with store.failing(tmp_path.name, 403, method="PUT", every=3):
        assert launched(job, spark).digest == undisturbed.digest


@pytest.mark.slow
def test_large_writes_and_notes_take_half_a_minute_each(
    store: S3, examples: Examples, undisturbed: RankResult, spark: SparkSession, tmp_path: Path
) -> None:
    job = job_in(store.url(tmp_path.name), examples)
    slow = ("/model.safetensors", "/weights.safetensors", "/commit.json", "/progress.json")
    with store.slow(*slow, delay_s=30.0):
        assert launched(job, spark).digest == undisturbed.digest


# The writer


def snapshot_of(epoch: int) -> Snapshot:
    """Taken after an epoch that was the best so far."""
    result = EpochResult(
        epoch=epoch,
        train_loss=1.0,
        val_loss=1 / (epoch + 1),
        val_auc=None,
        val_auc_error=None,
        rows=1,
        seconds=1.0,
        wait_s=0.0,
        compute_s=1.0,
        exchange_s=0.0,
        val_s=0.0,
        bytes_sent=0,
    )
    history = History()
    assert history.add(result, "loss")
    step = Step(fresh_model(), TrainSettings(), Alone())
    return take(step, Position(epoch=epoch + 1, history=history), RowLedger())


def writer_of(
    folder: Path, save_best: Callable[[Snapshot], None], say: Callable[[str], None], **train: Any
) -> Writer:
    identity = {"examples_version": 3, "state_digest": "s"}
    settings = TrainSettings.model_validate(train)
    return Writer(str(folder), identity, settings, say, [], save_best)


def epoch_of(snapshot: Snapshot) -> int:
    best = snapshot.position.history.best
    assert best is not None
    return best.epoch


def test_a_better_model_takes_the_place_of_one_that_waits(tmp_path: Path) -> None:
    saved, going, go = list[int](), threading.Event(), threading.Event()

    def save(snapshot: Snapshot) -> None:
        going.set()
        assert go.wait(30)
        saved.append(epoch_of(snapshot))

    writer = writer_of(tmp_path, save, pytest.fail)
    assert writer.offer(snapshot_of(0), is_best=True)
    assert going.wait(30)
    assert writer.offer(snapshot_of(1), is_best=True)
    assert writer.offer(snapshot_of(2), is_best=True)
    assert not writer.offer(snapshot_of(2)), "a checkpoint does not wait"
    assert [epoch_of(snapshot) for snapshot in writer.holding] == [0, 2]
    go.set()
    writer.close()
    assert saved == [0, 2]
    named = [verified(url).position.history.best for url in listed(str(tmp_path))]
    assert [best.epoch for best in named if best] == [2, 0]


def test_no_checkpoint_names_a_model_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_AGAIN_S", 0.01)
    said, refusals = list[str](), iter([PermissionError("no"), OSError("full"), None])

    def save(snapshot: Snapshot) -> None:
        assert listed(str(tmp_path)) == []
        if refusal := next(refusals):
            raise refusal

    writer = writer_of(tmp_path, save, said.append)
    assert writer.offer(snapshot_of(0), is_best=True)
    writer.close()
    assert len(listed(str(tmp_path))) == 1
    assert said == ["the best epoch's model is not written yet, trying again: no"]


def test_a_model_that_is_never_stored_ends_training_with_the_store_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_AGAIN_S", 0.01)

    def save(snapshot: Snapshot) -> None:
        raise PermissionError("no")

    writer = writer_of(tmp_path, save, lambda line: None, checkpoint_timeout_s=0.2)
    assert writer.offer(snapshot_of(0), is_best=True)
    with pytest.raises(StoreHangs, match=f"written to {tmp_path} for more than"):
        writer.close()
    assert listed(str(tmp_path)) == []


# Work that other ranks wait for


def test_ranks_wait_for_each_other_s_work_and_learn_of_a_failure() -> None:
    def work(exchange: Exchange) -> int:
        act = partial(time.sleep, 0.2) if exchange.rank == 1 else partial(int)
        together(exchange, act, stall_s=0.1, limit_s=60, what="read")
        return exchange.rank

    assert in_ranks(work, 3) == [0, 1, 2]
    hangs = threading.Event()

    def stuck(exchange: Exchange) -> None:
        act: Callable[[], object] = hangs.wait if exchange.rank == 1 else int
        together(exchange, act, stall_s=0.1, limit_s=0.2, what="the store is being read")

    with pytest.raises(StoreHangs, match=r"the store is being read for more than 0\.2 s"):
        in_ranks(stuck, 2)
    hangs.set()


def test_larger_models_have_longer() -> None:
    settings = TrainSettings(checkpoint_timeout_s=10.0)
    assert limit_s(settings, 1 << 20) == 10.0
    assert limit_s(settings, 5 << 30) == 50.0


# Rank 0 is lost while it stores the best epoch's model


@pytest.mark.parametrize("checkpoint_rows", [512, None], ids=["a checkpoint", "the beginning"])
def test_a_model_that_was_lost_with_rank_0_is_trained_again(
    checkpoint_rows: int | None, examples: Examples, tmp_path: Path
) -> None:
    whole = train_rank(job_of(examples, tmp_path / "whole"), Alone(), RankMemory())
    cadence = {"commit_steps": 3, "checkpoint_rows": checkpoint_rows, "checkpoint_keep": 9}
    job = job_of(examples, tmp_path / "run", **cadence)
    mortal = Mortal(at_commit=6)
    with pytest.raises(Killed):
        train_rank(job, Alone(), mortal)
    memory = RankMemory()
    memory.begin(mortal.last, [], 1)
    assert memory.last is not None
    assert memory.last.position.history.best is not None
    for path in (tmp_path / "run").glob("best-*"):
        shutil.rmtree(path)
    for url in listed(job.folder):
        if checkpoint_rows is None or verified(url).position.history.best is not None:
            shutil.rmtree(url)
    assert bool(listed(job.folder)) == (checkpoint_rows is not None)

    result = train_rank(job, Alone(), memory)

    assert result.digest == whole.digest


def test_what_lost_ranks_had_parts_of_is_given_up_within_the_deadline(tmp_path: Path) -> None:
    hung = threading.Event()

    class Hung(TablesWriter):
        def _write(self, task: Task) -> None:
            hung.wait(60)

    settings = TrainSettings(checkpoint_timeout_s=0.3)
    writer = Hung(
        str(tmp_path), {}, settings, print, [], lambda *_: None, lambda: None, Alone(), {}
    )
    assert writer._put(Task(snapshot_of(0), is_best=False))
    with pytest.raises(StoreHangs, match=r"for more than 0\.3 s"):
        writer.abandon()
    hung.set()
