"""The shared DuckDB: after an error there is one that works."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from jobs.rows.base.duck import registered, shared_connection

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
