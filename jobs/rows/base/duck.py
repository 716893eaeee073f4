"""The one place that opens DuckDB: in process, shut off from files, network and extensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import duckdb
import pyarrow as pa

# At the start: afterwards these cannot be set, or not with the file system shut off.
_NO_EXTENSIONS = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
}
# The wheel has ICU built in, so time zones work without an extension: a text with an offset that is
# cast to TIMESTAMPTZ and then to TIMESTAMP is the moment in UTC on any host.
_SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET Calendar = 'gregorian'",
    # A row of zeros is no reason to end a date: null, as any other expression without a value.
    "SET error_on_division_by_zero = false",
    "SET preserve_insertion_order = true",
    "SET enable_progress_bar = false",
    # Tables come by `register`: a name in SQL is never a variable of the caller.
    "SET python_enable_replacements = false",
    # The last two, in this order.
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def connection(memory_mb: int, spill: str = "") -> duckdb.DuckDBPyConnection:
    """An empty database in memory: one thread, since Spark's workers are the parallel ones.

    Rows keep the order in which they were given.

    Args:
        memory_mb: what it may take; a statement that needs more ends with an error.
        spill: a folder for what exceeds it; none by default.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        **_NO_EXTENSIONS,
        "threads": 1,
        "async_threads": 1,
        "memory_limit": f"{memory_mb}MiB",
        "temp_directory": spill,
    }
    opened = duckdb.connect(":memory:", config=config)
    for setting in _SETTINGS:
        opened.execute(setting)
    return opened


# After these a database takes no more statements.
_BREAKS = (duckdb.FatalException, duckdb.InternalException)
# Of a Python worker, besides the tables that it is given.
_WORKER_MEMORY_MB = 2_048


@cache
def shared_connection() -> duckdb.DuckDBPyConnection:
    """This process's own, for statements over tables that a caller registers and takes back."""
    return connection(_WORKER_MEMORY_MB)


@contextmanager
def registered(
    duck: duckdb.DuckDBPyConnection, tables: Mapping[str, pa.Table]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose statements see some Arrow tables by name, inside the block.

    Raises:
        duckdb.Error: a statement failed. Where that ends a database, the shared connection is
            another one from here on.
    """
    try:
        for name, table in tables.items():
            duck.register(name, table)
        yield duck
    except _BREAKS:
        # Nothing can be taken back.
        shared_connection.cache_clear()
        tables = {}
        raise
    finally:
        for name in tables:
            duck.unregister(name)


def forget_broken(error: duckdb.Error, cached: dict[str, object], *names: str) -> None:
    """Takes what is of a database out of an object's cached values, if the error ended it."""
    if isinstance(error, _BREAKS):
        for name in names:
            cached.pop(name, None)
