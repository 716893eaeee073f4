"""Vacuum: what no kept version names goes, and nothing else does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from pyspark.sql import SparkSession

from jobs.etl.fit.states import state_entries
from jobs.etl.job import Pass
from jobs.lake.ledger import read_ledger
from jobs.lake.lock import stage_lock
from jobs.lake.state import load_state
from jobs.main import main
from jobs.operations import vacuum as vacuums
from jobs.settings.load import load_settings
from jobs.train.keep import checkpoint
from jobs.train.keep.snapshot import Snapshot
from jobs.train.step.history import Position
from jobs.tune.study import Study
from tests.builders.lakes import example_rows, examples_of, lake_of, quarantined, run_etl
from tests.builders.models import register_model
from tests.builders.s3 import S3
from tests.builders.visits import Raw, rows_of
from tests.operations.conftest import DATES


def vacuum(raw: Raw, *more: str) -> int:
    return main(["vacuum", "--config", str(raw.config), "--quiet", "--older-than", "0", *more])


def data_files(raw: Raw) -> set[str]:
    return {str(path.relative_to(raw.lake)) for path in raw.lake.rglob("part-*.parquet")}


def named_files(raw: Raw) -> set[str]:
    tables = ("examples", "quarantine", "contributions", "id_log", "ledger")
    return {
        f"visits/{name}/{file.path}" for name in tables for file in lake_of(raw).table(name).files()
    }


def orphan(raw: Raw, run: str) -> Path:
    """What a dead run left: a shard, a manifest, a half-written task."""
    folder = raw.lake / "visits" / "examples"
    shard = folder / f"run={run}" / "ds=2024-01-09" / "part-0.parquet"
    task = folder / f"run={run}" / "_temporary" / "0" / "part-1.parquet"
    for path in (shard, task, folder / "_manifests" / f"{run}.parquet"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    return folder / f"run={run}"


def test_only_what_the_newest_versions_name_stays(
    raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, refused = example_rows(raw), quarantined(raw)
    replaced = data_files(raw) - named_files(raw)
    assert replaced, "the first date was made twice"
    dead = orphan(raw, "etl-dead-0")
    state = raw.lake / "visits" / "states" / "0123" / "state.json"
    state.parent.mkdir()
    state.write_text("{}")
    scored = raw.lake / "visits" / "judged" / "run=score-dead" / "valid-0-0.parquet"
    judged = raw.lake / "visits" / "judged" / "run=etl-dead-0" / "valid-0-0.parquet"
    for file in (scored, judged):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    assert vacuum(raw, "--dry-run") == 0
    assert "would remove" in capsys.readouterr().out
    assert dead.exists()
    assert replaced < data_files(raw)

    assert vacuum(raw) == 0
    said = capsys.readouterr().out
    assert data_files(raw) == named_files(raw) | {
        f"visits/ledger/{file.path}" for file in lake_of(raw).table("ledger").files()
    }
    assert not dead.exists()
    assert not scored.exists()
    assert not judged.exists()
    assert not state.parent.exists()
    runs = {shard.run for shard in examples_of(raw).shards()}
    manifests = raw.lake / "visits" / "examples" / "_manifests"
    assert {path.stem for path in manifests.glob("*.parquet")} == runs
    assert example_rows(raw).equals(rows)
    assert quarantined(raw) == refused
    (row,) = read_ledger(lake_of(raw), stage="vacuum")
    assert row["message"] in said
    assert row["counts"]["examples_files"] > 0
    assert row["counts"]["states_files"] == 1
    assert vacuum(raw) == 0
    assert "removed 0 files, 0 bytes" in capsys.readouterr().out


def test_what_is_younger_than_the_age_stays(raw: Raw) -> None:
    old, young = orphan(raw, "etl-old-0"), orphan(raw, "etl-young-0")
    before = data_files(raw)
    moment = time.time() - 3 * 3600
    for path in [*old.rglob("*"), *(old.parent / "_manifests").glob("etl-old-0*")]:
        os.utime(path, (moment, moment))
    assert main(["vacuum", "--config", str(raw.config), "--quiet", "--older-than", "2"]) == 0
    assert not old.exists()
    assert young.exists()
    # The versions that the second run replaced were the newest less than two hours ago.
    assert before - data_files(raw) == {
        f"visits/examples/run=etl-old-0/{part}"
        for part in ("ds=2024-01-09/part-0.parquet", "_temporary/0/part-1.parquet")
    }


def test_files_of_a_run_that_holds_a_lock_stay(
    raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    working, other = orphan(raw, "etl-works-0"), orphan(raw, "etl-worked-0")
    with stage_lock(lake_of(raw), "etl", "etl-works"):
        assert vacuum(raw) == 0
    assert sum(path.is_file() for path in working.rglob("*")) == 2
    assert (working.parent / "_manifests" / "etl-works-0.parquet").exists()
    assert not other.exists()
    assert "states were left alone" in capsys.readouterr().out
    assert vacuum(raw) == 0
    assert not working.exists()


def name_by_model(raw: Raw) -> None:
    register_model(load_settings(raw.config), DATES[-1])


def name_by_checkpoint(raw: Raw) -> None:
    opened = examples_of(raw)
    snapshot = Snapshot(
        {"w": torch.ones(2)}, {}, {}, torch.zeros(1, 1, dtype=torch.uint8), Position()
    )
    state = opened.info["states"][DATES[-1]]
    identity = {"examples_version": opened.version, "state_digest": state}
    checkpoint.write(lake_of(raw).folder("checkpoints", "train-1"), snapshot, identity)


def name_by_study(raw: Raw) -> None:
    settings = load_settings(raw.config)
    facts = {"examples_version": examples_of(raw).version, "dates": [DATES[0], DATES[-1]]}
    Study(lake_of(raw).folder("studies", "first"), settings.tune, ("auc", True), facts)


@pytest.mark.parametrize("name", [name_by_model, name_by_checkpoint, name_by_study])
def test_what_a_model_or_checkpoint_names_stays_unless_forced(
    raw: Raw, name: Callable[[Raw], None]
) -> None:
    name(raw)
    opened = examples_of(raw)
    states = set((raw.lake / "visits" / "states").iterdir())
    counted = lake_of(raw).table("contributions")
    version = counted.rewrite([], {"ds": DATES}, {"run": "etl-2"}, "etl", 99)
    info = {**opened.info, "versions": {**opened.info["versions"], "contributions": version}}
    lake_of(raw).table("examples").rewrite([], {"ds": DATES}, info, "etl", 99)
    assert vacuum(raw) == 0
    assert all(Path(opened.url, shard.path).exists() for shard in opened.shards())
    named = counted.files(opened.info["versions"]["contributions"])
    assert named and all(Path(counted.url, file.path).exists() for file in named)
    assert set((raw.lake / "visits" / "states").iterdir()) == states
    assert vacuum(raw, "--force") == 0
    assert not list(Path(opened.url).glob("run=*"))


def test_a_study_names_its_examples_until_it_is_past_retention(raw: Raw) -> None:
    name_by_study(raw)
    opened = examples_of(raw)
    lake_of(raw).table("examples").rewrite([], {"ds": DATES}, opened.info, "etl", 99)
    aged(raw, "first", 29.9, "studies")
    assert vacuum(raw) == 0
    assert all(Path(opened.url, shard.path).exists() for shard in opened.shards())
    aged(raw, "first", 30.1, "studies")
    assert vacuum(raw) == 0
    assert not list(Path(opened.url).glob("run=*"))


def test_a_models_state_is_readable_though_a_dead_run_wrote_it_again(
    raw: Raw, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_by_model(raw)
    lake = lake_of(raw)
    digest = examples_of(raw).info["states"][DATES[-1]]
    before = load_state(lake, digest)
    entries = state_entries(lake, before)
    raw.add(rows_of("2024-01-04", 60, ("x", "y", "z"))).write()
    with monkeypatch.context() as patch:
        patch.setattr(Pass, "_commit", dies)
        with pytest.raises(KeyboardInterrupt):
            run_etl(raw, spark, [DATES[-1], "2024-01-04"])
    assert load_state(lake, digest).id_log_version > before.id_log_version
    lake.table("id_log").restore(before.id_log_version, "etl", 99)
    assert vacuum(raw) == 0
    assert state_entries(lake, load_state(lake, digest)).equals(entries)


def dies(*_: object) -> int:
    raise KeyboardInterrupt


def test_two_at_once_both_end_well(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    remove, ended = vacuums._remove, list[int]()

    def after_another(*arguments: Any) -> None:
        monkeypatch.setattr(vacuums, "_remove", remove)
        ended.append(vacuum(raw))
        remove(*arguments)

    monkeypatch.setattr(vacuums, "_remove", after_another)
    assert [vacuum(raw), *ended] == [0, 0]
    assert data_files(raw) >= named_files(raw)


def test_half_files_in_named_folders_go(raw: Raw) -> None:
    (state, *_) = (raw.lake / "visits" / "states").glob("*/state.json")
    shard = Path(examples_of(raw).url, examples_of(raw).shards()[0].path)
    halves = [file.with_name(f"{file.name}.1790000000000000000.tmp") for file in (state, shard)]
    for half in halves:
        half.write_bytes(b"rows of a lost attempt")
    assert vacuum(raw, "--set", "etl.shard_rows=20") == 0
    assert not any(half.exists() for half in halves)
    assert state.exists() and shard.exists()


def aged(raw: Raw, run: str, days: float, place: str = "checkpoints") -> Path:
    """The run's folder, last written so many days ago."""
    folder = raw.lake / "visits" / place / run
    moment = time.time() - 86_400 * days
    for path in folder.rglob("*"):
        os.utime(path, (moment, moment))
    return folder


