"""The loop: the same validation for any number of ranks, the best epoch, the row ledger."""

from __future__ import annotations

import copy
import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score

from jobs.base.xxhash import xxhash64_of_numbers
from jobs.batch.batch import Batch
from jobs.models.build import build_model
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.step.history import BestBy, EpochResult, History, Position
from jobs.train.step.loop import NoCommits, fit
from jobs.train.step.rowledger import RowCount, RowLedger, RowsMissed, check
from jobs.train.step.step import Step
from jobs.train.step.validation import NUM_BINS, area, bins, validate
from jobs.train.watch.progress import Silent
from tests.builders.batches import SPEC, Memory, batch_of, in_ranks
from tests.builders.devices import DEVICES

SEEDING = threading.Lock()
ROWS = (64, 64, 64, 17)
TRAIN = [batch_of(n, seed=i, first_row=64 * i) for i, n in enumerate(ROWS)]
VAL = [batch_of(n, seed=50 + i, first_row=1000 + 64 * i) for i, n in enumerate(ROWS)]


def settings_of(**changes: Any) -> TrainSettings:
    defaults = {"batch_rows": 64, "epochs": 3, "learning_rate": 0.03, "schedule": "constant"}
    return TrainSettings(**{**defaults, **changes})


def counted(batches: list[Batch]) -> RowCount:
    ledger = RowLedger()
    for batch in batches:
        ledger.add(batch)
    return ledger.total(Alone())


class Lines(Silent):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seen: list[tuple[str, int, int]] = []

    def rows(self, title: str, rows: int, total_rows: int) -> None:
        self.seen.append((title, rows, total_rows))

    def say(self, line: str) -> None:
        self.lines.append(line)


