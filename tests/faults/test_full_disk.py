"""An ETL that a full disk ends leaves commits that no examples name; the next one is as if it had
never been."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pyspark.sql import SparkSession

from jobs.etl import job
from jobs.etl.fit.entries import read_entries
from jobs.lake.lake import TableName
from jobs.main import main
from tests.builders.lakes import examples_of, lake_of, quarantined, run_etl, shard_contents
from tests.builders.visits import Raw, rows_of

DATES = ["2024-01-01", "2024-01-02"]
# What each of these would have written lacks, all before it is committed.
ENDS = ["new_entries", "stage_shards", "write_manifest"]


def land(raw: Raw, ds: str, shops: str) -> None:
    refused = f"{ds},1,{shops[0]},1,130,1"
    lines = [raw.lines[0], *rows_of(ds, 60, shops), refused]
    (raw.folder / f"{ds}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    """With the first date made; the second one's file is still the wrong one."""
    raw = Raw(tmp_path_factory.mktemp("first"), ["day,visit,shop,amount,age,bought"]).write()
    raw.configure({"visits": "{ds}.csv"})
    land(raw, DATES[0], "abcd")
    land(raw, DATES[1], "xyz")
    run_etl(raw, spark, DATES[:1])
    return raw


@pytest.fixture(scope="module")
def both(first: Raw, tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    """With both dates made, undisturbed."""
    raw = first.copy(tmp_path_factory.mktemp("both") / "copy")
    land(raw, DATES[1], "cde")
    run_etl(raw, spark, DATES[1:])
    return raw


def end_at(place: str, raw: Raw, spark: SparkSession, dates: list[str]) -> None:
    def full(*arguments: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, place, full)
        with pytest.raises(OSError, match="No space left"):
            run_etl(raw, spark, dates)


def versions(raw: Raw) -> dict[str, int]:
    names: tuple[TableName, ...] = ("contributions", "id_log")
    return {name: lake_of(raw).table(name).version() for name in names}


def rows(table: list[dict[str, Any]]) -> Counter[str]:
    """Without the run that wrote them."""
    named = (sorted(row.items()) for row in table)
    return Counter(
        repr([pair for pair in row if pair[0] not in ("run", "run_id")]) for row in named
    )


def everything(raw: Raw) -> dict[str, Any]:
    info, lake = examples_of(raw).info, lake_of(raw)
    log = read_entries(lake.table("id_log"), info["versions"]["id_log"])
    return {
        "shards": shard_contents(raw),
        "states": info["states"],
        "id_log": rows(log.to_pylist()),
        "contributions": rows(lake.table("contributions").read_arrow().to_pylist()),
        "quarantine": rows([{**row, "source_file": ""} for row in quarantined(raw)]),
    }


@pytest.mark.parametrize("place", ENDS)
def test_the_next_run_equals_an_undisturbed_one(
    first: Raw, both: Raw, place: str, tmp_path: Path, spark: SparkSession
) -> None:
    raw = first.copy(tmp_path / "copy")
    before = versions(raw)
    end_at(place, raw, spark, DATES[1:])
    assert versions(raw)["contributions"] > before["contributions"]
    assert (versions(raw)["id_log"] > before["id_log"]) == (place != "new_entries")
    assert shard_contents(raw) == shard_contents(first)
    # What a vacuum in between keeps is enough.
    assert main(["vacuum", "--config", str(raw.config), "--quiet", "--older-than", "0"]) == 0
    land(raw, DATES[1], "cde")
    run_etl(raw, spark, DATES[1:])
    assert everything(raw) == everything(both)


def test_nor_does_the_first_run_of_all_leave_anything(
    first: Raw, tmp_path: Path, spark: SparkSession
) -> None:
    raw = Raw(tmp_path / "new").write()
    raw.configure({"visits": "{ds}.csv"})
    raw.lines = first.lines
    land(raw, DATES[0], "xyz")
    end_at("stage_shards", raw, spark, DATES[:1])
    assert not lake_of(raw).table("examples").exists()
    land(raw, DATES[0], "abcd")
    run_etl(raw, spark, DATES[:1])
    assert everything(raw) == everything(first)
