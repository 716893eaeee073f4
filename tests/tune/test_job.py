"""A study's trials, values and winner are the same however many run at a time, after any kill."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, DataRefused
from jobs.lake.ledger import read_ledger
from jobs.models.artifact import load_model
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.train import job as train_job
from jobs.tune import job, trials
from jobs.tune.progress import shown_studies
from jobs.tune.report import write_report
from tests.builders.lakes import examples_of, lake_of, run_etl
from tests.builders.visits import Raw, rows_of

FIRST, SECOND = "2024-01-01", "2024-01-02"
SPACE = (
    "tune.space={train.model: [mlp, dcn_v2], train.learning_rate: {low: 1.0e-3, high: 0.1, "
    "log: true}, train.cross_layers: {low: 1, high: 3, when: {train.model: [dcn_v2]}}}"
)
ONE_RATE = "tune.space={train.dropout: [0.0, 0.1]}"
QUICK = (
    "train.epochs=2",
    "train.batch_rows=64",
    "tune.trials=5",
    "tune.generation=2",
    "tune.stopping=none",
    SPACE,
)


class Killed(BaseException):
    """What ends the driver in the middle."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    raw = Raw(tmp_path_factory.mktemp("tuned"))
    for ds in (FIRST, SECOND):
        raw.add(rows_of(ds, 300))
    raw.write()
    run_etl(raw, spark, [FIRST, SECOND])
    return raw


def tune(raw: Raw, spark: SparkSession, *overrides: str, **more: Any) -> job.TuneResult:
    settings = load_settings(raw.config, [*QUICK, *overrides])
    return job.run(settings, spark, run_id="tune-test", **more)


def seen(result: job.TuneResult) -> list[tuple[Any, ...]]:
    """What a study came to, without times."""
    return [
        (one.number, tuple(one.params.items()), one.value, one.facts.get("weights"), one.failed)
        for one in result.told
    ]


@pytest.fixture(scope="module")
def undisturbed(raw: Raw, spark: SparkSession) -> job.TuneResult:
    return tune(raw, spark, name="undisturbed")