class Kept(NoCommits):
    """The epochs that were the best so far when they ended."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def after_epoch(self, position: Position) -> None:
        best = position.history.best
        assert best is not None
        if best.epoch == position.epoch - 1:
            self.epochs.append(best.epoch)


def fitted(
    exchange: Exchange, reporter: Silent | None = None, val: bool = True, **changes: Any
) -> tuple[History, list[int]]:
    """History of a training on TRAIN, and the epochs that were kept."""
    # Ranks are threads here, and torch's seed is the process's.
    with SEEDING:
        torch.manual_seed(1)
        model = build_model("wide_deep", SPEC).double()
    kept = Kept()
    history = fit(
        Step(model, settings_of(**changes), exchange),
        Memory(TRAIN, exchange.rank, exchange.size),
        Memory(VAL, exchange.rank, exchange.size) if val else None,
        settings_of(**changes),
        counted(TRAIN),
        reporter or Silent(),
        commits=kept,
    )
    return history, kept.epochs


def test_any_number_of_ranks_gives_the_same_curves() -> None:
    alone, _ = fitted(Alone())
    for size in (2, 3):
        for history, _ in in_ranks(fitted, size):
            for ours, theirs in zip(history.epochs, alone.epochs, strict=True):
                assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-10)
                assert ours.val_loss == pytest.approx(theirs.val_loss, abs=1e-10)
                assert ours.val_auc == pytest.approx(theirs.val_auc, abs=1e-10)
                assert ours.rows == theirs.rows == sum(ROWS)


def test_training_learns_and_times_add_up() -> None:
    reporter = Lines()
    history, kept = fitted(Alone(), reporter)
    first, *_, last = history.epochs
    assert last.train_loss < first.train_loss
    for epoch in history.epochs:
        parts = epoch.wait_s + epoch.compute_s + epoch.exchange_s
        assert 0 < parts <= epoch.seconds
        assert epoch.val_s > 0
        assert all(math.isfinite(value) for value in epoch.metrics().values())
    assert kept[-1] == history.best.epoch if history.best else False
    assert [line.split(":")[0] for line in reporter.lines] == [f"epoch {i} of 3" for i in (1, 2, 3)]
    assert reporter.seen[:4] == [("epoch 1 of 3", row, 209) for row in (64, 128, 192, 209)]


# Validation


@pytest.mark.parametrize("device", DEVICES)
def test_validation_is_the_whole_sets_loss_and_auc(device: str) -> None:
    torch.manual_seed(1)
    model = build_model("wide_deep", SPEC).double()
    with torch.no_grad():
        model.net.deep.mlp[-1].weight.mul_(5)
    measured = validate(copy.deepcopy(model).to(device), torch.device(device), VAL, Alone())
    label, weight = (
        torch.cat([getattr(batch, name) for batch in VAL]).double().numpy()
        for name in ("label", "weight")
    )
    logits = torch.cat([model(batch) for batch in VAL]).detach().numpy()
    exact = roc_auc_score(label, logits, sample_weight=weight)
    assert abs(measured.auc - exact) <= measured.auc_error + 1e-12
    assert measured.auc_error < 1e-3
    losses = np.logaddexp(0, logits) - label * logits
    assert measured.loss == pytest.approx((losses * weight).sum() / weight.sum(), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-40, 40), st.booleans(), st.floats(0.1, 5)), min_size=2, max_size=60
    )
)
def test_the_auc_from_bins_is_as_near_as_it_says(rows: list[tuple[float, bool, float]]) -> None:
    logits, labels, weights = (
        torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True)
    )
    cells = bins(logits) + NUM_BINS * labels.long()
    negatives, positives = torch.bincount(cells, weights, 2 * NUM_BINS).view(2, NUM_BINS)
    auc, error = area(negatives, positives)
    if labels.min() == labels.max():
        assert math.isnan(auc)
    else:
        exact = roc_auc_score(labels, logits, sample_weight=weights)
        assert abs(auc - exact) <= error + 1e-9


def test_the_auc_of_a_perfect_order_is_one() -> None:
    """Its terms, each rounded, add up to 1.0000000000000004."""
    draw = torch.Generator().manual_seed(0)
    negatives, positives = torch.zeros(2, NUM_BINS, dtype=torch.float64)
    negatives[:50] = torch.rand(50, generator=draw, dtype=torch.float64) * 0.3
    positives[100:150] = torch.rand(50, generator=draw, dtype=torch.float64) * 0.7
    assert area(negatives, positives) == (1.0, 0.0)


def test_regression_has_a_loss_and_no_auc() -> None:
    model = build_model("mlp", replace(SPEC, task="regression")).double()
    measured = validate(model, torch.device("cpu"), VAL, Alone())
    assert math.isnan(measured.auc)
    assert measured.loss > 0


# The best epoch


def result_of(epoch: int, val_loss: float | None, val_auc: float | None) -> EpochResult:
    zeros = dict.fromkeys(("seconds", "wait_s", "compute_s", "exchange_s", "val_s"), 0.0)
    return EpochResult(epoch, 1.0, val_loss, val_auc, None, rows=1, bytes_sent=0, **zeros)


@pytest.mark.parametrize(
    ("best_by", "measured", "best", "kept"),
    [
        ("auc", [(0.5, 0.7), (0.4, 0.8), (0.3, 0.75)], 1, [True, True, False]),
        ("loss", [(0.5, 0.7), (0.4, 0.8), (0.3, 0.75)], 2, [True, True, True]),
        ("auc", [(0.5, None), (0.4, None), (0.45, None)], 1, [True, True, False]),
        ("auc", [(0.5, 0.7), (0.4, 0.7)], 0, [True, False]),
        ("auc", [(None, None), (None, None)], 1, [True, True]),
    ],
    ids=["auc", "loss", "loss where there is no auc", "first of equals", "last without validation"],
)
def test_which_epoch_is_kept(
    best_by: BestBy,
    measured: list[tuple[float | None, float | None]],
    best: int,
    kept: list[bool],
) -> None:
    history = History()
    assert [history.add(result_of(i, *pair), best_by) for i, pair in enumerate(measured)] == kept
    assert history.best is not None
    assert history.best.epoch == best


def test_training_stops_early_when_validation_gets_no_better() -> None:
    history, kept = fitted(Alone(), epochs=60, learning_rate=0.5, early_stop_epochs=2)
    assert history.best is not None
    assert len(history.epochs) == history.best.epoch + 3 < 60
    assert kept[-1] == history.best.epoch


def test_without_validation_rows_the_last_epoch_is_kept() -> None:
    history, kept = fitted(Alone(), val=False)
    assert kept == [0, 1, 2]
    assert history.epochs[-1].val_auc is None


# The row ledger


def test_hashes_are_sparks(spark: SparkSession) -> None:
    ids = [0, 1, -1, 42, 2**62, -(2**63), 2**63 - 1]
    rows = spark.createDataFrame([(i,) for i in ids], "id bigint")
    expected = [row[0] for row in rows.select(F.xxhash64("id")).collect()]
    assert xxhash64_of_numbers(np.array(ids)).view(np.int64).tolist() == expected


def test_the_ledger_is_the_same_for_any_number_of_ranks() -> None:
    def work(exchange: Exchange) -> RowCount:
        ledger = RowLedger()
        for piece in Memory(TRAIN, exchange.rank, exchange.size).epoch(0):
            ledger.add(piece)
        return ledger.total(exchange)

    assert set(in_ranks(work, 3)) == {counted(TRAIN)}


def test_a_row_skipped_and_another_repeated_is_noticed() -> None:
    wrong = [*TRAIN[:-1], copy.deepcopy(TRAIN[-1])]
    wrong[-1].row_id[3] = wrong[-1].row_id[4]
    assert counted(wrong).rows == counted(TRAIN).rows
    with pytest.raises(RowsMissed, match="epoch 0 trained 209 rows"):
        fit(
            Step(build_model("mlp", SPEC), settings_of(), Alone()),
            Memory(wrong),
            None,
            settings_of(),
            counted(TRAIN),
            Silent(),
        )


def test_a_missing_row_is_noticed() -> None:
    with pytest.raises(RowsMissed, match="192 rows"):
        check(counted(TRAIN[:-1]), counted(TRAIN), epoch=4)
