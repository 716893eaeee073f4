"""ETL: raw files of some dates become examples, in one commit a pass.

    spark-submit --properties-file conf/spark/local.conf jobs/etl/job.py \
        --config conf/flights.yaml --date 2013-01-01
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.base.command import run_command
from jobs.base.errors import ConfigError, DataRefused
from jobs.etl.accounts import ledger_rows, refusal
from jobs.etl.backfill import Backfill, Progress, chunks_of
from jobs.etl.contributions import CONTRIBUTIONS, stage_contributions
from jobs.etl.encode import large_vocabularies, prepared
from jobs.etl.expect import Findings
from jobs.etl.fit import ENTRY, ID_LOG, new_entries
from jobs.etl.generation import next_generation, refused_dates
from jobs.etl.identity import Survey
from jobs.etl.ingest import DS, UNDATED, read_errors
from jobs.etl.inputs import raw_digest
from jobs.etl.judge import Judging
from jobs.etl.kept import Kept
from jobs.etl.layout import Layout, sent_rows
from jobs.etl.limits import check_limits
from jobs.etl.names import SPLIT
from jobs.etl.quarantine import QUARANTINE, quarantined_rows, stage_quarantine
from jobs.etl.shards import stage_shards, verified_shards
from jobs.etl.split import split_of
from jobs.etl.states import states
from jobs.etl.tally import Tally, assert_conserved, refuse_bad, refuse_empty, summary, tally
from jobs.etl.validate import survey
from jobs.lake.declaration import refuse_changed_declaration
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import record
from jobs.lake.lock import StageLock, stage_lock
from jobs.lake.manifest import Shard, write_manifest
from jobs.lake.state import State, save_state
from jobs.settings.settings import Settings
from schemas.dataset import Dataset

log = logging.getLogger("millstream.etl")


@dataclass(frozen=True)
class EtlResult:
    """What a run committed."""

    url: str
    version: int
    tallies: Mapping[str, Tally]
    seconds: float


def run(
    settings: Settings,
    spark: SparkSession,
    *,
    run_id: str,
    dates: Sequence[str],
    rebuild: bool = False,
) -> EtlResult:
    """Runs the ETL of the dates, `etl.dates_per_pass` of them a pass; see `jobs.etl.backfill`.

    Args:
        rebuild: start a new generation: the dates become all that the examples hold, with a fresh
            id log and perhaps another declaration. One pass, so that no reader sees half of it.

    Raises:
        DataRefused: a file cannot be used, a date has no rows or too many refused ones, or the
            declaration is not the one that the examples were made with.
        Locked: another run of this data set's ETL is at work.
    """
    started = time.monotonic()
    dataset, lake = settings.dataset(), lake_of(settings)
    tallies: dict[str, Tally] = {}
    version = -1
    chunks = chunks_of(dates, len(dates) if rebuild else settings.etl.dates_per_pass)
    with stage_lock(lake, "etl", run_id) as lock, read_errors(), closing(Progress(chunks)) as shown:
        sources = source_paths(settings, dataset).values()
        backfill = Backfill.resumed(settings, chunks, lake.table("examples").newest_info())
        for number, chunk in enumerate(chunks):
            raw = raw_digest(spark, sources, chunk) if len(chunks) > 1 else ""
            if backfill.has(chunk, raw):
                shown.skip(chunk)
                continue
            backfill = backfill.with_pass(chunk, raw)
            pass_id = f"{run_id}-{number}"
            one_pass = Pass(settings, spark, dataset, lake, lock, pass_id, chunk, rebuild, backfill)
            try:
                version, done = one_pass.run()
            except DataRefused as error:
                record(lake, [refusal(run_id, chunk, error)])
                raise
            tallies.update(done)
            shown.add(chunk, sum(one.raw for one in done.values()))
    return EtlResult(lake.table("examples").url, version, tallies, time.monotonic() - started)


def lake_of(settings: Settings) -> Lake:
    return Lake(settings.lake_url, settings.dataset().name)


def source_paths(settings: Settings, dataset: Dataset) -> dict[str, str]:
    """Absolute path of each source of the declaration.

    Raises:
        ConfigError: etl.sources names another set of sources than the declaration.
    """
    declared, given = {source.name for source in dataset.sources}, set(settings.etl.sources)
    if declared != given:
        raise ConfigError(
            f"etl.sources has {', '.join(sorted(given)) or 'none'}",
            f"the declaration's sources: {', '.join(sorted(declared))}",
        )
    return {name: settings.path(path) for name, path in settings.etl.sources.items()}


@dataclass(frozen=True)
class Pass:
    """One pass over the data of some dates, ending in one commit of the examples.

    With `rebuild` they take the place of everything that the examples hold.
    """

    settings: Settings
    spark: SparkSession
    dataset: Dataset
    lake: Lake
    lock: StageLock
    run_id: str
    dates: Sequence[str]
    rebuild: bool
    backfill: Backfill

    def run(self) -> tuple[int, dict[str, Tally]]:
        started = time.monotonic()
        findings = Findings(self.dataset, self.settings.etl.severities)
        check_limits(self.dataset, self.settings.etl.limits)
        before = self._before()
        sources = source_paths(self.settings, self.dataset)
        found = survey(self.spark, self.dataset, sources, self.dates)
        raw_counts = found.rows
        refuse_empty(raw_counts, self.dates)
        log.info("%s raw rows of %s dates", f"{sum(raw_counts.values()):,}", len(self.dates))
        try:
            kept = self._judge(sources, found)
            rows = kept.rows()
            tallies = tally(rows, raw_counts)
            etl = self.settings.etl
            refuse_bad(tallies, etl.max_quarantined_fraction, etl.limits)
            log.info("checked: %s", summary(tallies.values()))
            findings.of_rows(rows.where(F.col(SPLIT).isNotNull()), self.dates)
            fitted, versions = self._fit(kept, before, findings)
            log.info("fitted %s states", len({state.digest for state in fitted.values()}))
            shards = self._stage_examples(kept, tallies)
            log.info("wrote %s shards", f"{len(shards):,}")
            quarantined, versions["quarantine"] = self._quarantine(rows)
        finally:
            self.lake.table("kept").discard(self.run_id)
        assert_conserved(tallies, shards, quarantined)
        version = self._commit(before, fitted, shards, versions)
        seconds = time.monotonic() - started
        done = ledger_rows(self.run_id, tallies, fitted, findings, shards, version, seconds)
        record(self.lake, done)
        return version, tallies

    def _before(self) -> dict[str, Any]:
        """What the newest commit says. Rows that a dead run left beside it are put away."""
        before = self.lake.table("examples").newest_info()
        if self.rebuild:
            before = next_generation(before)
        elif before:
            refuse_changed_declaration(before, self.dataset, "the examples were")
        for name in ("contributions", "id_log"):
            self.lake.table(name).restore(before.get("versions", {}).get(name, 0))
        return before

    def _judge(self, sources: Mapping[str, str], found: Survey) -> Kept:
        """The rows with their values, reasons and splits, in files of this run."""
        split = split_of(self.dataset, self.settings.etl.split)
        judging = Judging(self.spark, self.dataset, sources, self.dates, found, split)
        return judging.kept(self.lake, self.run_id)

    def _fit(
        self, kept: Kept, before: Mapping[str, Any], findings: Findings
    ) -> tuple[dict[str, State], dict[str, int]]:
        """Replaces the dates' contributions, appends to the id log, and saves the dates' states."""
        table = self.lake.table("contributions")
        train = kept.of_splits("train")
        files = stage_contributions(train, self.dataset, self.dates, table, self.run_id)
        versions = {
            "contributions": self._replace("contributions", files, CONTRIBUTIONS, {DS: self.dates})
        }
        counts = table.spark(self.spark, CONTRIBUTIONS, versions["contributions"])
        findings.of_contributions(counts, self.dates)
        versions["id_log"] = self._append_entries(counts)
        entries = self._entries(versions["id_log"])
        generation = before.get("generation", 1)
        fitted = states(counts, entries, self.dataset, self.dates, versions["id_log"], generation)
        for state in {state.digest: state for state in fitted.values()}.values():
            save_state(self.lake, state)
        return fitted, versions

    def _entries(self, version: int | None = None) -> DataFrame:
        return self.lake.table("id_log").spark(self.spark, ID_LOG, version).select(*ENTRY)

    def _append_entries(self, counts: DataFrame) -> int:
        table = self.lake.table("id_log")
        held = {file.partition[DS] for file in self.lake.table("contributions").files()}
        new = new_entries(counts, self._entries(), self.dataset, self.dates, len(held))
        files = table.stage(new.repartition(1), self.run_id, [])
        run_files = [
            NewFile(file.path, {"run": self.run_id}, file.bytes, file.row_group_rows)
            for file in files
            if file.rows
        ]
        return self._replace("id_log", run_files, ID_LOG, {"run": [self.run_id]})

    def _stage_examples(self, kept: Kept, tallies: Mapping[str, Tally]) -> list[Shard]:
        entries, most = self._entries(), self.settings.etl.broadcast_max_entries
        large = large_vocabularies(self.lake.table("id_log"), entries, most)
        counts = {
            (ds, split): count for ds, one in tallies.items() for split, count in one.splits.items()
        }
        table, etl = self.lake.table("examples"), self.settings.etl
        valid = kept.of_splits(*{split for _, split in counts})
        rows, encoder = prepared(valid, self.dataset, entries, None, [SPLIT], large)
        layout = Layout.of(counts, etl.shard_rows)
        sent = sent_rows(rows, self.dataset, layout, encoder)
        files = stage_shards(sent, self.dataset, table, self.run_id, layout, etl.row_group_rows)
        return verified_shards(self.spark, self.dataset, table, self.run_id, files)

    def _quarantine(self, rows: DataFrame) -> tuple[dict[str, int], int]:
        """Commits the refused rows; returns those of this run by date, and the version."""
        table = self.lake.table("quarantine")
        files = stage_quarantine(rows, table, "etl", self.run_id)
        gone = refused_dates(self.lake) - set(self.dates) if self.rebuild else ()
        where = {"stage": ["etl"], DS: [*self.dates, UNDATED, *gone]}
        version = self._replace("quarantine", files, QUARANTINE, where)
        return quarantined_rows(table, self.spark, "etl", self.run_id, version), version

    def _replace(
        self, name: Any, files: Sequence[NewFile], schema: Any, where: Mapping[str, Sequence[str]]
    ) -> int:
        self.lock.check()
        return self.lake.table(name).replace(
            files, schema, list(where), where, {"run": self.run_id}, "etl", self.lock.token
        )

    def _commit(
        self,
        before: Mapping[str, Any],
        fitted: Mapping[str, State],
        shards: Sequence[Shard],
        versions: Mapping[str, int],
    ) -> int:
        """Makes the run visible: this commit names everything else that it wrote."""
        table = self.lake.table("examples")
        write_manifest(table.url, self.run_id, shards)
        info = {
            "run": self.run_id,
            "stage": "etl",
            "dataset": self.dataset.name,
            "declaration": self.dataset.digest,
            "fields": self.dataset.field_digests,
            "generation": before.get("generation", 1),
            "states": {
                **before.get("states", {}),
                **{ds: state.digest for ds, state in fitted.items()},
            },
            "runs": {**before.get("runs", {}), **dict.fromkeys(self.dates, self.run_id)},
            "versions": dict(versions),
            **self.backfill.info(),
        }
        files = [
            NewFile(s.path, {DS: s.ds, SPLIT: s.split}, s.bytes, s.row_group_rows) for s in shards
        ]
        self.lock.check()
        return table.replace(
            files,
            self.dataset.examples_schema(),
            [DS, SPLIT],
            None if self.rebuild else {DS: self.dates},
            info,
            "etl",
            self.lock.token,
        )


if __name__ == "__main__":
    run_command("etl")
