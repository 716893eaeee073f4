"""Compact: the same rows in fewer shards, to the byte what an ETL with the settings writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.lake.ledger import read_ledger
from jobs.main import main
from jobs.operations import layout
from jobs.operations.layout import contents
from tests.builders.lakes import column_chunk_bytes, examples_of, lake_of, run_etl
from tests.builders.visits import Raw
from tests.operations.conftest import DATES


def compact(raw: Raw, *more: str) -> int:
    return main(["compact", "--config", str(raw.config), "--quiet", *more])


def test_a_compacted_date_is_what_the_etl_writes(
    raw: Raw, made: Raw, tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    large = ("etl.shard_rows=1000", "etl.row_group_rows=32")
    anew = made.copy(tmp_path / "anew")
    run_etl(anew, spark, DATES[:2], *large)
    before, info = examples_of(raw).shards(), examples_of(raw).info
    override = [part for setting in large for part in ("--set", setting)]
    assert compact(raw, "--dates", f"{DATES[0]}..{DATES[1]}", *override) == 0
    said = capsys.readouterr().out
    after, theirs = examples_of(raw), examples_of(anew)
    assert f"shards of 2 dates became {len(after.shards(last_ds=DATES[1]))}" in said
    assert len(after.shards()) < len(before)
    assert contents(after.shards()) == contents(before)
    for ours, other in zip(after.shards(), theirs.shards(), strict=True):
        assert (ours.ds, ours.split, ours.number) == (other.ds, other.split, other.number)
        assert column_chunk_bytes(f"{after.url}/{ours.path}") == column_chunk_bytes(
            f"{theirs.url}/{other.path}"
        )
    own = {"run": "", "ledger": []}
    assert after.info | own == info | own
    last = read_ledger(lake_of(raw), stage="compact")
    assert [row["ds"] for row in last] == DATES[:2]
    by_etl = {
        row["ds"]: row["digests"]["examples"] for row in read_ledger(lake_of(raw), stage="etl")
    }
    assert all(row["digests"]["examples"] == by_etl[row["ds"]] for row in last)

    version = after.version
    assert compact(raw, "--date", DATES[0], *override) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert examples_of(raw).version == version


def test_a_compaction_killed_at_its_end_is_in_the_ledger(
    raw: Raw, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(layout, "record_committed", dies)
        assert compact(raw, "--date", DATES[0], "--set", "etl.shard_rows=200") == 130
    version = examples_of(raw).version
    assert read_ledger(lake_of(raw), stage="compact") == []
    run_etl(raw, spark, [DATES[2]])
    (row,) = read_ledger(lake_of(raw), stage="compact")
    assert (row["ds"], row["versions"]) == (DATES[0], {"examples": str(version)})


def test_dates_that_are_as_asked_for_are_left_alone(
    raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    version = examples_of(raw).version
    small = ("--set", "etl.shard_rows=20", "--set", "etl.row_group_rows=8")
    assert compact(raw, *small) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert examples_of(raw).version == version