def test_checkpoints_that_nobody_goes_on_from_are_given_up_and_free_their_examples(
    raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    name_by_checkpoint(raw)
    opened = examples_of(raw)
    lake_of(raw).table("examples").rewrite([], {"ds": DATES}, opened.info, "etl", 99)
    folder = aged(raw, "train-1", 29.9)
    assert vacuum(raw) == 0
    assert "train-1" not in capsys.readouterr().out and folder.exists()

    aged(raw, "train-1", 30.1)
    assert vacuum(raw, "--set", "retention.checkpoints_days=null") == 0
    assert vacuum(raw, "--dry-run") == 0
    assert "would give up unfinished trainings train-1" in capsys.readouterr().out
    for stage in ("train", "tune"):
        with stage_lock(lake_of(raw), stage, f"{stage}-2"):
            # It may go on from any of them.
            assert vacuum(raw) == 0
        assert f"checkpoints were left alone: stage '{stage}'" in capsys.readouterr().out
    assert folder.exists() and list(Path(opened.url).glob("run=*"))

    assert vacuum(raw) == 0
    assert "gave up unfinished trainings train-1" in capsys.readouterr().out
    assert not folder.exists()
    assert not list(Path(opened.url).glob("run=*"))


def test_a_damaged_table_is_refused_before_anything_is_removed(
    raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = examples_of(raw).shards()[0]
    Path(examples_of(raw).url, lost.path).unlink()
    before = data_files(raw)
    assert vacuum(raw) == 3
    assert lost.path in capsys.readouterr().err
    assert data_files(raw) == before


def test_dates_past_retention_are_dropped_in_a_commit_of_each_table(
    raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", "retention.examples_days=2", "--set", "retention.quarantine_days=1")
    assert vacuum(raw, *settings, "--dry-run") == 0
    assert "would drop 1 dates of examples" in capsys.readouterr().out
    assert set(example_rows(raw)["ds"]) == set(DATES)

    kept = examples_of(raw).info["states"]
    assert vacuum(raw, *settings) == 0
    assert "dropped 2 dates of quarantine, 2024-01-01..2024-01-02" in capsys.readouterr().out
    assert set(example_rows(raw)["ds"]) == set(DATES[1:])
    assert {row["ds"] for row in quarantined(raw)} == {DATES[2]}
    info = examples_of(raw).info
    assert info["states"] == {ds: kept[ds] for ds in DATES[1:]}
    assert data_files(raw) == named_files(raw)


def test_retention_waits_for_no_writer(raw: Raw) -> None:
    before = data_files(raw)
    with stage_lock(lake_of(raw), "etl", "etl-works"):
        assert vacuum(raw, "--set", "retention.examples_days=1") == 5
    assert data_files(raw) == before


def test_a_lake_on_s3_is_vacuumed_alike(raw: Raw, s3: S3, tmp_path: Path) -> None:
    orphan(raw, "etl-dead-0")
    url = s3.upload(raw.lake, tmp_path.name)
    # The registry of such a lake is a server, which forcing does not ask.
    assert vacuum(raw, "--set", f"lake={url}", "--force") == 0
    fs, root = fsspec.core.url_to_fs(url)
    left = {path.removeprefix(f"{root}/") for path in fs.find(root)}
    tables = {path for path in left if "/run=" in path and path.endswith(".parquet")}
    assert tables == {path for path in named_files(raw) if "/run=" in path}
    assert not [path for path in left if "etl-dead" in path]


def test_refused_rows_that_a_dead_run_replaced_stay_until_they_are_put_back(
    raw: Raw, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    before = quarantined(raw)
    Raw(raw.folder).add(rows_of(DATES[0], 61)).write()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Pass, "_commit", die)
        run_etl(raw, spark, DATES[:1])
    assert len(quarantined(raw)) == len(before) - 1
    assert vacuum(raw) == 0
    Raw(raw.folder).add(rows_of("2024-01-04", 20)).write()
    run_etl(raw, spark, ["2024-01-04"])
    assert sorted(map(repr, quarantined(raw))) == sorted(map(repr, before))
