"""Quarantine's files: rows in order of their texts, however many; undated rows of other files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.etl.judge.files import RowsWriter
from jobs.etl.write import quarantine, undated
from jobs.etl.write.quarantine import RefusedRows, StagedRefused, stage_quarantine
from jobs.etl.write.settle import replace_refused
from jobs.lake.lake import Lake
from jobs.lake.lock import stage_lock
from jobs.lake.tables import Table
from jobs.rows.judge.judged import REFUSED

DAY, UNDATED = "2026-01-01", "undated"


def refused(folder: Path, rows: list[tuple[str, str, str]], read: set[str]) -> RefusedRows:
    """Rows of a run: text, raw file and date."""
    reasons = [["malformed"]] * len(rows)
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    table = pa.table([pa.array(reasons, REFUSED.types[0]), *columns], schema=REFUSED)
    with RowsWriter(str(folder), f"refused-{len(list(folder.glob('*')))}") as writer:
        writer.add(table)
    files = (writer.file(0),) if rows else ()
    return RefusedRows(str(folder), files, frozenset(read))


def texts(table: Table, staged: StagedRefused) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in staged.files:
        rows = pq.read_table(Path(table.url, file.path), partitioning=None)
        found.setdefault(file.partition["ds"], []).extend(rows["raw"].to_pylist())
    return found


@pytest.mark.parametrize("driver_rows", [200_000, 0])
def test_rows_are_in_order_of_their_texts_in_groups_of_few_bytes(
    driver_rows: int, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "_DRIVER_ROWS", driver_rows)
    monkeypatch.setattr(quarantine, "_GROUP_BYTES", 10_000)
    rng = np.random.default_rng(5)
    rows = [
        (f"{n:03}" + "x" * int(rng.integers(0, 2_000)), "f", f"2026-01-0{1 + n % 3}")
        for n in rng.permutation(100).tolist()
    ]
    table = Lake(str(tmp_path / "lake"), "d").table("quarantine")
    days = sorted({ds for *_, ds in rows})
    staged = stage_quarantine(spark, refused(tmp_path, rows, {"f"}), table, "etl", "r", days)
    assert texts(table, staged) == {ds: sorted(t for t, _, d in rows if d == ds) for ds in days}
    assert staged.rows == {ds: sum(d == ds for *_, d in rows) for ds in days}
    # Workers do not see how small a group is made here.
    assert all((len(file.row_group_rows) > 2) == bool(driver_rows) for file in staged.files)
    assert staged.where == {"stage": ["etl"], "ds": days}


@pytest.mark.slow
def test_a_date_may_have_more_texts_than_an_array_holds(tmp_path: Path) -> None:
    one = pa.array(["x" * (1 << 20)] * 100)
    parts = [pa.array([["malformed"]] * 100), one, *(pa.array([t] * 100) for t in ("f", DAY, "r"))]
    rows = pa.concat_tables([pa.table(parts, schema=quarantine._ROWS)] * 22)
    (path,) = quarantine._write_days(str(tmp_path), rows)
    assert pq.read_metadata(path).num_rows == 2_200


@pytest.mark.parametrize("driver_rows", [200_000, 0])
def test_undated_rows_are_replaced_by_a_run_that_reads_their_files(
    driver_rows: int, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undated, "_DRIVER_ROWS", driver_rows)
    lake = Lake(str(tmp_path / "lake"), "d")
    table = lake.table("quarantine")

    def run(name: str, *rows: tuple[str, str], read: set[str]) -> StagedRefused:
        own = refused(tmp_path, [(text, file, UNDATED) for text, file in rows], read)
        staged = stage_quarantine(spark, own, table, "etl", name, [DAY])
        with stage_lock(lake, "etl", name) as lock:
            replace_refused(lake, "etl", lock, staged, name)
        return staged

    def held() -> list[str]:
        return sorted(row["raw"] for row in table.read_arrow().to_pylist())

    run("a", ("1", "a.csv"), ("2", "b.csv"), ("3", "c.csv"), read={"a.csv", "b.csv", "c.csv"})
    run("b", ("4", "d.csv"), read={"d.csv"})
    assert held() == ["1", "2", "3", "4"]
    paths = {file.path for file in table.files()}
    # Of no file that has undated rows: the partition is not touched.
    nothing = run("c", read={"bb.csv", "e.csv"})
    assert nothing.where["ds"] == [DAY] and not nothing.files
    assert {file.path for file in table.files()} == paths
    # Of a file whose rows lie beside others'.
    again = run("d", ("2 again", "b.csv"), ("2 too", "b.csv"), read={"b.csv"})
    assert held() == ["1", "2 again", "2 too", "3", "4"]
    assert again.rows == {UNDATED: 2}
    assert [file.path for file in again.kept] == ["run=b/stage=etl/ds=undated/part-0.parquet"]
    run("e", read={"a.csv", "b.csv", "c.csv", "d.csv"})
    assert held() == []
