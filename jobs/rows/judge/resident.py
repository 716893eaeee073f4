"""An engine for small tables that come one after the other, as a server's do.

Planning a wide statement takes DuckDB longer than evaluating it on some hundred rows, so plans are
kept: rows are put into a table, which prepared statements read.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import duckdb
import pyarrow as pa

from jobs.rows.base.arrays import without_dictionaries
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.statement import INPUT

# Of statements over one set of columns; parents given with some requests make others.
_MOST_PLANS = 16
# Rows that were deleted take memory until their table goes.
_MOST_USES = 1_000
# The copy is of some hundred rows, and what DuckDB advises instead plans the statement again.
warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")


@dataclass(frozen=True)
class ResidentEngine(Engine):
    """The same results as `Engine`, for one thread at a time."""

    @cached_property
    def _plans(self) -> OrderedDict[tuple[str, str], _Plan]:
        return OrderedDict()

    def _evaluated(self, sql: str, table: pa.Table) -> pa.Table:
        table = without_dictionaries(table)
        key = (sql, str(table.schema))
        plan = self._plans.pop(key, None)
        if plan is None or plan.uses >= _MOST_USES:
            # Temporary tables and prepared statements are a cursor's own.
            plan = _Plan(self._duck.cursor(), sql, table.schema)
        self._plans[key] = plan
        if len(self._plans) > _MOST_PLANS:
            self._plans.popitem(last=False)
        return plan.evaluated(table)


class _Plan:
    """A statement that was prepared over a table of some schema."""

    def __init__(self, duck: duckdb.DuckDBPyConnection, sql: str, schema: pa.Schema) -> None:
        self.uses = 0
        self._duck = duck
        duck.from_arrow(schema.empty_table()).create_view("__like")
        duck.execute(f"CREATE TEMP TABLE {INPUT} AS SELECT * FROM __like")
        duck.execute("DROP VIEW __like")
        duck.execute(f"PREPARE __plan AS {sql}")

    def evaluated(self, table: pa.Table) -> pa.Table:
        self.uses += 1
        self._duck.execute(f"DELETE FROM {INPUT}")
        self._duck.from_arrow(table).insert_into(INPUT)
        return self._duck.execute("EXECUTE __plan").to_arrow_table()
