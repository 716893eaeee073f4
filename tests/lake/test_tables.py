"""Tables: one commit replaces exactly the partitions it names, or nothing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Schema
from hypothesis import given
from hypothesis import strategies as st

from jobs.base.errors import DataRefused, Locked
from jobs.lake import ledger, tables, versions
from jobs.lake.declaration import refuse_changed_declaration
from jobs.lake.delta import name_files
from jobs.lake.examples import Examples
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, new_run_id, read_ledger, record
from jobs.lake.manifest import Shard, read_manifest, write_manifest
from jobs.lake.tables import Table
from jobs.stores.files import read_json, write_json
from schemas.dataset import struct_type
from tests.builders.visits import VISITS

SCHEMA = struct_type([("x", "bigint"), ("ds", "string"), ("split", "string")])


def put(table: Table, run: str, ds: str, rows: int) -> NewFile:
    """A real Parquet file in the run's folder."""
    path = f"run={run}/ds={ds}/split=all/part.parquet"
    target = Path(table.url, path)
    target.parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": list(range(rows))}), target)
    return NewFile(path, {"ds": ds, "split": "all"}, target.stat().st_size, (rows,))


def replace(table: Table, run: str, dates: list[str], rows: int, token: int = 1) -> int:
    files = [put(table, run, ds, rows) for ds in dates]
    where = {"ds": dates}
    return table.replace(files, SCHEMA, ["ds", "split"], where, {"run": run}, "etl", token)


def rows_by_ds(table: Table, version: int | None = None) -> dict[str, int]:
    return {file.partition["ds"]: file.rows for file in table.files(version)}