def test_the_winner_is_registered_with_its_study(
    raw: Raw,
    spark: SparkSession,
    undisturbed: job.TuneResult,
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = [one.value for one in undisturbed.told if one.value is not None]
    assert len(undisturbed.told) == 5
    assert undisturbed.best.value == max(values)
    version = Registry(load_settings(raw.config), lake_of(raw)).resolve(undisturbed.version)
    assert version.tags["study"] == "undisturbed"
    assert version.tags["trial"] == str(undisturbed.best.number)
    weights = undisturbed.best.facts["weights"]
    assert load_model(version.folder_url).digest == version.tags["weights_digest"] == weights
    for one in undisturbed.told:
        assert ("train.cross_layers" in one.params) == (one.params["train.model"] == "dcn_v2")
    page = Path(write_report(load_settings(raw.config), "undisturbed")).read_text()
    assert f"trial {undisturbed.best.number}, version {undisturbed.version}" in page
    assert f"{undisturbed.best.value:.6f}" in page
    caplog.set_level(logging.INFO, "millstream.tune")
    again = tune(raw, spark, name="undisturbed")
    assert (again.version, seen(again)) == (undisturbed.version, seen(undisturbed))
    # Not one for each setting that is tried before the first trial.
    assert sum("a rank of a trial" in line for line in caplog.messages) == 1
    assert not any("a rank with all tables" in line for line in caplog.messages)
    (line,) = [one for one in shown_studies(lake_of(raw), 14) if one.study == "undisturbed"]
    assert (line.ended, line.version, line.told) == (True, undisturbed.version, 5)
    assert line.best == undisturbed.best.value


def test_trials_do_not_follow_from_how_many_run_at_a_time(
    raw: Raw, spark: SparkSession, undisturbed: job.TuneResult
) -> None:
    assert seen(tune(raw, spark, name="three", parallel=3)) == seen(undisturbed)
    assert seen(tune(raw, spark, "tune.parallel=2", name="two")) == seen(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["run_trial", "record", "ledger_row", "_registered"])
def test_a_study_that_was_cut_short_goes_on_as_the_same(
    raw: Raw,
    spark: SparkSession,
    undisturbed: job.TuneResult,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Cut before a trial, before it is in the ledger, before it is told of, before its end."""
    name, times = f"cut-{place.strip('_')}", iter([False, False, True])
    of = job if place == "_registered" else trials
    whole = getattr(of, place)

    def killed(*arguments: Any) -> Any:
        if place == "_registered" or next(times, False):
            raise Killed
        return whole(*arguments)

    monkeypatch.setattr(of, place, killed)
    with pytest.raises(Killed):
        tune(raw, spark, name=name)
    monkeypatch.undo()
    assert seen(tune(raw, spark, name=name)) == seen(undisturbed)
    rows = [row for row in read_ledger(lake_of(raw), stage="tune") if f"-{name}-" in row["run"]]
    assert sorted(row["run"] for row in rows) == [f"tune-{name}-{n:04d}" for n in range(5)]
    trained = 2 * sum(shard.rows for shard in examples_of(raw).shards("train"))
    assert [row["counts"]["rows"] for row in rows] == [trained] * 5


def test_a_study_stays_with_the_space_and_the_rows_that_it_was_begun_with(
    raw: Raw, spark: SparkSession, tmp_path: Path
) -> None:
    own = raw.copy(tmp_path / "own")
    begun = tune(own, spark, "tune.trials=2", name="kept")
    with pytest.raises(ConfigError, match="'kept' exists with another space") as refused:
        tune(own, spark, "tune.space={train.dropout: [0.0, 0.1]}", name="kept")
    assert "--study" in str(refused.value)
    with pytest.raises(ConfigError, match="another train"):
        tune(own, spark, "train.weight_decay=0.1", name="kept")
    own.add(rows_of("2024-01-03", 300)).write()
    run_etl(own, spark, ["2024-01-03"])
    longer = tune(own, spark, "tune.trials=4", name="kept")
    assert seen(longer)[:2] == seen(begun)
    rows = read_ledger(lake_of(own), stage="tune")
    assert len({row["versions"]["examples"] for row in rows if "-kept-" in row["run"]}) == 1


@pytest.mark.slow
def test_training_does_not_go_on_from_a_trial(
    raw: Raw, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end as the trial did, and take away what the study registers."""
    space = "tune.space={train.dropout: [0.0, 0.5]}"
    monkeypatch.setattr(job, "_registered", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune(raw, spark, space, "tune.trials=4", name="beside")
    monkeypatch.undo()
    folders = list(Path(lake_of(raw).folder("checkpoints")).glob("tune-beside-*"))
    assert len(folders) == 1
    for dropout in (0.0, 0.5):
        settings = load_settings(raw.config, [*QUICK, f"train.dropout={dropout}"])
        train_job.run(settings, spark, run_id=f"train-{dropout}", workers=1)
    assert folders[0].exists()
    assert tune(raw, spark, space, "tune.trials=4", name="beside").version


def test_a_trial_that_fails_is_a_result(raw: Raw, spark: SparkSession) -> None:
    space = "tune.space={train.optimizer: [sgd, adam], train.learning_rate: [1.0e-2, 1.0e+30]}"
    found = tune(raw, spark, space, "tune.sampler=grid", "tune.trials=9", name="failing")
    assert len(found.told) == 4
    assert 0 < found.failed < 4
    assert all("finite" in one.failed for one in found.told if one.value is None)
    with pytest.raises(DataRefused, match="'none' went to its end: 0 were stopped"):
        tune(raw, spark, "train.learning_rate=1.0e+30", "tune.trials=2", ONE_RATE, name="none")


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "quasi_random", "gp"])
def test_each_sampler_asks_for_the_same_again(raw: Raw, spark: SparkSession, sampler: str) -> None:
    found = [
        tune(raw, spark, f"tune.sampler={sampler}", "tune.trials=3", name=f"{sampler}-{n}")
        for n in range(2)
    ]
    assert seen(found[0]) == seen(found[1])
    assert len({tuple(one.params.values()) for one in found[0].told}) == 3


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{}", "tune.space is empty"),
        ("{train.model: [mlp]}", "one value is no choice"),
        ("{train.learning: [1, 2]}", "only settings of train"),
        ("{train.workers: [1, 2]}", "cannot be told apart"),
        ("{train.learning_rate: {low: 1, high: 0.1}}", "low must be below high"),
        ("{train.learning_rate: [0.1, -1.0]}", "train.learning_rate = -1.0"),
        ("{train.batch_rows: [64, 65]}", "multiple of stream.streams"),
        (
            "{train.dropout: [0.0, 0.1], train.seed: {low: 1, high: 9, when: {train.x: [1]}}}",
            "entry",
        ),
        ("{train.model: [mlp, nonsense]}", "nonsense"),
        ("{train.leave_out: [[], [shop]]}", "'shop', which is no input of 'visits'"),
    ],
)
def test_an_impossible_space_is_named(raw: Raw, spark: SparkSession, space: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tune(raw, spark, f"tune.space={space}", name="impossible")


def test_a_grid_that_nobody_waits_for_is_refused(raw: Raw) -> None:
    entry = "{low: 1, high: 1000}"
    space = f"{{train.seed: {entry}, train.cross_layers: {entry}, train.warmup_rows: {entry}}}"
    with pytest.raises(ConfigError, match="points or more"):
        load_settings(raw.config, [f"tune.space={space}", "tune.sampler=grid"])
