"""The shared DuckDB: after an error there is one that works."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from jobs.base.errors import ConfigError
from jobs.rows.base.duck import registered, shared_connection
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.resident import ResidentEngine
from jobs.rows.judge.statement import INPUT
from schemas.source import Column
from tests.rows.engines import ONE, declared, files_of, judged_files, write

# A moment that DuckDB takes from Arrow and gives up on.
BEYOND = {"beyond": pa.table({"x": pa.array([32_503_680_000_000_000], pa.timestamp("ms"))})}
NUMBERS = {"numbers": pa.table({"x": [1, 2]})}


def total() -> int:
    with registered(shared_connection(), NUMBERS) as duck:
        return int(duck.sql("SELECT sum(x) FROM numbers").fetchall()[0][0])


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT to_json(x) FROM beyond", duckdb.InternalException),
        ("SELECT nothing FROM beyond", duckdb.BinderException),
    ],
)
def test_an_error_leaves_a_connection_that_works(statement: str, error: type[Exception]) -> None:
    with pytest.raises(error), registered(shared_connection(), BEYOND) as duck:
        duck.sql(statement).fetchall()
    assert total() == 3
    assert shared_connection().sql("SHOW TABLES").fetchall() == []


@pytest.mark.parametrize("kind", [Engine, ResidentEngine])
def test_an_engine_judges_on_after_such_an_error(kind: type[Engine], tmp_path: Path) -> None:
    engine = kind(declared(Column("n", "int"), fields=(ONE,)), ("",))
    files = files_of(write(tmp_path, {"0.csv": "1\n2\n"}))
    before = judged_files(engine, files)
    with pytest.raises(ConfigError):
        engine._query(f"SELECT to_json(x) FROM {INPUT}", BEYOND["beyond"])
    assert judged_files(engine, files).valid == before.valid
