"""Encode: field values to what the examples store.

Numeric values pass as they are; a categorical value becomes its id: 1 for null, its entry's id
where the id log had one by then, else the bucket of its hash. Python workers look each distinct
value of a table up once; a vocabulary too large for every worker goes through Spark's shuffle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import Broadcast
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from jobs.base.xxhash import xxhash64
from jobs.etl.fit import ID_LOG
from jobs.etl.kept import Kept, in_arrow
from jobs.etl.lists import with_list_ids
from jobs.etl.names import DS
from jobs.etl.states import state_entries
from jobs.etl.vocabulary import Ints, Vocabulary, vocabularies
from jobs.lake.lake import Lake
from jobs.lake.state import State
from jobs.lake.tables import Table
from schemas.dataset import Dataset, struct_type
from schemas.field import FIRST_OOV_ID, NULL_ID, Categorical, CategoricalList, WithIds
from schemas.hashed import Bucketized
from schemas.stored import arrow_schema


def encode(
    rows: DataFrame | Kept,
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
    rows, encoder = prepared(rows, dataset, entries, as_of, keep, shuffled)
    kept = rows.schema
    stored = struct_type((c.name, c.spark_type) for c in dataset.stored_columns())
    schema = StructType([*stored.fields, *[kept[name] for name in (DS, *keep)]])
    return in_arrow(rows, encoder.inputs, partial(_encoded, encoder), schema)


def prepared(
    rows: DataFrame | Kept,
    dataset: Dataset,
    entries: DataFrame,
    as_of: str | None,
    keep: Sequence[str] = (),
    shuffled: Collection[str] = (),
) -> tuple[DataFrame | Kept, Encoder]:
    """The rows, joined with the vocabularies that are too large for workers, and the encoder."""
    by_spark = [f for f in dataset.counted if f.log_name in shuffled]
    if by_spark:
        rows = rows.rows() if isinstance(rows, Kept) else rows
        until = F.lit(as_of) if as_of is not None else F.col(DS)
        lists = [f for f in by_spark if isinstance(f, CategoricalList)]
        rows = with_list_ids(rows, dataset, lists, entries, until)
        for f in by_spark:
            if isinstance(f, Categorical):
                rows = _with_id(rows, f, entries, until)
    done = tuple(f.name for f in by_spark)
    names = {f.log_name for f in dataset.counted if f.name not in done}
    spark = entries.sparkSession
    held = spark.sparkContext.broadcast(vocabularies(entries, names) if names else {})
    return rows, Encoder(dataset, held, as_of, tuple(keep), done)


def _encoded(encoder: Encoder, tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from encoder(table).to_batches()


@dataclass(frozen=True)
class Encoder:
    """Tables of rows to tables of what is stored, in a Python worker.

    Attributes:
        held: vocabularies by the log's name of their field.
        as_of: entries up to this date count; None: those up to the row's own `ds`.
        keep: further columns to keep.
        done: fields whose columns hold ids already.
    """

    dataset: Dataset
    held: Broadcast[dict[str, Vocabulary]]
    as_of: str | None
    keep: tuple[str, ...]
    done: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        """The columns that are needed."""
        stored = [column.name for column in self.dataset.stored_columns()]
        return list(dict.fromkeys([*stored, DS, *self.keep]))

    def __call__(self, table: pa.Table) -> pa.Table:
        """The stored columns in their order, then `ds` and `keep`."""
        with_ids = {f.name: f for f in self.dataset.with_ids if f.name not in self.done}
        until = self._until(table)
        columns = []
        for stored in arrow_schema(self.dataset.stored_columns()):
            column = _whole(table[stored.name])
            if f := with_ids.get(stored.name):
                column = self._ids(f, column, until)
            columns.append(column.cast(stored.type))
        rest = [_plain(table[name]) for name in (DS, *self.keep)]
        names = [c.name for c in self.dataset.stored_columns()]
        return pa.table([*columns, *rest], [*names, DS, *self.keep])

    def _until(self, table: pa.Table) -> str | pa.Array:
        """The date up to which entries count, or that of each row where rows differ."""
        if self.as_of is not None:
            return self.as_of
        days = _plain(table[DS])
        different = pc.unique(days)
        return str(different[0]) if len(different) == 1 else days

    def _ids(self, f: WithIds, column: pa.Array, until: str | pa.Array) -> pa.Array:
        """Ids [n] of values, or lists of ids."""
        if isinstance(f, CategoricalList):
            lengths = pc.list_value_length(column)
            if not isinstance(until, str):
                until = until.take(np.repeat(np.arange(len(column)), lengths.to_numpy()))
            offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy())])
            inner = self._ids_of_values(f, column.flatten(), until)
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner)
        return self._ids_of_values(f, column, until)

    def _ids_of_values(self, f: WithIds, column: pa.Array, until: str | pa.Array) -> pa.Array:
        if not pa.types.is_dictionary(column.type):
            column = pc.dictionary_encode(column)
        texts, places = column.dictionary, column.indices.fill_null(len(column.dictionary))
        rows = places.to_numpy()
        hashes = xxhash64(texts)
        buckets = FIRST_OOV_ID + _buckets(f, texts, hashes)
        vocabulary = self.held.value.get(f.log_name)
        if vocabulary is None or not f.max_size:
            return pa.array(np.append(buckets, NULL_ID)[rows], pa.int32())
        found = vocabulary.find(texts, hashes)
        if isinstance(until, str):
            ids = np.where(found.known(vocabulary.until(until)), found.ids, buckets)
            return pa.array(np.append(ids, NULL_ID)[rows], pa.int32())
        days = pc.dictionary_encode(until)
        places_of_days = np.array([vocabulary.until(ds) for ds in days.dictionary.to_pylist()])
        latest = places_of_days[days.indices.to_numpy()]
        first = np.where(found.ids >= 0, found.days, len(vocabulary.days))
        known = np.append(first, len(vocabulary.days))[rows] < latest
        ids = np.append(found.ids, NULL_ID)[rows]
        return pa.array(np.where(known, ids, np.append(buckets, NULL_ID)[rows]), pa.int32())


def _buckets(f: WithIds, texts: pa.StringArray, hashes: Ints) -> Ints:
    """The bucket, from 0, of each value; as `bucket_sql` gives it."""
    if isinstance(f, Bucketized):
        return np.asarray(pc.cast(texts, pa.int64()))
    return hashes % f.oov_buckets


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """One array; of dictionaries one that all rows share."""
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    found = column.combine_chunks()
    return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found


def _plain(column: pa.ChunkedArray) -> pa.Array:
    found = _whole(column)
    return found.cast(found.type.value_type) if pa.types.is_dictionary(found.type) else found


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


def _with_id(rows: DataFrame, f: Categorical, entries: DataFrame, until: SparkColumn) -> DataFrame:
    """Puts the id in the place of the field's value, by a shuffle join.

    Joined on the hash, a long, which takes a third of the time that joining on texts does; the
    texts are compared where the id is used, so that equal hashes of unequal values do no harm.
    """
    known = entries.where(F.col("field") == f.log_name).select(
        F.xxhash64("value").alias("__hash"), F.struct("value", "id", "from_ds").alias("__entry")
    )
    on = F.xxhash64(F.col(f.name)) == F.col("__hash")
    joined = rows.join(known.hint("merge"), on, "left")
    return joined.withColumn(f.name, _id(f, until)).drop("__hash", "__entry")


def _id(f: Categorical, until: SparkColumn) -> SparkColumn:
    value, entry = F.col(f.name), F.col("__entry")
    known = (entry["value"] == value) & (entry["from_ds"] <= until)
    of_hash = FIRST_OOV_ID + F.expr(f.bucket_sql(f"`{f.name}`"))
    of_value = F.when(value.isNull(), F.lit(NULL_ID)).when(known, entry["id"])
    return of_value.otherwise(of_hash).cast("int")


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
