"""Ranks launched by Horovod through Spark: one order, one result, and no failure that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, DataRefused
from jobs.lake.examples import Examples
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.rows import TableRows
from jobs.train.keep.commits import RankMemory
from jobs.train.launch.failures import RankFailed
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.launch.ranks import launch
from jobs.train.rank import train_rank
from jobs.train.step.step import Step
from tests.builders.examples import write_examples
from tests.builders.reference import (
    BATCHES,
    fresh_model,
    in_groups,
    plain_loop,
    settings_of,
    trained,
)
from tests.builders.sharded import Part, part_of, piece_of, run, untouched_by_rank_0, weights_of_all
from tests.builders.training import PLACES, TRAIN_ROWS, job_of


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), PLACES)


Trace = list[dict[int, int]]
EXACT = settings_of(optimizer="adam", clip_norm=0.05, accumulate_steps=2)
SHORT = EXACT.model_copy(update={"tables": "sharded", "table_dtype": "bfloat16"})
OF_BUFFERS = (torch.bool, torch.bfloat16, torch.float16, torch.int16, torch.float64)
UNTOUCHED = untouched_by_rank_0(BATCHES, 2)


def traced(
    job: TrainJob, exchange: Exchange, memory: RankMemory
) -> tuple[Trace, RankResult, dict[str, torch.Tensor], Part]:
    """For each step of the first epoch this rank's rows, id by position; then the training.

    Then the weights of a training over batches that the reference loop takes too, and last what
    this rank has of one with sharded tables; rank 0 never touches one of these.
    """
    stream = job.stream("train", exchange.rank, exchange.size)
    steps = [
        {
            int(position): int(row_id)
            for position, row_id in zip(
                batch.position[batch.is_row], batch.row_id[batch.is_row], strict=True
            )
        }
        for batch in stream.epoch(0)
    ]
    result = train_rank(job, exchange, memory)
    weights = trained(exchange, fresh_model().double(), EXACT, BATCHES)
    model, tables = piece_of("mlp", SHORT, exchange.rank, exchange.size, torch.float64)
    sharded = run(Step(model, SHORT, exchange, tables), UNTOUCHED)
    rows = TableRows(torch.tensor([exchange.rank, 7]), torch.tensor([[0.5], [2.0]]))
    summed = exchange.start_rows("short", [rows], torch.bfloat16).result()
    assert summed.values.flatten().tolist() == [0.5] * exchange.size + [2.0 * exchange.size]
    kept = [torch.full((2, 3), exchange.rank == 0).to(dtype).t() for dtype in OF_BUFFERS]
    exchange.broadcast(kept)
    assert all(bool((own == 1).all()) for own in kept)
    return steps, result, weights, part_of(sharded)


def test_two_ranks_take_the_batches_of_one_and_end_with_its_loss(
    examples: Examples, spark: SparkSession, tmp_path: Path
) -> None:
    two = launch(
        partial(traced, job_of(examples, tmp_path / "two")),
        spark=spark,
        workers=2,
        settings=TrainSettings(),
        folder=str(tmp_path / "two"),
    )
    ((alone, by_one, _, whole),) = launch(
        partial(traced, job_of(examples, tmp_path / "one")),
        spark=spark,
        workers=1,
        settings=TrainSettings(),
        folder=str(tmp_path / "one"),
    )
    (first, by_two, weights, piece), (second, by_second, others, other_piece) = two
    assert [{**a, **b} for a, b in zip(first, second, strict=True)] == alone
    assert sum(len(step) for step in alone) == TRAIN_ROWS
    assert all(0 < len(step) < len(whole) for step, whole in zip(first, alone, strict=True))

    last, expected = by_two.history.epochs[-1], by_one.history.epochs[-1]
    assert last.val_loss == pytest.approx(expected.val_loss, abs=1e-3)
    assert last.val_auc == pytest.approx(expected.val_auc, abs=1e-3)
    assert last.train_loss < by_two.history.epochs[0].train_loss
    assert last.bytes_sent > 0 == expected.bytes_sent
    losses = [[epoch.val_loss for epoch in r.history.epochs] for r in (by_two, by_second)]
    assert losses[0] == losses[1], "ranks disagree"
    assert by_two.digest is not None
    assert by_second.digest is None, "rank 0 alone writes"

    for name, weight in plain_loop(fresh_model().double(), EXACT, in_groups(BATCHES, 2)).items():
        assert torch.allclose(weights[name], weight, rtol=0, atol=1e-10), name
        assert torch.equal(weights[name], others[name]), f"ranks differ in {name}"
    sharded = weights_of_all([piece, other_piece])
    for name, weight in weights_of_all([whole]).items():
        assert sharded[name].dtype == weight.dtype
        assert torch.allclose(sharded[name], weight, rtol=0, atol=1e-10), name


# Failures


def refuses(exchange: Exchange, memory: RankMemory) -> None:
    exchange.start_sums([torch.ones(3)]).result()
    if exchange.rank == 1:
        raise DataRefused("shard 7 is torn", "a whole one", "restore it")
    exchange.start_sums([torch.ones(3)]).result()


def breaks(exchange: Exchange, memory: RankMemory) -> None:
    if exchange.rank == 1:
        raise ZeroDivisionError("no such number")
    exchange.start_sums([torch.ones(3)]).result()


def freezes(exchange: Exchange, memory: RankMemory) -> None:
    exchange.start_sums([torch.ones(3)]).result()
    if exchange.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    exchange.start_sums([torch.ones(3)]).result()


def test_what_a_user_can_cause_comes_back_as_itself_with_the_rank(
    spark: SparkSession, tmp_path: Path
) -> None:
    with pytest.raises(DataRefused, match=r"^rank 1 of 2: shard 7 is torn") as raised:
        launch(refuses, spark=spark, workers=2, settings=TrainSettings(), folder=str(tmp_path))
    assert raised.value.remedy == "restore it"
    assert raised.value.exit_code == 3


def test_an_unexpected_error_comes_back_with_rank_and_trace(
    spark: SparkSession, tmp_path: Path
) -> None:
    with pytest.raises(
        RankFailed, match=r"^rank 1 of 2: ZeroDivisionError: no such number"
    ) as raised:
        launch(breaks, spark=spark, workers=2, settings=TrainSettings(), folder=str(tmp_path))
    assert "in breaks" in str(raised.value)


def test_a_frozen_rank_is_named_within_the_deadline(spark: SparkSession, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(RankFailed, match=r"^rank 1 of 2 was lost"):
        launch(
            freezes, spark=spark, workers=2, settings=TrainSettings(stall_s=4), folder=str(tmp_path)
        )
    assert time.monotonic() - started < 60


def test_too_few_slots_are_refused_before_anything_starts(
    spark: SparkSession, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"train\.workers is 3, but Spark runs 2 tasks"):
        launch(breaks, spark=spark, workers=3, settings=TrainSettings(), folder=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_one_rank_needs_no_horovod() -> None:
    code = (
        "import sys, jobs.train.job as job, jobs.train.launch.ranks as d\n"
        "from jobs.settings.train import TrainSettings\n"
        "work = lambda exchange, memory: (exchange.rank, exchange.size)\n"
        "print(d.launch(work, spark=None, workers=1, settings=TrainSettings(), folder=''))\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'horovod']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(0, 1)]"


# The watchdog


def test_the_watchdog_kills_a_frozen_process_and_spares_a_waiting_one() -> None:
    code = (
        "import os, signal, threading\n"
        "from jobs.train.launch.watchdog import watched\n"
        "with watched(0.5):\n"
        "    threading.Event().wait(1.5)\n"
        "    print('alive', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "alive\n"
    assert done.returncode == -signal.SIGKILL


def test_the_watchdog_ends_with_its_block() -> None:
    code = (
        "import psutil\n"
        "from jobs.train.launch.watchdog import watched\n"
        "with watched(30):\n"
        "    assert len(psutil.Process().children()) == 1\n"
        "assert psutil.Process().children() == []\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
