"""Who goes on at a rung: the same trials on any cluster and after any kill, and those that go on
train what they would without rungs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, DataRefused
from jobs.evaluate import job as evaluate_job
from jobs.lake.ledger import read_ledger
from jobs.nightly.status import status
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.settings.tune import TuneSettings
from jobs.train import job as train_job
from jobs.train.launch.rank_job import RankResult
from jobs.train.step.history import EpochResult, History, Rung
from jobs.tune import job, nightly, trials
from jobs.tune.stopping import Stopping
from jobs.tune.trial import TrialResult
from tests.builders.lakes import examples_of, lake_of, run_etl
from tests.builders.visits import Raw, rows_of

DS = "2024-01-01"
EPOCHS, TRIALS = 3, 8
SPACE = (
    "tune.space={train.learning_rate: {low: 1.0e-3, high: 0.1, log: true}, "
    "train.dropout: [0.0, 0.2]}"
)
QUICK = (
    f"train.epochs={EPOCHS}",
    "train.batch_rows=64",
    f"tune.trials={TRIALS}",
    "tune.generation=4",
    "tune.sampler=random",
    SPACE,
)
KINDS = ("halving", "hyperband", "median")


class Killed(BaseException):
    """What ends the driver in the middle."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    raw = Raw(tmp_path_factory.mktemp("stopped")).add(rows_of(DS, 600)).write()
    run_etl(raw, spark, [DS])
    return raw


def tune(raw: Raw, spark: SparkSession, *overrides: str, **more: Any) -> job.TuneResult:
    settings = load_settings(raw.config, [*QUICK, *overrides])
    return job.run(settings, spark, run_id="tune-test", **more)


def seen(result: job.TuneResult) -> list[tuple[Any, ...]]:
    """What a study came to, without times."""
    return [
        (n.number, tuple(n.params.items()), n.value, n.facts.get("weights"), n.stopped, n.rows)
        for n in result.told
    ]


