"""Encode: field values to what the examples store, with native Spark expressions.

Numeric values pass as they are; a categorical value becomes its id: 1 for null, its entry's id
where the id log had one by then, else the bucket of its hash.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.etl.fit import ID_LOG
from jobs.etl.ingest import DS
from jobs.etl.lists import with_list_ids
from jobs.etl.states import state_entries
from jobs.lake import Lake, Table
from jobs.state import State
from schemas.dataset import Dataset
from schemas.field import FIRST_OOV_ID, NULL_ID, Categorical


def encode(
    rows: DataFrame,
    dataset: Dataset,
    entries: DataFrame,
    as_of: str | None,
    keep: Sequence[str] = (),
    shuffled: Collection[str] = (),
) -> DataFrame:
    """Rows with the stored columns.

    Args:
        rows: with one column a field, before encoding.
        entries: `field`, `value`, `id`, `from_ds`.
        as_of: entries up to this date count; None: those up to the row's own `ds`.
        keep: further columns of `rows` to keep.
        shuffled: vocabularies too large to broadcast, see `large_vocabularies`.

    Returns:
        The stored columns in their order, then `ds` and `keep`.
    """
    until = F.lit(as_of) if as_of is not None else F.col(DS)
    rows = with_list_ids(rows, dataset, entries, until)
    for f in dataset.categorical:
        if f.max_size:
            rows = _with_entry(rows, f, entries, f.log_name in shuffled)
    ids = {f.name: _id(f, until) for f in dataset.categorical}
    columns = [
        ids.get(c.name, F.col(c.name)).cast(c.spark_type).alias(c.name)
        for c in dataset.stored_columns()
    ]
    return rows.select(*columns, DS, *keep)


def large_vocabularies(table: Table, entries: DataFrame, most_entries: int) -> frozenset[str]:
    """Those of the id log with more entries than each executor should hold.

    Args:
        table: of the id log.
        entries: its newest ones.
        most_entries: `etl.broadcast_max_entries`.
    """
    if sum(file.rows for file in table.files()) <= most_entries:
        return frozenset()
    counts = entries.groupBy("field").count().where(F.col("count") > most_entries)
    return frozenset(row["field"] for row in counts.collect())


def _with_entry(rows: DataFrame, f: Categorical, entries: DataFrame, shuffled: bool) -> DataFrame:
    """Adds the entry of the field's value, null where there is none.

    Joined on the hash, a long, which takes a third of the time that joining on texts does; the
    texts are compared where the id is used, so that equal hashes of unequal values do no harm.
    """
    known = entries.where(F.col("field") == f.log_name).select(
        F.xxhash64("value").alias("__hash"),
        F.struct("value", "id", "from_ds").alias(f"__entry_{f.name}"),
    )
    on = F.xxhash64(F.col(f.name)) == F.col("__hash")
    near = known.hint("merge") if shuffled else F.broadcast(known)
    return rows.join(near, on, "left").drop("__hash")


def _id(f: Categorical, until: SparkColumn) -> SparkColumn:
    value = F.col(f.name)
    of_value = F.when(value.isNull(), F.lit(NULL_ID))
    if f.max_size:
        entry = F.col(f"__entry_{f.name}")
        known = (entry["value"] == value) & (entry["from_ds"] <= until)
        of_value = of_value.when(known, entry["id"])
    return of_value.otherwise(FIRST_OOV_ID + F.expr(f.bucket_sql(f"`{f.name}`")))


def id_map(
    spark: SparkSession, lake: Lake, dataset: Dataset, state: State, id_log_version: int
) -> dict[str, npt.NDArray[np.int32]]:
    """For a model older than the examples: the id that its own state gives for each of theirs.

    Args:
        state: the model's.
        id_log_version: the log that the examples were encoded with.

    Returns:
        Field -> array by id; only fields with ids that the state lacks. Grows with vocabularies.

    Raises:
        DataRefused: the log no longer holds the state's entries.
    """
    log = lake.table("id_log").spark(spark, ID_LOG, id_log_version)
    known = state_entries(spark, lake, state).select("field", "value")
    unknown = log.join(known, ["field", "value"], "left_anti")
    maps = {}
    for f in dataset.counted:
        own = unknown.where(F.col("field") == f.log_name)
        oov = (FIRST_OOV_ID + F.expr(f.bucket_sql("value"))).cast("int")
        pairs = own.select("id", oov.alias("oov")).collect()
        if pairs:
            size = max(state.vocabulary[f.log_name].rows, 1 + max(pair["id"] for pair in pairs))
            maps[f.name] = np.arange(size, dtype=np.int32)
            maps[f.name][[pair["id"] for pair in pairs]] = [pair["oov"] for pair in pairs]
    return maps
