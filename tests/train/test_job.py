"""The training job: dates, state, registration, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, DataRefused, Locked
from jobs.lake.ledger import read_ledger
from jobs.lake.lock import stage_lock
from jobs.lake.state import load_state
from jobs.models.artifact import load_model
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.stores.files import read_json, write_json
from jobs.train import job
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.snapshot import Snapshot
from schemas.field import FIRST_OOV_ID
from tests.builders.lakes import examples_of, lake_of, run_etl
from tests.builders.training import Killed, Mortal
from tests.builders.visits import VISITS, Raw, rows_of

FIRST, SECOND, THIRD = "2024-01-01", "2024-01-02", "2024-01-05"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    raw = Raw(tmp_path_factory.mktemp("trained"))
    for ds in (FIRST, SECOND, THIRD):
        raw.add(rows_of(ds, 300))
    raw.write()
    run_etl(raw, spark, [FIRST, SECOND, THIRD])
    return raw


def train(raw: Raw, spark: SparkSession, run_id: str, *overrides: str, **more: Any) -> Any:
    settings = load_settings(raw.config, overrides)
    return job.run(settings, spark, run_id=run_id, **more)


def test_a_run_registers_the_best_epochs_model(raw: Raw, spark: SparkSession) -> None:
    result = train(raw, spark, "train-a")
    lake, examples = lake_of(raw), examples_of(raw)
    state = examples.info["states"][THIRD]

    version = Registry(load_settings(raw.config), lake).resolve("latest")
    assert version.version == result.version
    assert version.folder_url == result.folder
    assert load_model(result.folder).digest == result.digest
    assert load_model(result.folder).spec.table_rows == load_state(lake, state).table_rows(
        VISITS.categorical
    )
    tags = version.tags
    assert tags["run_id"] == "train-a"
    assert tags["state_digest"] == state
    assert tags["examples_version"] == str(examples.version)
    assert tags["declaration"] == VISITS.digest
    assert version.dates == (FIRST, THIRD)
    assert json.loads(tags["fingerprint"])["rows"] == result.best.rows
    assert json.loads(tags["settings"])["train"]["workers"] == 1

    assert len(result.history) == 2
    assert result.best.val_auc == max(epoch.val_auc for epoch in result.history)
    assert result.best.rows == sum(shard.rows for shard in examples.shards("train"))
    (row,) = read_ledger(lake, run="train-a")
    assert (row["stage"], row["ds"], row["status"]) == ("train", THIRD, "done")
    assert row["digests"] == {"weights": result.digest, "state": state}
    assert row["versions"] == {"examples": str(examples.version), "model": result.version}
    assert row["metrics"]["val_auc"] == result.best.val_auc
    assert not Path(lake.folder("checkpoints", "train-a")).exists(), "the registry has the model"
    assert result.version in result.summary()
    assert result.folder in result.summary()


def test_the_same_training_again_gives_the_same_weights(raw: Raw, spark: SparkSession) -> None:
    first = train(raw, spark, "train-b", "train.seed=3")
    again = train(raw, spark, "train-c", "train.seed=3")
    other = train(raw, spark, "train-d", "train.seed=4")
    assert first.digest == again.digest != other.digest
    assert first.version == again.version != other.version


def test_dates_are_selected_by_the_calendar(raw: Raw) -> None:
    examples = examples_of(raw)

    def dates(window_days: int | None, last_ds: str | None) -> list[str]:
        return job.select_dates(examples, VISITS, window_days, last_ds)

    assert dates(None, None) == [FIRST, SECOND, THIRD]
    assert dates(4, None) == [SECOND, THIRD]
    assert dates(3, None) == [THIRD]
    assert dates(None, "2024-01-04") == [FIRST, SECOND]
    assert dates(1, "2024-01-04") == [SECOND]
    with pytest.raises(DataRefused, match="has no date up to 2023-12-31"):
        dates(None, "2023-12-31")


def test_the_state_is_that_of_the_newest_selected_date(raw: Raw, spark: SparkSession) -> None:
    result = train(raw, spark, "train-e", last_ds=SECOND)
    assert result.dates == (FIRST, SECOND)
    state = load_state(lake_of(raw), examples_of(raw).info["states"][SECOND])
    means, _ = state.means_and_stds(VISITS.numeric)
    assert load_model(result.folder).spec.means == tuple(means)


def test_another_declaration_is_refused_naming_the_fields(raw: Raw) -> None:
    fields = tuple(replace(f, min_count=9) if f.name == "shop_id" else f for f in VISITS.fields)
    with pytest.raises(DataRefused, match="fields shop_id"):
        job.select_dates(examples_of(raw), replace(VISITS, fields=fields), None, None)


def test_no_examples_are_refused(tmp_path: Path, spark: SparkSession) -> None:
    raw = Raw(tmp_path / "empty").add(rows_of(FIRST, 3)).write()
    with pytest.raises(DataRefused, match="no table"):
        train(raw, spark, "train-f")


def test_an_unknown_model_is_refused_without_a_registration(raw: Raw, spark: SparkSession) -> None:
    before = Registry(load_settings(raw.config), lake_of(raw)).resolve("latest").version
    with pytest.raises(ConfigError, match="wide_deap"):
        train(raw, spark, "train-g", "train.model=wide_deap")
    assert Registry(load_settings(raw.config), lake_of(raw)).resolve("latest").version == before


def test_two_trainings_at_once_are_refused(raw: Raw, spark: SparkSession) -> None:
    with stage_lock(lake_of(raw), "train", "train-h"), pytest.raises(Locked, match="train-h"):
        train(raw, spark, "train-i")


def test_a_run_whose_lock_was_taken_over_ends_and_removes_nothing(
    raw: Raw, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_of(raw)
    folder = Path(lake.folder("checkpoints", "train-lost"))

    class Overtaken(Mortal):
        def committed(self, snapshot: Snapshot) -> None:
            RankMemory.committed(self, snapshot)
            if not list(folder.glob("at-*/commit.json")) or self.overtaken:
                return
            url = lake.folder("locks", "train.json")
            now = read_json(url)
            write_json(url, {**now, "token": now["token"] + 1, "run": "another"})
            (folder / "at-1").mkdir()
            self.overtaken = True

        overtaken = False

    monkeypatch.setattr("jobs.train.launch.ranks.RankMemory", lambda: Overtaken(0))
    settings = ("train.seed=21", "train.checkpoint_rows=64", "train.epochs=4")
    with pytest.raises(Locked, match="taken over by run another"):
        train(raw, spark, "train-lost", *settings)
    assert (folder / "at-1").is_dir(), "what may be the other run's stays"
    assert list(folder.glob("at-*/commit.json"))
    url = lake.folder("locks", "train.json")
    write_json(url, {**read_json(url), "released": True})
    shutil.rmtree(folder)


def test_early_stopping_needs_validation_rows(tmp_path: Path, spark: SparkSession) -> None:
    raw = Raw(tmp_path / "unvalidated").add(rows_of(FIRST, 60)).write()
    split = "etl.split={train: 0.9, val: 0.0, test: 0.1}"
    run_etl(raw, spark, [FIRST], split)
    with pytest.raises(ConfigError, match="split 'val' has no rows"):
        train(raw, spark, "train-j", split, "train.early_stop_epochs=2")
    assert "not validated" in train(raw, spark, "train-k", split).summary()


def test_ids_younger_than_the_state_become_oov_buckets(tmp_path: Path, spark: SparkSession) -> None:
    """An older date that is added late brings ids that the newest date's state lacks."""
    raw = Raw(tmp_path / "late").add(rows_of(FIRST, 200, ("x", "y")))
    raw.add(rows_of(SECOND, 200, ("a", "b"))).write()
    run_etl(raw, spark, [SECOND])
    run_etl(raw, spark, [FIRST])
    settings, lake, examples = load_settings(raw.config), lake_of(raw), examples_of(raw)
    state = load_state(lake, examples.info["states"][SECOND])
    made = job.job_of(settings, lake, examples, [FIRST, SECOND], state, "train-l")

    assert set(made.id_maps) == {"shop_id"}
    ids = [int(i) for batch in made.stream("train", 0, 1).epoch(0) for i in batch.sparse[:, 0]]
    known = state.vocabulary["shop_id"].rows
    buckets = range(FIRST_OOV_ID, FIRST_OOV_ID + 3)
    assert max(ids) < known
    assert any(i in buckets for i in ids), "x and y"
    assert any(i >= FIRST_OOV_ID + 3 for i in ids), "a and b keep their ids"
    assert train(raw, spark, "train-m").best.rows == made.stream("train", 0, 1).rows