def test_a_commit_replaces_its_dates_and_leaves_the_others(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    first = replace(table, "a", ["d1", "d2"], 5)
    second = replace(table, "b", ["d2", "d3"], 7)
    assert rows_by_ds(table) == {"d1": 5, "d2": 7, "d3": 7}
    assert rows_by_ds(table, first) == {"d1": 5, "d2": 5}
    assert table.commit_info(first) == {"run": "a"}
    assert table.commit_info(second) == table.commit_info() == {"run": "b"}
    assert table.read_arrow().num_rows == 19


def test_a_date_without_files_is_emptied(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    replace(table, "a", ["d1", "d2"], 5)
    table.replace([], SCHEMA, ["ds", "split"], {"ds": ["d1"]}, {}, "etl", 1)
    assert rows_by_ds(table) == {"d2": 5}


def test_an_older_token_may_not_commit(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    replace(table, "a", ["d1"], 5, token=3)
    with pytest.raises(Locked, match="token 3; ours is 2"):
        replace(table, "b", ["d1"], 7, token=2)
    assert rows_by_ds(table) == {"d1": 5}


def test_what_commits_say_is_found_behind_many_that_say_nothing(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    first = replace(table, "a", ["d1"], 5)
    for _ in range(20):
        table.append(pa.table({"x": [1], "ds": ["d3"], "split": ["all"]}))
    second = replace(table, "b", ["d2"], 5)
    infos = table.infos()
    assert sorted(infos) == list(range(second + 1)) and infos[0] == {}
    assert [table.commit_info(version) for version in infos] == list(infos.values())
    assert infos[first] == infos[second - 1] == {"run": "a"} != infos[second]


def test_a_commit_is_told_its_own_version_whatever_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(str(tmp_path / "t"))
    before = replace(table, "a", ["d1"], 5)

    def and_others(*arguments: Any) -> None:
        name_files(*arguments)
        for _ in range(3):
            table.append(pa.table({"x": [1], "ds": ["d3"], "split": ["all"]}))

    monkeypatch.setattr(tables, "name_files", and_others)
    made = replace(table, "b", ["d2"], 7)
    assert (made, table.version()) == (before + 1, before + 4)
    assert rows_by_ds(table, made) == {"d1": 5, "d2": 7}


def test_commits_are_numbered_right_while_others_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """delta-rs gives a commit that came after the table was opened the opened version's number."""
    table = Table(str(tmp_path / "t"))
    first = replace(table, "a", ["d1"], 5)
    others = iter(["b", "c"])

    class Busy(DeltaTable):
        def history(self, limit: int | None = None) -> list[dict[str, Any]]:
            if other := next(others, None):
                replace(table, other, ["d2"], 7)
            return super().history(limit)

    monkeypatch.setattr(versions, "DeltaTable", Busy)
    assert table.commit_info(first) == {"run": "a"}
    assert list(table.infos().values())[first:] == [{"run": run} for run in "abc"]
    assert [version for version, _ in table.commits()] == list(range(first + 3))


def test_files_that_are_gone_are_not_committed(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    replace(table, "a", ["d1"], 5)
    file = put(table, "b", "d1", 7)
    Path(table.url, file.path).unlink()
    with pytest.raises(Locked, match="1 files that this run wrote are gone"):
        table.replace([file], SCHEMA, ["ds", "split"], {"ds": ["d1"]}, {}, "etl", 1)
    assert rows_by_ds(table) == {"d1": 5}


def test_a_table_without_a_commit_of_a_run_is_refused(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    table._create(Schema.from_json(SCHEMA.json()), ["ds", "split"], {})
    with pytest.raises(DataRefused, match="no run has committed"):
        refuse_changed_declaration(Examples.open(table.url).info, VISITS, "the examples were")


def test_a_file_outside_the_dates_replaced_is_refused(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    file = put(table, "a", "d1", 5)
    with pytest.raises(DataRefused, match="lies in ds=d1"):
        table.replace([file], SCHEMA, ["ds", "split"], {"ds": ["d2"]}, {}, "etl", 1)
    assert not table.exists()


def test_other_columns_than_the_table_has_are_refused_by_name(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    replace(table, "a", ["d1"], 5)
    other = struct_type([("x", "int"), ("z", "int"), ("ds", "string"), ("split", "string")])
    with pytest.raises(DataRefused, match="these differ: x, z"):
        table.replace([], other, ["ds", "split"], {"ds": ["d1"]}, {}, "etl", 1)


def test_restore_puts_newer_commits_away(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    named = replace(table, "a", ["d1"], 5)
    replace(table, "dead", ["d1", "d2"], 7)
    table.restore(named, "etl", 2)
    assert rows_by_ds(table) == {"d1": 5}
    newest = table.version()
    table.restore(newest, "etl", 2)
    assert table.version() == newest


def test_restore_carries_the_token_so_that_an_older_holder_can_do_nothing_more(
    tmp_path: Path,
) -> None:
    table = Table(str(tmp_path / "t"))
    named = replace(table, "a", ["d1"], 5, token=1)
    replace(table, "b", ["d1", "d2"], 7, token=2)
    with pytest.raises(Locked, match="token 2; ours is 1"):
        table.restore(named, "etl", 1)
    assert rows_by_ds(table) == {"d1": 7, "d2": 7}
    table.restore(named, "etl", 3)
    with pytest.raises(Locked, match="token 3; ours is 2"):
        replace(table, "late", ["d2"], 9, token=2)
    assert rows_by_ds(table) == {"d1": 5}


def test_an_absent_table_or_version_is_named(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"))
    assert table.version() == -1
    with pytest.raises(DataRefused, match="no table"):
        table.files()
    replace(table, "a", ["d1"], 5)
    with pytest.raises(DataRefused, match="at version 99"):
        table.files(99)


@given(
    st.lists(
        st.builds(
            Shard,
            ds=st.dates().map(str),
            split=st.sampled_from(["train", "val"]),
            number=st.integers(0, 99),
            path=st.text("abc=/", min_size=1).map("run=r/".__add__),
            bytes=st.integers(0, 2**40),
            row_group_rows=st.lists(st.integers(1, 10**6), max_size=4).map(tuple),
            digest=st.integers(0, 2**64 - 1),
            row_id_sum=st.integers(0, 2**64 - 1),
        ),
        max_size=6,
    )
)
def test_a_manifest_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, shards: list[Shard]
) -> None:
    url = str(tmp_path_factory.mktemp("manifest"))
    write_manifest(url, "r", shards)
    assert list(read_manifest(url, "r")) == sorted(shards)
    assert all(shard.run == "r" for shard in shards)


def test_the_ledger_keeps_rows_in_order_and_finds_them(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path), "made_up")
    assert read_ledger(lake) == []
    record(lake, [LedgerRow("r1", "etl", "d1", "done", {"raw": 5}, {"state": "x"})])
    record(lake, [LedgerRow("r2", "etl", "d1", "refused", message="why", seconds=1.5)])
    first, second = read_ledger(lake, stage="etl", ds="d1")
    assert (first["run"], first["counts"], first["digests"]) == ("r1", {"raw": 5}, {"state": "x"})
    assert (second["run"], second["counts"], second["message"]) == ("r2", {}, "why")
    assert read_ledger(lake, stage="score") == []
    assert new_run_id("etl") != new_run_id("etl")


def test_the_ledger_keeps_every_row_in_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of some replicas records thousands of times a day, at once with a night."""
    monkeypatch.setattr(ledger, "_COMMITS_A_FILE", 8)
    lake = Lake(str(tmp_path), "data")

    def records(writer: int) -> None:
        for number in range(20):
            record(lake, [LedgerRow(f"w{writer}-{number}", f"s{writer}", "d1", "done")])

    record(lake, [])
    threads = [threading.Thread(target=records, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in range(3):
        runs = [row["run"] for row in read_ledger(lake, stage=f"s{writer}")]
        assert runs == [f"w{writer}-{number}" for number in range(20)]
    table = lake.table("ledger")
    assert len(read_ledger(lake)) == 60
    assert len(table.files()) < 30 < len(table.replaced_files(0)) + len(table.files())


def test_small_artifacts_are_written_whole(tmp_path: Path) -> None:
    url = str(tmp_path / "deep" / "state.json")
    write_json(url, {"a": [1, 2.5, None]})
    write_json(url, {"a": 2})
    assert read_json(url) == {"a": 2}
    assert [path.name for path in Path(url).parent.iterdir()] == ["state.json"]
