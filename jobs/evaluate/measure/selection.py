"""The rows that models are measured on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.base.errors import DataRefused
from jobs.etl.fit.entries import read_entries
from jobs.etl.fit.history import CountHistory, of_fields
from jobs.evaluate.measure.jackknife import BLOCKS
from jobs.evaluate.measure.slices import SLICES, with_slices
from jobs.evaluate.predict.predict import ROWS_PER_TASK
from jobs.lake.examples import Examples
from jobs.lake.files import partition_column
from jobs.lake.lake import Lake
from jobs.lake.manifest import Shard
from jobs.lake.state import State, load_state
from jobs.registry.version import ModelVersion
from jobs.rows.base.names import DS
from jobs.settings.evaluate import EvaluateSettings
from jobs.stores.files import spark_url
from schemas.dataset import ROW_ID, Dataset, struct_type
from schemas.source import spark_name

log = logging.getLogger("millstream.evaluate")

# A declaration has no names with two underscores. Spark knows no case, so `Block` is `block`.
LABEL, WEIGHT, BLOCK = "__label", "__weight", "__block"
# What measuring calls them, and `slices`.
MEASURED = {LABEL: "label", WEIGHT: "weight", BLOCK: "block", SLICES: "slices"}


@dataclass(frozen=True)
class Selection:
    """A split of some dates of one examples version.

    Attributes:
        only: the dates, where not all of them.
        early_share: see the function of that name; None where it was not asked for.
    """

    examples: Examples
    split: str
    first_ds: str
    last_ds: str
    only: frozenset[str] | None = None
    early_share: float | None = None

    def __str__(self) -> str:
        dates = f"{self.first_ds}..{self.last_ds}"
        some = f"{len(self.only)} dates within " if self.only is not None else ""
        return f"split {self.split!r} of {some}{dates}"

    @property
    def early_fact(self) -> dict[str, str]:
        """The early share for the report; nothing where it was not asked for."""
        share = self.early_share
        if share is None:
            return {}
        return {"ids encoded before their value had one": f"{share:.2%} (counted in train rows)"}

    def has(self, ds: str) -> bool:
        within = self.first_ds <= ds <= self.last_ds
        return within and (self.only is None or ds in self.only)

    def shards(self) -> list[Shard]:
        """Raises DataRefused where there is none."""
        every = self.examples.shards(self.split, self.first_ds, self.last_ds)
        found = [shard for shard in every if self.has(shard.ds)]
        if not found:
            raise DataRefused(
                f"{self} has no rows in version {self.examples.version} of {self.examples.url}",
                "at least one row to measure",
                "run the ETL of these dates, or measure other dates or another split",
            )
        return found

    def rows(self, spark: SparkSession, dataset: Dataset, settings: EvaluateSettings) -> DataFrame:
        """The stored columns, and what measuring needs under names that no field has.

        That is label and weight, or 1; the block of the entity and the slices.
        """
        shards = self.shards()
        schema = struct_type((c.name, c.spark_type) for c in dataset.stored_columns())
        root = spark_url(self.examples.url)
        rows = spark.read.schema(schema).parquet(*(f"{root}/{s.path}" for s in shards))
        # A Python task costs about as much as a few thousand rows; small shards share one.
        tasks = sum(shard.rows for shard in shards) // ROWS_PER_TASK
        rows = rows.coalesce(max(tasks, spark.sparkContext.defaultParallelism))
        weight = dataset.weight
        own = {
            LABEL: F.col(spark_name(dataset.label.name)),
            WEIGHT: F.col(spark_name(weight.name)) if weight else F.lit(1.0).cast("float"),
            DS: partition_column(rows, DS),
            BLOCK: _block(dataset),
        }
        return with_slices(rows.withColumns(own), settings.slices, settings.most_values)


def _block(dataset: Dataset) -> Column:
    """Jackknife block of a row's entity; of the row itself where the entity is not stored."""
    stored = {column.name for column in dataset.stored_columns()}
    columns = dataset.entity_columns
    entity = columns if columns and stored.issuperset(columns) else (ROW_ID,)
    return F.pmod(F.xxhash64(F.lit("block"), *map(spark_name, entity)), F.lit(BLOCKS)).cast("int")