# Resume


def test_a_killed_run_is_finished_by_the_next_one(
    raw: Raw, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("train.seed=11", "train.checkpoint_rows=64", "train.epochs=4")
    whole = train(raw, spark, "train-w", *settings)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("jobs.train.launch.ranks.RankMemory", lambda: Mortal(20))
        train(raw, spark, "train-x", *settings)
    folder = Path(lake_of(raw).folder("checkpoints", "train-x"))
    assert sorted(path.name[:3] for path in folder.iterdir())[0] == "at-"

    with pytest.raises(DataRefused, match=r"train\.learning_rate was 0\.001, is 0\.5") as refused:
        other = (*settings, "train.learning_rate=0.5")
        train(raw, spark, "train-y", *other, resume="train-x")
    assert refused.value.exit_code == 3

    result = train(raw, spark, "train-z", *settings)
    assert result.digest == whole.digest
    assert len(result.history) == 4
    assert not folder.exists(), "a finished run leaves no checkpoint"
    assert result.version == whole.version, "equal weights are one version"


def test_a_resumed_run_names_what_it_was_started_with(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since the kill the examples have another version, and the alias another champion."""
    raw = Raw(tmp_path / "moved").add(rows_of(FIRST, 200)).add(rows_of(SECOND, 200, "xy")).write()
    run_etl(raw, spark, [FIRST])
    registry = Registry(load_settings(raw.config), lake_of(raw))
    first = train(raw, spark, "train-1", "train.seed=1")
    registry.promote(first.version, "gate-1")
    settings = ("train.warm_start=champion", "train.checkpoint_rows=64", "train.epochs=4")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("jobs.train.launch.ranks.RankMemory", lambda: Mortal(9))
        train(raw, spark, "train-2", *settings, last_ds=FIRST)
    trained_on = examples_of(raw).version
    run_etl(raw, spark, [SECOND])
    assert examples_of(raw).version > trained_on
    # Its first layer has other statistics.
    second = train(raw, spark, "train-3", "train.seed=3")
    registry.promote(second.version, "gate-3")

    result = train(raw, spark, "train-4", *settings, last_ds=FIRST)

    tags = registry.resolve(result.version).tags
    assert (tags["warm_start"], tags["examples_version"]) == (first.version, str(trained_on))
    (row,) = read_ledger(lake_of(raw), run="train-4")
    assert row["versions"]["examples"] == str(trained_on)
    assert not Path(lake_of(raw).folder("checkpoints", "train-2")).exists(), "it was finished"


@pytest.mark.slow
def test_the_drivers_death_is_survived(raw: Raw, spark: SparkSession) -> None:
    settings = ("train.seed=12", "train.checkpoint_rows=64", "train.epochs=300")
    whole = train(raw, spark, "train-dw", *settings)
    flags = [word for text in settings for word in ("--set", text)]
    command = [sys.executable, "-m", "jobs.main", "train", "--config", str(raw.config), *flags]
    folder = Path(lake_of(raw).folder("checkpoints"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("*/at-*/commit.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    assert "going on from checkpoint train-" in done.stderr
    assert f"models/{Path(whole.folder).name}" in done.stdout
    assert not list(folder.glob("*/at-*"))