def ledger_rows(raw: Raw, study: str) -> dict[str, int]:
    """Run -> rows trained; each run must have one row."""
    rows = [row for row in read_ledger(lake_of(raw), stage="tune") if f"-{study}-" in row["run"]]
    found = {row["run"]: row["counts"]["rows"] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def undisturbed(raw: Raw, spark: SparkSession) -> job.TuneResult:
    return tune(raw, spark, name="undisturbed")


def stopping(kind: str, epochs: int = 1, **settings: Any) -> Stopping:
    """Of 9,000 rows in all."""
    tree = TuneSettings.model_validate({"stopping": kind, **settings})
    return Stopping.of(tree, epochs, 9_000 // epochs)


def test_rungs_are_rows() -> None:
    assert stopping("halving").rungs == (1_000, 3_000)
    assert stopping("halving", first_rung_rows=500).rungs == (500, 1_500, 4_500)
    assert stopping("none").rungs == ()
    assert stopping("halving", first_rung_rows=9_000).rungs == ()
    # After the first epoch at the ends of epochs.
    assert stopping("halving", epochs=4).rungs == (1_000, 2_250)
    assert stopping("halving", epochs=9).rungs == (1_000, 3_000)
    assert stopping("halving", epochs=10, first_rung_rows=1_000).rungs == (900, 2_700)
    # Of 17 trials, 9 begin at the first rung, 5 at the second, and 3 are stopped by nobody.
    brackets = [len(stopping("hyperband").rungs_of(number)) for number in range(17)]
    assert [brackets.count(rungs) for rungs in (2, 1, 0)] == [9, 5, 3]


@pytest.mark.parametrize(
    ("given", "trials"),
    [
        ({"sampler": "random"}, 27),
        ({"sampler": "quasi_random", "reduction": 2}, 8),
        ({"sampler": "random", "stopping": "none"}, 4),
        ({"sampler": "tpe"}, 4),
        ({"sampler": "random", "generation": 5}, 5),
    ],
)
def test_trials_that_need_no_results_are_compared_many_at_once(
    given: dict[str, Any], trials: int
) -> None:
    assert TuneSettings.model_validate(given).generation_trials == trials


def measured(epoch: int, auc: float) -> EpochResult:
    times = dict.fromkeys(("seconds", "wait_s", "compute_s", "exchange_s", "val_s"), 0.0)
    return EpochResult(epoch, 0.5, 1 - auc, auc, 0.0, rows=10, bytes_sent=0, **times)


@pytest.mark.parametrize(("at_rung", "best"), [(0.7, 0.8), (0.9, 0.9)])
def test_a_trial_is_worth_at_a_rung_what_its_best_model_is(at_rung: float, best: float) -> None:
    history = History()
    for epoch, auc in enumerate((0.8, 0.6)):
        history.add(measured(epoch, auc))
    trained = RankResult(0, history, None, {}, rung=Rung(25, 1 - at_rung, at_rung))
    assert TrialResult(trained, "", 0.0).value("val_auc", more=True) == best
    assert TrialResult(trained, "", 0.0).value("val_loss", more=False) == pytest.approx(1 - best)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(2, 5))
def test_of_a_generation_alone_the_best_go_on(costs: list[float], reduction: int) -> None:
    known = dict(enumerate(costs))
    halving = stopping("halving", reduction=reduction)
    going_on = [number for number in known if halving.goes_on(number, known)]
    assert len(going_on) == max(1, len(costs) // reduction)
    stopped = [known[number] for number in known if number not in going_on]
    assert all(cost >= max(known[number] for number in going_on) for cost in stopped)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_better_half_of_the_median_goes_on(costs: list[float]) -> None:
    known = dict(enumerate(costs))
    going_on = [number for number in known if stopping("median").goes_on(number, known)]
    assert len(going_on) * 2 >= len(costs)
    assert min(known, key=lambda number: known[number]) in going_on


def test_a_trial_that_goes_on_ends_as_one_that_nobody_stops(
    raw: Raw, spark: SparkSession, undisturbed: job.TuneResult
) -> None:
    whole = tune(raw, spark, "tune.stopping=none", name="whole")
    epoch = sum(shard.rows for shard in examples_of(raw).shards("train"))
    rungs = Stopping.of(TuneSettings(), EPOCHS, epoch).rungs
    ended = [one for one in undisturbed.told if one.stopped is None]
    assert 0 < len(ended) < TRIALS
    for one in undisturbed.told:
        other = whole.told[one.number]
        assert one.params == other.params
        if one.stopped is None:
            assert (one.value, one.facts["weights"]) == (other.value, other.facts["weights"])
            assert one.rows == EPOCHS * epoch
        else:
            assert one.stopped in rungs
            assert one.stopped <= one.rows < one.stopped + 64
    assert sum(ledger_rows(raw, "undisturbed").values()) == sum(n.rows for n in undisturbed.told)
    assert not list(Path(lake_of(raw).folder("checkpoints")).glob("tune-undisturbed-*"))


@pytest.mark.parametrize("parallel", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_who_goes_on_does_not_follow_from_how_many_run_at_a_time(
    raw: Raw, spark: SparkSession, undisturbed: job.TuneResult, parallel: int
) -> None:
    assert seen(tune(raw, spark, name=f"p{parallel}", parallel=parallel)) == seen(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[1:])
def test_other_kinds_are_the_same_at_any_parallelism(
    raw: Raw, spark: SparkSession, kind: str
) -> None:
    found = [
        seen(tune(raw, spark, f"tune.stopping={kind}", name=f"{kind}{p}", parallel=p))
        for p in (1, 3)
    ]
    assert found[0] == found[1]
    assert any(one[4] is not None for one in found[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "count"),
    [
        *(("run_trial", 3), ("run_trial", 6)),
        *(("record", 0), ("record", 3)),
        # The trials that stop at a rung are in the ledger, and not in the journal.
        *(("stop", 0), ("stop", 3)),
        *(("ledger_row", 3), ("ledger_row", 6)),
    ],
)
def test_a_study_cut_between_rungs_goes_on_as_the_same(
    raw: Raw,
    spark: SparkSession,
    undisturbed: job.TuneResult,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    count: int,
) -> None:
    name, left = f"cut-{place.replace('_', '-')}-{count}", iter([False] * count)
    of = trials.Study if place == "stop" else trials
    whole = getattr(of, place)

    def killed(*arguments: Any) -> Any:
        if next(left, True):
            raise Killed
        return whole(*arguments)

    monkeypatch.setattr(of, place, killed)
    with pytest.raises(Killed):
        tune(raw, spark, name=name)
    monkeypatch.undo()
    assert seen(tune(raw, spark, name=name)) == seen(undisturbed)
    assert sum(ledger_rows(raw, name).values()) == sum(one.rows for one in undisturbed.told)


def test_a_night_cuts_a_study_that_the_next_one_goes_on_with(
    raw: Raw, spark: SparkSession, undisturbed: job.TuneResult
) -> None:
    nights, lake = [], lake_of(raw)
    settings = load_settings(raw.config, [*QUICK, "nightly.tune_rows=500"])
    while not nights or not nights[-1].version:
        nights.append(nightly.run(settings, spark, run_id="night", last_ds=DS))
        assert len(nights) < 9
        said = status(lake, 14, as_json=False)
        assert ("cut short: " in said) == (not nights[-1].version)
    assert len(nights) > 2
    assert len({one.study for one in nights}) == 1
    assert seen(nights[-1]) == seen(undisturbed)


def test_trials_that_wait_for_no_other_end_too(raw: Raw, spark: SparkSession) -> None:
    found = tune(raw, spark, "tune.stopping=async_halving", name="async", parallel=2)
    assert [one.number for one in found.told] == list(range(TRIALS))
    assert found.stopped > 0
    assert sum(ledger_rows(raw, "async").values()) == sum(one.rows for one in found.told)


def test_the_winner_is_trained_again_on_validation_rows(
    raw: Raw, spark: SparkSession, undisturbed: job.TuneResult
) -> None:
    found = tune(raw, spark, "tune.retrain=true", name="undisturbed")
    assert seen(found) == seen(undisturbed)
    assert found.version != undisturbed.version
    registry = Registry(load_settings(raw.config), lake_of(raw))
    tags = registry.resolve(found.version).tags
    assert tags["retrained"] == "true"
    assert tags["trial_weights"] == undisturbed.best.facts["weights"] != tags["weights_digest"]
    assert "train.learning_rate" in tags["space"]
    splits = [examples_of(raw).shards(split) for split in ("train", "val")]
    rows = sum(shard.rows for shards in splits for shard in shards)
    epochs = undisturbed.best.facts["best_epoch"] + 1
    assert ledger_rows(raw, "undisturbed")["tune-undisturbed-retrained"] == epochs * rows
    assert tune(raw, spark, "tune.retrain=true", name="undisturbed").version == found.version
    assert not list(Path(lake_of(raw).folder("checkpoints")).glob("tune-undisturbed-*"))
    settings = load_settings(raw.config, list(QUICK))
    judged = evaluate_job.compare(settings, spark, run_id="judged", challenger=found.version)
    tested = sum(shard.rows for shard in examples_of(raw).shards("test"))
    assert judged.challenger.metrics.rows == tested


@pytest.mark.slow
def test_a_trial_of_several_ranks_is_a_training_of_as_many(raw: Raw, spark: SparkSession) -> None:
    space = "tune.space={train.learning_rate: [1.0e-2, 1.0e+30]}"
    changes = (space, "tune.sampler=grid", "tune.ranks_per_trial=2", "train.optimizer=sgd")
    found = tune(raw, spark, *changes, name="ranks")
    good, bad = found.told
    assert "finite" in bad.failed
    settings = load_settings(raw.config, [*QUICK, *changes, "train.learning_rate=1.0e-2"])
    alone = train_job.run(settings, spark, run_id="alone", workers=2, resume="never")
    assert good.facts["weights"] == alone.digest
    assert good.rows == sum(epoch.rows for epoch in alone.history)
    with pytest.raises(ConfigError, match="ranks_per_trial times the trials at a time is 4"):
        tune(raw, spark, *changes, name="wide", parallel=2)


def test_trials_cannot_be_compared_without_validation_rows(
    tmp_path: Path, spark: SparkSession
) -> None:
    raw = Raw(tmp_path / "raw").add(rows_of(DS, 60))
    raw.settings = {"etl": {"split": {"train": 0.9, "val": 0.0, "test": 0.1}}}
    run_etl(raw.write(), spark, [DS])
    with pytest.raises(DataRefused, match="no rows in split 'val'") as refused:
        tune(raw, spark, name="blind")
    assert "etl.split.val" in str(refused.value)