def fresh(selection: Selection, lake: Lake, states: Sequence[State]) -> Selection:
    """The dates whose rows were encoded with all values that the models' states know.

    Rows of an older date hold buckets where the models know a value: measured on those, a model
    looks worse than it will be in scoring.

    Raises:
        DataRefused: there is no such date.
    """
    by_ds: dict[str, str] = {
        ds: digest
        for ds, digest in selection.examples.info["states"].items()
        if selection.first_ds <= ds <= selection.last_ds
    }
    with ThreadPoolExecutor(16) as threads:
        digests = sorted(set(by_ds.values()))
        found = dict(zip(digests, threads.map(partial(load_state, lake), digests), strict=True))
    dates = {ds for ds, digest in by_ds.items() if _knows(found[digest], states)}
    if not dates:
        raise DataRefused(
            f"no date of {selection.first_ds}..{selection.last_ds} was encoded with all values "
            "that the compared models know",
            "at least one (gate.rows: fresh)",
            "run the ETL of a newer date, or set gate.rows: all",
        )
    if len(dates) == len(by_ds):
        return selection
    return Selection(selection.examples, selection.split, min(dates), max(dates), frozenset(dates))


def _knows(state: State, others: Collection[State]) -> bool:
    """Ids only grow, so the tables' sizes tell."""
    return all(
        state.vocabulary[name].rows >= part.rows
        for other in others
        for name, part in other.vocabulary.items()
    )


def read_alike(lake: Lake, champion: ModelVersion, challenger: ModelVersion) -> bool:
    """Whether the champion can be measured on the challenger's examples.

    One of an older generation knows other ids: the challenger is the first of its own.
    """
    models = (champion, challenger)
    generations = {load_state(lake, m.tags["state_digest"]).generation for m in models}
    declarations = {model.tags["declaration"] for model in models}
    if len(generations) == len(declarations) == 1:
        return True
    log.warning(
        "the champion, version %s, is of another generation of ids or declaration, so it is not "
        "compared with; gate.first_model decides",
        champion.version,
    )
    return False


def early_share(
    spark: SparkSession, lake: Lake, selection: Selection, states: Sequence[State]
) -> float:
    """Share of ids that were encoded before their value had one, though a model knows it.

    Told from the train rows of the dates, whose values are counted in the contributions; the rows
    of other splits are drawn from the same days.
    """
    versions = selection.examples.info["versions"]
    entries = read_entries(lake.table("id_log"), versions["id_log"])
    known_by = max(state.ds for state in states)
    since = entries["from_ds"]
    late = pc.and_(pc.greater(since, selection.first_ds), pc.less_equal(since, known_by))
    history = CountHistory.of(spark, lake.table("contributions"), versions["contributions"])
    fields = tuple(pc.unique(entries["field"]).to_pylist())
    counted, early = partial(_counts, fields), partial(_early, entries.filter(late))
    found = history.of_dates(selection.has).reduced(counted, early, _EARLY)
    every, before = (pc.sum(found[name]).as_py() or 0 for name in _EARLY.names)
    return before / every if every else 0.0


_EARLY = pa.schema([("every", pa.int64()), ("early", pa.int64())])


def _counts(fields: Sequence[str], rows: pa.Table) -> pa.Table:
    """How often the values of a date, of fields that have ids, were counted."""
    counts = of_fields(rows, fields).select(["field", "value", "count", DS])
    return counts.filter(counts["value"].is_valid())


def _early(late: pa.Table, counts: pa.Table) -> pa.Table:
    """How often values were counted, and how often of that before the date of their entry.

    Args:
        late: entries of the id log.
    """
    known = counts.join(late, ["field", "value"], join_type="inner", use_threads=False)
    early = known.filter(pc.greater(known["from_ds"], known[DS]))
    sums = [pc.sum(table["count"]).as_py() or 0 for table in (counts, early)]
    return pa.table([[one] for one in sums], schema=_EARLY)
