"""How a study ends: by a winner, by nothing but failures, by an error; and no night is stuck."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused
from jobs.commands.session import new_run
from jobs.lake.ledger import new_run_id, read_ledger
from jobs.models.artifact import load_model
from jobs.nightly.record import Record
from jobs.nightly.steps import Steps
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from jobs.train import job as train_job
from jobs.train.launch.rank_job import TrainJob
from jobs.tune import job, nightly, trials
from jobs.tune.progress import open_studies
from jobs.tune.study import known_facts, stored_study
from jobs.tune.trial import TrialResult
from tests.builders.lakes import lake_of, run_etl
from tests.builders.visits import Raw, rows_of

FIRST, SECOND = "2024-01-01", "2024-01-02"
QUICK = (
    "train.epochs=2",
    "tune.sampler=grid",
    "tune.generation=2",
    "tune.stopping=none",
    "tune.space={train.weight_decay: [0.0, 1.0e-4, 1.0e-3, 0.01]}",
)
DIVERGES = "train.learning_rate=1.0e+30"
HALVING = ("tune.stopping=halving", "tune.generation=4")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    raw = Raw(tmp_path_factory.mktemp("ended"))
    for ds in (FIRST, SECOND):
        raw.add(rows_of(ds, 300))
    raw.write()
    run_etl(raw, spark, [FIRST, SECOND])
    return raw


def settings_of(raw: Raw, *overrides: str) -> Settings:
    return load_settings(raw.config, [*QUICK, *overrides])


def tune(raw: Raw, spark: SparkSession, *overrides: str, **more: Any) -> job.TuneResult:
    return job.run(settings_of(raw, *overrides), spark, run_id="tune-test", **more)


def night(raw: Raw, spark: SparkSession, ds: str, *overrides: str) -> job.TuneResult:
    return nightly.run(settings_of(raw, *overrides), spark, run_id=f"night-{ds}", last_ds=ds)


def seen(result: job.TuneResult) -> list[tuple[Any, ...]]:
    return [(one.params, one.value, one.facts.get("weights")) for one in result.told]


@pytest.mark.parametrize(
    "changes",
    [
        ["train.warm_start=champion"],
        pytest.param(
            ["tune.space={train.warm_start: [null, champion], train.weight_decay: [0.0, 0.01]}"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_search_starts_from_the_champion_that_was_when_it_began(
    raw: Raw, spark: SparkSession, tmp_path: Path, changes: list[str]
) -> None:
    own = raw.copy(tmp_path / "own")
    registry = Registry(settings_of(own), lake_of(own))
    for seed in (1, 2):
        settings = settings_of(own, f"train.seed={seed}")
        train_job.run(settings, spark, run_id=f"train-{seed}", resume="never")
    registry.promote("1", new_run_id("promote"))
    whole = tune(own, spark, *changes, name="whole", last_ds=FIRST)
    begun = night(own, spark, FIRST, *changes, "nightly.tune_rows=1")
    assert not begun.version
    registry.promote("2", new_run_id("promote"))
    ended = night(own, spark, SECOND, *changes)
    assert (ended.study, bool(ended.version)) == (begun.study, True)
    assert seen(ended) == seen(whole)
    assert known_facts(ended.folder)["sources"] == {"champion": "1"}


def test_a_night_begins_another_study_where_the_open_one_cannot_go_on(
    raw: Raw, spark: SparkSession, tmp_path: Path
) -> None:
    own = raw.copy(tmp_path / "own")
    begun = night(own, spark, FIRST, "nightly.tune_rows=1")
    journal = Path(begun.folder, "journal.log")
    state = known_facts(begun.folder)["state_digest"]
    journal.write_text(journal.read_text().replace(state, "of-other-code"))
    ended = night(own, spark, SECOND)
    assert ended.study != begun.study
    assert ended.version
    assert open_studies(lake_of(own)) == [begun.study]


def test_a_study_ends_where_all_trials_fail(raw: Raw, spark: SparkSession) -> None:
    for ds in (FIRST, SECOND):
        with pytest.raises(DataRefused, match=f"'nightly-{ds}-.*0 were stopped early, and 4 fai"):
            night(raw, spark, ds, DIVERGES)
    assert not open_studies(lake_of(raw))


def test_a_study_ends_where_those_fail_that_went_on(
    raw: Raw, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trials.run_trial

    def failing(spark: SparkSession, job: TrainJob) -> TrialResult:
        found = whole(spark, job)
        return found if found.is_paused else replace(found, trained=None, failed="no memory")

    monkeypatch.setattr(trials, "run_trial", failing)
    with pytest.raises(DataRefused, match="3 were stopped early, and 1 failed, the last: no memo"):
        tune(raw, spark, *HALVING, name="late")
    assert not open_studies(lake_of(raw))


def test_a_search_that_is_refused_leaves_the_night_as_it_is(raw: Raw, spark: SparkSession) -> None:
    settings = settings_of(raw, "tune.ranks_per_trial=2", "tune.parallel=4")
    steps = Steps(settings, lambda: spark, lake_of(raw))
    with new_run(settings, "nightly") as run:
        (outcome,) = steps.tune(run, [Record(SECOND)])
    assert outcome.message.startswith("the search was refused: tune.ranks_per_trial times")
    assert outcome.status == "done"


def test_an_error_in_one_trial_ends_all_that_wait_for_no_other(
    raw: Raw, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, begun = trials.run_trial, []

    def broken(spark: SparkSession, job: TrainJob) -> TrialResult:
        begun.append(job.settings.train.weight_decay)
        if job.settings.train.weight_decay == 0.0:
            raise OSError("no space left on device")
        return whole(spark, job)

    monkeypatch.setattr(trials, "run_trial", broken)
    with pytest.raises(OSError, match="no space left"):
        tune(raw, spark, "tune.stopping=async_halving", name="broken", parallel=2)
    # The other thread's trial goes to its rung.
    assert len(begun) <= 2
    study = stored_study(lake_of(raw).folder("studies", "broken"))
    assert not any(one.state.is_finished() for one in study.trials)


def test_trials_that_stop_at_a_rung_are_one_commit_of_the_ledger(
    raw: Raw, spark: SparkSession
) -> None:
    found = tune(raw, spark, *HALVING, name="rung")
    rows = [row for row in read_ledger(lake_of(raw), stage="tune") if "-rung-" in row["run"]]
    assert (found.stopped, len(rows)) == (3, 4)
    assert len({row["recorded_at"] for row in rows}) == 2


def test_a_study_that_is_made_shorter_ends_with_a_winner(raw: Raw, spark: SparkSession) -> None:
    settings = settings_of(raw)
    begun = tune(raw, spark, name="shorter", budget=trials.Budget(rows=1))
    assert (len(begun.told), begun.version) == (2, "")
    ended = tune(raw, spark, "tune.trials=1", name="shorter")
    assert (len(ended.told), ended.trials) == (2, 2)
    assert Registry(settings, lake_of(raw)).resolve(ended.version).tags["study"] == "shorter"


def test_the_winner_as_it_was_is_taken_after_one_that_was_trained_again(
    raw: Raw, spark: SparkSession
) -> None:
    again = tune(raw, spark, "tune.retrain=true", name="again")
    once = tune(raw, spark, name="again")
    assert once.version != again.version
    version = Registry(settings_of(raw), lake_of(raw)).resolve(once.version)
    assert "retrained" not in version.tags
    assert once.best is not None
    assert load_model(version.folder_url).digest == once.best.facts["weights"]
    assert tune(raw, spark, name="again").version == once.version
    assert tune(raw, spark, "tune.retrain=true", name="again").version == again.version
    assert not list(Path(lake_of(raw).folder("checkpoints")).glob("tune-again-*"))
