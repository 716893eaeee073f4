"""Erase: the rows of entities leave predictions, quarantine, examples and served, each in commits.

Killed in between, it erases the rest when run again. Older versions' files hold the rows until
`millstream vacuum`; the contributions and the id log keep what they count, without rows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.etl.job import lake_of
from jobs.etl.write.accounts import content_digests
from jobs.etl.write.quarantine import QUARANTINE, STAGE
from jobs.etl.write.settle import settle
from jobs.evaluate.predict.predictions import (
    content,
    predictions_of_file,
    predictions_schema,
    refused_content,
    refused_of_file,
)
from jobs.lake.declaration import refuse_changed_declaration
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake, TableName
from jobs.lake.ledger import LedgerRow, of_commit, record_committed, record_lost
from jobs.lake.lock import StageLock, stage_lock
from jobs.lake.tables import Table
from jobs.operations.kept import TableContent, check_files, check_shards
from jobs.operations.keys import HIT, Keys, erasable_columns, marked
from jobs.operations.layout import commit_layout, lay_out, stored_examples
from jobs.operations.raw_keys import SERVED_TEXTS, marked_json, marked_raw
from jobs.rows.base.names import DS, RAW
from jobs.settings.settings import Settings
from schemas.dataset import ROW_ID
from schemas.stored import arrow_schema

Counts = dict[str, int]
# Whoever holds the locks of ETL and scoring is the only one to commit to these what it says of it.
_LOCKED: tuple[TableName, ...] = ("predictions", "quarantine", "examples")


@dataclass(frozen=True)
class EraseResult:
    """Rows erased, by table and date."""

    keys: int
    erased: dict[str, Counts]
    old_files: int

    def summary(self) -> str:
        totals = {table: sum(by_ds.values()) for table, by_ds in self.erased.items()}
        rows = ", ".join(f"{table} {count:,}" for table, count in totals.items())
        text = f"{self.keys:,} keys matched rows: {rows}"
        if not any(totals.values()):
            return f"{text}; nothing was changed"
        return (
            f"{text}; {self.old_files:,} files of older versions hold them until `millstream "
            "vacuum --older-than 0` (with --force where models or checkpoints name them); counts "
            "of their values stay in the contributions and ids in the id log until `millstream "
            "refit`; raw files are yours: a run of the dates would bring the rows back"
        )


def run(settings: Settings, spark: SparkSession, *, run_id: str, keys: Keys) -> EraseResult:
    """Erases the rows that match a key.

    Raises:
        ConfigError: a key's value has not its column's type.
        DataRefused: the examples were made with another declaration.
        Locked: another run is writing examples or predictions.
    """
    with ExitStack() as locks:
        lake = lake_of(settings)
        etl, score = (locks.enter_context(stage_lock(lake, s, run_id)) for s in ("etl", "score"))
        return Erasure(settings, spark, lake, run_id, keys, etl, score).run()


@dataclass(frozen=True)
class Erasure:
    """The steps of an erasure, under both writers' locks."""

    settings: Settings
    spark: SparkSession
    lake: Lake
    run_id: str
    keys: Keys
    etl: StageLock
    score: StageLock
    started: float = field(default_factory=time.monotonic)

    def run(self) -> EraseResult:
        examples = self.lake.table("examples")
        info = Examples.open(examples.url).info
        refuse_changed_declaration(info, self.settings.dataset(), "the examples were")
        for name in _LOCKED:
            record_lost(self.lake, name, self.lake.table(name).newest_info())
        settle(self.lake, "etl", self.etl, self.run_id)
        settle(self.lake, "score", self.score, self.run_id)
        erased: dict[str, Counts] = {}
        old_files = 0
        for name, erase in (
            ("predictions", self._predictions),
            ("quarantine", self._quarantine),
            ("examples", self._examples),
            ("served", self._served),
        ):
            table = self.lake.table(name)
            before = _paths(table)
            if before or name != "served":
                erased[name] = erase(table) if before else {}
            old_files += len(before - _paths(table))
        return EraseResult(len(self.keys.keys), erased, old_files)

    def _predictions(self, table: Table) -> Counts:
        dataset = self.settings.dataset()
        schema = predictions_schema(dataset)
        table.check_columns(schema)
        counts = _hits(self._marked(table.spark(self.spark, schema)))
        if counts:
            rows = self._marked(table.spark(self.spark, schema, where={DS: counts}))
            kept = _kept(rows).hint("rebalance", F.col(DS)).sortWithinPartitions(DS, ROW_ID)
            files = table.stage(kept, self.run_id, [DS])
            read = partial(predictions_of_file, dataset), partial(content, dataset=dataset)
            check_files(table, counts, files, _gone(rows), TableContent(*read))
            done = self._rows("predictions", counts)
            info = table.commit_info() | {"run": self.run_id} | of_commit(done)
            self.score.check()
            where = {DS: list(counts)}
            version = table.rewrite(files, where, info, "score", self.score.token)
            self._record("predictions", version, done)
        return counts

    def _quarantine(self, table: Table) -> Counts:
        dataset = self.settings.dataset()
        counts = _hits(marked_raw(table.spark(self.spark, QUARANTINE), dataset, self.keys))
        if counts:
            rows = table.spark(self.spark, QUARANTINE, where={DS: counts})
            rows = marked_raw(rows, dataset, self.keys)
            kept = _kept(rows).repartition(STAGE, DS).sortWithinPartitions(STAGE, DS, RAW)
            files = table.stage(kept, self.run_id, [STAGE, DS])
            read = TableContent(refused_of_file, refused_content)
            check_files(table, counts, files, _gone(rows), read)
            done = self._rows("quarantine", counts)
            info = {"run": self.run_id} | of_commit(done)
            self.etl.check()
            where = {STAGE: ["etl", "score"], DS: list(counts)}
            version = table.rewrite(files, where, info, "etl", self.etl.token)
            self._record("quarantine", version, done)
        return counts

    def _served(self, table: Table) -> Counts:
        rows = table.spark(self.spark, SERVED_TEXTS)
        hits = marked_json(rows, self.settings.dataset(), self.keys).where(HIT)
        counts = Counter[str]()
        for ds in sorted(row[DS] for row in hits.select(DS).distinct().collect()):
            # The texts of a few entities on a date. No predicate of Delta's own is made of them,
            # since its log would keep them.
            texts = [row[RAW] for row in hits.where(F.col(DS) == ds).select(RAW).collect()]
            gone = pa.array(sorted(set(texts)), pa.string())
            done = self._rows("served", {ds: len(texts)})
            version = table.rewrite_appended(DS, ds, partial(_without, gone))
            self._record("served", version, done)
            counts[ds] = len(texts)
        return dict(counts)

    def _examples(self, table: Table) -> Counts:
        shards = Examples.open(table.url).shards()
        counts = _hits(self._stored({shard.ds for shard in shards}))
        if counts:
            rows = self._stored(counts)
            before = [shard for shard in shards if shard.ds in counts]
            after = lay_out(_kept(rows), self.settings, self.lake, self.run_id)
            schema = arrow_schema(self.settings.dataset().stored_columns())
            check_shards(before, after, _gone(rows), schema)
            digests = content_digests([s for s in shards if s.ds not in counts] + after)
            done = self._rows("examples", counts, digests)
            commit_layout(self.lake, self.etl, self.run_id, after, done, self.started)
        return counts

    def _stored(self, dates: Collection[str]) -> DataFrame:
        """The examples of the dates, marked."""
        return self._marked(stored_examples(self.spark, self.settings, self.lake, sorted(dates)))

    def _marked(self, rows: DataFrame) -> DataFrame:
        dataset = self.settings.dataset()
        return marked(rows, dataset, self.keys, erasable_columns(dataset))

    def _rows(
        self, name: str, counts: Counts, digests: Mapping[str, dict[str, str]] | None = None
    ) -> list[LedgerRow]:
        """One row a date; it names no key, which may be what is to be forgotten."""
        return [
            LedgerRow(
                *(self.run_id, "erase", ds, "done"),
                counts={name: rows},
                digests=(digests or {}).get(ds, {}),
            )
            for ds, rows in counts.items()
        ]

    def _record(self, name: TableName, version: int, rows: Sequence[LedgerRow]) -> None:
        record_committed(self.lake, name, version, rows, time.monotonic() - self.started)


def _without(gone: pa.Array, rows: pa.Table) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows[RAW], value_set=gone)))


def _hits(rows: DataFrame) -> Counts:
    """Matching rows by date."""
    counts = rows.where(HIT).groupBy(DS).count().collect()
    return {row[DS]: row["count"] for row in sorted(counts, key=lambda row: str(row[DS]))}


def _kept(marked: DataFrame) -> DataFrame:
    return marked.where(~F.col(HIT)).drop(HIT)


def _gone(marked: DataFrame) -> DataFrame:
    return marked.where(HIT).drop(HIT)


def _paths(table: Table) -> set[str]:
    return {file.path for file in table.files()} if table.exists() else set()
