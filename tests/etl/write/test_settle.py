"""Settling: rows that a dead run replaced in the quarantine come back, and none that had to go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.etl.write.quarantine import StagedRefused
from jobs.etl.write.settle import replace_refused, settle, standing_version
from jobs.lake.files import LiveFile, NewFile
from jobs.lake.lake import Lake
from jobs.lake.lock import StageLock, stage_lock
from jobs.operations.named import TABLES
from jobs.operations.retention import drop_dates
from jobs.stores.files import write_stream
from schemas.dataset import struct_type

DAYS = ["2026-01-01", "2026-01-02"]
LAST = {"etl": "examples", "score": "predictions"}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path), "visits")


def written(lake: Lake, run: str, stage: str, ds: str) -> NewFile:
    table = lake.table("quarantine")
    path = f"run={run}/stage={stage}/ds={ds}/part-0.parquet"
    rows = pa.table({"reasons": [["x"]], "raw": [run], "source_file": ["f"], "run_id": [run]})
    with write_stream(f"{table.url}/{path}") as file:
        pq.write_table(rows, file)
    return NewFile(path, {"stage": stage, "ds": ds}, Path(table.url, path).stat().st_size, (1,))


def refuse(
    lake: Lake, run: str, ds: str, *, stage: str = "etl", dies: bool = False, keeps: bool = False
) -> None:
    """A run that refuses a row of a date, and makes its last commit if it does not die."""
    with stage_lock(lake, stage, run) as lock:
        settle(lake, stage, lock, run)
        kept = live(lake, stage, ds) if keeps else ()
        where = {"stage": [stage], "ds": [ds]}
        staged = StagedRefused((written(lake, run, stage, ds),), where, kept)
        version = replace_refused(lake, stage, lock, staged, run)
        if not dies:
            commit(lake, lock, stage, {"run": run, "versions": {"quarantine": version}})


def commit(lake: Lake, lock: StageLock, stage: str, info: dict[str, Any]) -> None:
    table = lake.table(LAST[stage])  # type: ignore[arg-type]
    schema = struct_type([("x", "int"), ("ds", "string")])
    table.replace([], schema, ["ds"], {"ds": DAYS}, info, stage, lock.token)


def live(lake: Lake, stage: str, ds: str) -> tuple[LiveFile, ...]:
    found = lake.table("quarantine").files()
    return tuple(file for file in found if file.partition == {"stage": stage, "ds": ds})


def held(lake: Lake) -> dict[tuple[str, str], list[str]]:
    """The runs of the rows, by stage and date."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in lake.table("quarantine").read_arrow().to_pylist():
        found.setdefault((row["stage"], row["ds"]), []).append(row["raw"])
    return {key: sorted(runs) for key, runs in found.items()}


def settled(lake: Lake, stage: str = "etl") -> dict[tuple[str, str], list[str]]:
    with stage_lock(lake, stage, "next") as lock:
        settle(lake, stage, lock, "next")
    return held(lake)


def test_a_dead_runs_rows_go_and_those_before_it_come_back(lake: Lake) -> None:
    refuse(lake, "a", DAYS[0])
    refuse(lake, "b", DAYS[0], dies=True)
    refuse(lake, "s", DAYS[0], stage="score")
    assert held(lake) == {("etl", DAYS[0]): ["b"], ("score", DAYS[0]): ["s"]}
    assert settled(lake, "score") == held(lake)
    assert settled(lake) == {("etl", DAYS[0]): ["a"], ("score", DAYS[0]): ["s"]}
    version = lake.table("quarantine").version()
    assert settled(lake) == held(lake) and lake.table("quarantine").version() == version


def test_the_first_run_of_all_leaves_nothing_when_it_dies(lake: Lake) -> None:
    refuse(lake, "a", DAYS[0], dies=True)
    refuse(lake, "s", DAYS[1], stage="score", dies=True)
    assert settled(lake) == {("score", DAYS[1]): ["s"]}
    assert settled(lake, "score") == {}


def test_runs_that_die_one_after_the_other_and_one_that_does_not(lake: Lake) -> None:
    refuse(lake, "a", DAYS[0])
    refuse(lake, "b", DAYS[0], dies=True)
    refuse(lake, "c", DAYS[1], dies=True)
    assert settled(lake) == {("etl", DAYS[0]): ["a"]}
    refuse(lake, "d", DAYS[0])
    assert settled(lake) == {("etl", DAYS[0]): ["d"]}


def test_files_that_stay_beside_a_dead_runs_are_named_once(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(lake, "a", "undated")
    refuse(lake, "b", "undated", keeps=True)
    assert held(lake) == {("etl", "undated"): ["a", "b"]}
    refuse(lake, "c", "undated", keeps=True, dies=True)
    assert held(lake) == {("etl", "undated"): ["a", "b", "c"]}
    # The next one dies in the middle of putting back.
    add = type(lake.table("quarantine")).add
    monkeypatch.setattr(type(lake.table("quarantine")), "add", None)
    with pytest.raises(TypeError):
        settled(lake)
    monkeypatch.setattr(type(lake.table("quarantine")), "add", add)
    assert settled(lake) == {("etl", "undated"): ["a", "b"]}


def test_what_retention_dropped_after_a_death_does_not_come_back(lake: Lake) -> None:
    refuse(lake, "a", DAYS[0])
    refuse(lake, "b", DAYS[1])
    refuse(lake, "c", DAYS[1], dies=True)
    drop_dates(lake, "quarantine", [DAYS[0]], "vacuum-1")
    assert settled(lake) == {("etl", DAYS[1]): ["b"]}
    # Nor after another death.
    refuse(lake, "d", DAYS[1], dies=True)
    assert settled(lake) == {("etl", DAYS[1]): ["b"]}


def test_the_version_that_counts_is_known_while_a_run_is_between_its_commits(lake: Lake) -> None:
    assert "quarantine" in TABLES
    assert standing_version(lake, "etl") == -1
    refuse(lake, "a", DAYS[0])
    before = lake.table("quarantine").version()
    refuse(lake, "b", DAYS[0], dies=True)
    assert standing_version(lake, "etl") == before
