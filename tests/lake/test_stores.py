"""The same lake on S3: tables, manifests, states, ledger, locks, models; read by the stream."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pyspark.sql import SparkSession
from pyspark.sql.types import StringType, StructType

from jobs.base.errors import DataRefused, Locked
from jobs.lake import ledger, lock
from jobs.lake.examples import Examples
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, read_ledger, record
from jobs.lake.lock import stage_lock
from jobs.lake.manifest import write_manifest
from jobs.lake.state import State, Vocabulary, load_state, save_state
from jobs.main import main
from jobs.models.artifact import load_model, save_model
from jobs.models.build import build_model, predict
from jobs.registry.files import keep_model
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.stores.files import read_json, write_json, write_whole
from jobs.train import job
from jobs.train.read.reader import StoreTimeout
from jobs.train.read.stream import Stream
from tests.builders.batches import SPEC, batch_of
from tests.builders.examples import CLICKS, write_examples
from tests.builders.lakes import run_etl
from tests.builders.s3 import S3, SILENCE
from tests.builders.visits import Raw, rows_of

PLACES = {("2026-01-01", "train"): [[30, 20], [50]], ("2026-01-02", "train"): [[40]]}


def row_ids(examples: Examples, **changes: Any) -> list[int]:
    settings = {"split": "train", "batch_rows": 8, "streams": 4, "window_rows": 16, **changes}
    epoch = Stream(examples, CLICKS, **settings).epoch(0)
    return [row for batch in epoch for row in batch.row_id[batch.is_row].tolist()]


@pytest.fixture
def local(tmp_path: Path) -> Examples:
    return write_examples(tmp_path, PLACES)


@pytest.fixture
def uploaded(s3: S3, tmp_path: Path, local: Examples) -> Examples:
    s3.upload(tmp_path, tmp_path.name)
    return Examples.open(s3.url(tmp_path.name, "clicks", "examples"))


@pytest.fixture
def lake(s3: S3, tmp_path: Path) -> Lake:
    return Lake(s3.url(tmp_path.name), "clicks")


def test_examples_on_s3_are_the_same_stream(local: Examples, uploaded: Examples) -> None:
    assert uploaded.info == local.info
    assert row_ids(uploaded) == row_ids(local)


def test_a_row_group_is_read_by_few_requests(s3: S3, uploaded: Examples) -> None:
    """One for its columns; the size, the footer and its place are asked for once a thread."""
    before = len(s3.requests())

    row_ids(uploaded, decode_threads=1)

    asked = [request for request in s3.requests()[before:] if "shard=" in request[1]]
    assert len(asked) <= 4 * 3


def test_a_store_that_fails_for_a_moment_changes_nothing(
    s3: S3, local: Examples, uploaded: Examples
) -> None:
    with s3.failing("part-", 503, times=3):
        assert row_ids(uploaded) == row_ids(local)
        failed = [path for _, path, _ in s3.requests() if "part-" in path]
        assert len(failed) > 3


def test_a_denied_shard_is_named(s3: S3, uploaded: Examples) -> None:
    with (
        s3.failing("part-1", 403),
        pytest.raises(DataRefused, match=r"row group 0 of shard s3://.*part-1.*PermissionError"),
    ):
        row_ids(uploaded)


def test_a_denied_table_is_named_without_colours(s3: S3, uploaded: Examples) -> None:
    with (
        s3.failing("_delta_log", 403),
        pytest.raises(DataRefused, match=r"table s3://.* cannot be read: .*AccessDenied") as error,
    ):
        Examples.open(uploaded.url)
    assert "\x1b" not in str(error.value)


def test_a_denied_manifest_is_named(s3: S3, uploaded: Examples) -> None:
    with (
        s3.failing("_manifests", 403),
        pytest.raises(DataRefused, match=r"manifest s3://.*etl-test\.parquet.*PermissionError"),
    ):
        uploaded.shards()


def test_a_store_that_refuses_a_command_gives_no_stack_trace(
    s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = Raw(tmp_path).add(rows_of("2024-01-01", 3)).write()
    command = ["vacuum", "--config", str(raw.config), "--set", f"lake={s3.url('denied')}"]

    with s3.failing("denied", 403, method="HEAD"):
        assert main(command) == 1

    said = capsys.readouterr().err
    assert "the store failed: PermissionError" in said
    assert "Traceback" not in said


def test_a_store_that_goes_silent_is_named_within_the_deadline(s3: S3, uploaded: Examples) -> None:
    began = time.monotonic()
    with (
        s3.failing("part-1", SILENCE),
        pytest.raises(StoreTimeout, match=r"row group 0 of shard s3://.*part-1"),
    ):
        row_ids(uploaded, timeout_s=0.5)

    assert time.monotonic() - began < 10


# Writing


def test_a_table_is_replaced_in_one_commit(s3: S3, lake: Lake, local: Examples) -> None:
    """By delta-rs, from files that are already there."""
    schema = CLICKS.examples_schema()
    table = lake.table("examples")
    s3.upload(f"{local.url}/run=etl-test", f"{table.url.removeprefix('s3://bucket/')}/run=etl-test")
    files = table.staged("etl-test", ("ds", "split"))
    write_manifest(table.url, "etl-test", local.shards())
    where = {"ds": ["2026-01-01", "2026-01-02"], "split": ["train"]}
    info = {"run": "etl-test", "declaration": CLICKS.digest}

    version = table.replace(files, schema, ("ds", "split"), where, info, "etl", token=5)

    assert row_ids(Examples.open(table.url, version)) == row_ids(local)
    with pytest.raises(Locked, match="committed with token 5; ours is 4"):
        table.replace(files, schema, ("ds", "split"), where, info, "etl", token=4)
    assert table.version() == version


def test_only_one_of_two_commits_from_the_same_snapshot_lasts(lake: Lake) -> None:
    """The store's conditional write decides; the loser is told, and nothing is there twice."""
    table, schema = (
        lake.table("predictions"),
        StructType().add("x", StringType()).add("ds", StringType()),
    )
    results: list[object] = []

    def commit(number: int) -> None:
        path = f"run=r{number}/ds=a/part-{number}.parquet"
        write_whole(f"{table.url}/{path}", b"x" * 10)
        file = NewFile(path, {"ds": "a"}, 10, (1,))
        try:
            results.append(table.replace([file], schema, ["ds"], {"ds": ["a"]}, {}, "p", number))
        except Locked as locked:
            results.append(locked)

    commit(0)
    threads = [threading.Thread(target=commit, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    done = [result for result in results if isinstance(result, int)]
    assert len(results) == 3
    assert len(set(done)) == len(done) >= 2
    assert len(table.files()) == 1


@pytest.mark.parametrize("store", ["s3", pytest.param("hdfs", marks=pytest.mark.slow)])
def test_the_ledger_is_joined_as_it_grows(
    request: pytest.FixtureRequest, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_COMMITS_A_FILE", 4)
    own = Lake(request.getfixturevalue(store).url(f"ledger-{tmp_path.name}"), "data")
    for number in range(10):
        record(own, [LedgerRow(f"r{number}", "etl", "2026-01-01", "done")])
    assert [row["run"] for row in read_ledger(own, stage="etl")] == [f"r{n}" for n in range(10)]
    assert len(own.table("ledger").files()) < 5


def test_ledger_states_and_artifacts(lake: Lake) -> None:
    record(lake, [LedgerRow("r1", "etl", "2026-01-01", "done", counts={"rows": 3})])
    record(lake, [LedgerRow("r2", "etl", "2026-01-02", "done")])
    assert [row["run"] for row in read_ledger(lake)] == ["r1", "r2"]
    assert read_ledger(lake)[0]["counts"] == {"rows": 3}

    state = State("2026-01-01", 1, CLICKS.digest, 0, {}, {"ad": Vocabulary(1, 4, 9)})
    save_state(lake, state)
    assert load_state(lake, state.digest) == state

    write_json(lake.folder("a", "b.json"), {"x": 1})
    assert read_json(lake.folder("a", "b.json")) == {"x": 1}


def test_models_are_kept_whole(s3: S3, lake: Lake, tmp_path: Path) -> None:
    """The card, by which a reader knows that the model is there, comes last."""
    model = build_model("wide_deep", SPEC)
    digest = save_model(lake.folder("checkpoints", "best"), model, "wide_deep", SPEC, {})
    keep_model(lake, lake.folder("checkpoints", "best"), digest)

    loaded = load_model(lake.folder("models", digest))

    batch = batch_of(9, seed=4)
    assert loaded.digest == digest
    assert torch.equal(predict(loaded.model, batch), predict(model.eval(), batch))
    written = [path for method, path, _ in s3.requests() if method == "PUT" and "models" in path]
    assert [path.rsplit("/", 1)[1] for path in written[-2:]] == ["model.safetensors", "model.json"]


def test_a_lock_is_renewed_through_failures_of_the_store(
    s3: S3, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.01)
    with stage_lock(lake, "etl", "run") as held:
        before = read_json(lake.folder("locks", "etl.json"))["renewed_at"]
        with s3.failing("locks/etl.json", 403, times=2, method="PUT"):
            for _ in range(1_000):
                if read_json(lake.folder("locks", "etl.json"))["renewed_at"] > before:
                    break
        assert read_json(lake.folder("locks", "etl.json"))["renewed_at"] > before
        held.check()


@pytest.mark.slow
def test_a_model_is_trained_on_a_lake_on_s3(spark: SparkSession, s3: S3, tmp_path: Path) -> None:
    """Examples, states, locks, checkpoints, models and ledger there; the same weights as here."""
    raw = Raw(tmp_path / "raw").add(rows_of("2024-01-01", 300)).write()
    run_etl(raw, spark, ["2024-01-01"])
    url = s3.upload(raw.lake, f"{tmp_path.name}/lake")
    registry = f"mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db"

    settings = load_settings(raw.config, [f"lake={url}", registry])
    far = job.run(settings, spark, run_id="train-far")
    near = job.run(load_settings(raw.config), spark, run_id="train-near")

    assert far.digest == near.digest
    known = Registry(settings, Lake(url, "visits")).resolve(far.version)
    assert far.folder == known.folder_url == f"{url}/visits/models/{known.digest}"
    assert load_model(far.folder).digest == far.digest
    (row,) = read_ledger(Lake(url, "visits"), run="train-far")
    assert row["digests"]["weights"] == far.digest
    written = {path for method, path, _ in s3.requests() if method == "PUT"}
    assert any("/checkpoints/train-far/" in path for path in written)
