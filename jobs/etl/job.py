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

import pyarrow as pa
from pyspark.sql import SparkSession

from jobs.base.command import run_command
from jobs.base.errors import DataRefused
from jobs.etl.backfill import Backfill, Progress, chunks_of
from jobs.etl.encode.encoder import Encoder
from jobs.etl.encode.vocabulary import stage_vocabularies
from jobs.etl.fit.condensed import condensed
from jobs.etl.fit.contributions import CONTRIBUTIONS, Merging
from jobs.etl.fit.entries import ID_LOG, new_entries, read_entries, stage_entries
from jobs.etl.fit.expect import Findings
from jobs.etl.fit.history import CountHistory
from jobs.etl.fit.states import states
from jobs.etl.generation import next_generation, refused_dates
from jobs.etl.judge.counts import DateCounts, refuse_bad, refuse_empty, summary
from jobs.etl.judge.duplicates import without_duplicates
from jobs.etl.judge.judging import JudgedRows, judge
from jobs.etl.judge.parents import stage_parents
from jobs.etl.judge.recount import recount
from jobs.etl.judge.tasks import Counted
from jobs.etl.limits import check_limits
from jobs.etl.raw.sources import RawSources, source_paths
from jobs.etl.write.accounts import assert_conserved, ledger_rows, refusal
from jobs.etl.write.layout import ShardLayout, sent_rows
from jobs.etl.write.quarantine import RefusedRows, StagedRefused, stage_quarantine
from jobs.etl.write.settle import replace_refused, settle
from jobs.etl.write.shards import stage_shards
from jobs.lake.declaration import refuse_changed_declaration
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import of_commit, record, record_committed, record_lost
from jobs.lake.lock import StageLock, stage_lock
from jobs.lake.manifest import Shard, write_manifest
from jobs.lake.state import save_states
from jobs.rows.base.names import DS, SPLIT
from jobs.rows.judge.identity import Split
from jobs.settings.settings import Settings
from schemas.dataset import Dataset, struct_type

log = logging.getLogger("millstream.etl")


@dataclass(frozen=True)
class EtlResult:
    """What a run committed."""

    url: str
    version: int
    counts: Mapping[str, DateCounts]
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
    counts: dict[str, DateCounts] = {}
    version = -1
    chunks = chunks_of(dates, len(dates) if rebuild else settings.etl.dates_per_pass)
    paths = source_paths(settings, dataset)
    with stage_lock(lake, "etl", run_id) as lock, closing(Progress(chunks)) as shown:
        before = lake.table("examples").newest_info()
        record_lost(lake, "examples", before)
        backfill = Backfill.resumed(settings, chunks, before)
        for number, chunk in enumerate(chunks):
            raw = RawSources.listed(dataset, paths, chunk)
            if len(chunks) > 1 and backfill.has(chunk, raw.digest):
                shown.skip(chunk)
                continue
            backfill = backfill.with_pass(chunk, raw.digest)
            pass_id = f"{run_id}-{number}"
            one_pass = Pass(settings, spark, dataset, lake, lock, pass_id, raw, rebuild, backfill)
            try:
                version, done = one_pass.run()
            except DataRefused as error:
                record(lake, [refusal(run_id, chunk, error)])
                raise
            counts.update(done)
            shown.add(chunk, sum(one.raw for one in done.values()))
    return EtlResult(lake.table("examples").url, version, counts, time.monotonic() - started)


def lake_of(settings: Settings) -> Lake:
    return Lake(settings.lake_url, settings.dataset().name)


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
    raw: RawSources
    rebuild: bool
    backfill: Backfill

    @property
    def dates(self) -> tuple[str, ...]:
        return self.raw.dates

    def run(self) -> tuple[int, dict[str, DateCounts]]:
        started = time.monotonic()
        etl = self.settings.etl
        findings = Findings(self.dataset, etl.severities)
        check_limits(self.dataset, etl.limits)
        before = self._before()
        try:
            rows = self._judged(findings)
            refuse_empty(rows.counts, self.dates)
            refuse_bad(rows.counts, rows.read, etl.max_quarantined_fraction, etl.limits)
            log.info("checked: %s", summary(rows.counts.values()))
            findings.judge_rows(rows.measures, self.dates)
            fitted, entries, versions = self._fit(before, findings)
            log.info("fitted %s states", len(set(fitted.values())))
            shards = self._stage_examples(rows, entries)
            log.info("wrote %s shards", f"{len(shards):,}")
            refused = self._stage_quarantine(rows)
        finally:
            self.lake.table("judged").discard(self.run_id)
        assert_conserved(rows.counts, shards, refused.rows)
        versions["quarantine"] = self._quarantine(refused)
        seconds = time.monotonic() - started
        done = ledger_rows(self.run_id, rows.counts, fitted, findings, shards, seconds)
        version = self._commit(before, fitted, shards, versions, of_commit(done))
        record_committed(self.lake, "examples", version, done, time.monotonic() - started)
        return version, rows.counts

    def _before(self) -> dict[str, Any]:
        """What the newest commit says. Rows that a dead run left beside it are put away."""
        before = self.lake.table("examples").newest_info()
        if self.rebuild:
            before = next_generation(before)
        elif before:
            refuse_changed_declaration(before, self.dataset, "the examples were")
        for name in ("contributions", "id_log"):
            self.lock.check()
            version = before.get("versions", {}).get(name, 0)
            self.lake.table(name).restore(version, "etl", self.lock.token)
        settle(self.lake, "etl", self.lock, self.run_id)
        return before

    def _judged(self, findings: Findings) -> JudgedRows:
        """The rows with their values, reasons and splits, in files of this run."""
        fractions = self.settings.etl.split
        split = Split(fractions.seed, fractions.fractions())
        pieces = self.raw.pieces()
        merging = Merging.of(self.dataset, self.dates, sum(p.weight for p in pieces) // 128)
        url = self.lake.table("contributions").fresh_folder(self.run_id)
        fields = tuple(f.name for f in self.dataset.fields)
        counted = Counted(findings.of_rows, fields, merging, url)
        folder = self.lake.table("judged").fresh_folder(self.run_id)
        most_mb = self.settings.etl.broadcast_parent_mb
        engine = self.raw.engine(split, True, most_mb)
        parents = stage_parents(self.spark, self.raw, self.dataset, most_mb, folder)
        rows = judge(self.spark, engine, pieces, counted, folder, parents)
        log.info("%s raw rows of %s dates", f"{rows.read - rows.others:,}", len(self.dates))
        once = without_duplicates(rows, self.dataset)
        if once.counts != rows.counts:
            # Contributions were counted with the rows that repeat a key.
            self.lake.table("contributions").discard(self.run_id)
            once = recount(once, counted)
        return once

    def _fit(
        self, before: Mapping[str, Any], findings: Findings
    ) -> tuple[dict[str, str], pa.Table, dict[str, int]]:
        """Replaces the dates' contributions, appends to the id log, and saves the dates' states,
        of which the digests are returned."""
        table = self.lake.table("contributions")
        files = table.staged(self.run_id, [DS])
        version = self._replace("contributions", files, CONTRIBUTIONS, {DS: self.dates})
        history = condensed(CountHistory.of(self.spark, table, version), min(self.dates))
        findings.judge_drift(history, self.dates)
        log_table = self.lake.table("id_log")
        entries = read_entries(log_table, None)
        new = new_entries(history.up_to(max(self.dates)), entries, self.dataset, self.dates)
        staged = stage_entries(new, log_table, self.run_id)
        log_version = self._replace("id_log", staged, struct_type(ID_LOG), {"run": [self.run_id]})
        entries = pa.concat_tables([entries, new])
        generation = before.get("generation", 1)
        found = states(history, entries, self.dataset, self.dates, log_version, generation)
        versions = {"contributions": version, "id_log": log_version}
        return save_states(self.lake, found), entries, versions

    def _stage_examples(self, rows: JudgedRows, entries: pa.Table) -> list[Shard]:
        counts = {
            (ds, split): count
            for ds, one in rows.counts.items()
            for split, count in one.splits.items()
        }
        names = {f.log_name for f in self.dataset.counted}
        vocabularies = stage_vocabularies(entries, names, rows.valid.url)
        encoder = Encoder(self.dataset, vocabularies, None, (SPLIT,))
        table, etl = self.lake.table("examples"), self.settings.etl
        layout = ShardLayout.of(counts, etl.shard_rows)
        sent = sent_rows(rows.valid, self.dataset, layout, encoder)
        return stage_shards(sent, self.dataset, table, self.run_id, layout, etl)

    def _stage_quarantine(self, rows: JudgedRows) -> StagedRefused:
        read = frozenset(file.path for file in self.raw.files[self.dataset.rows])
        refused = RefusedRows(rows.valid.url, rows.refused, read)
        dates = {*self.dates, *(refused_dates(self.lake) if self.rebuild else ())}
        table = self.lake.table("quarantine")
        return stage_quarantine(self.spark, refused, table, "etl", self.run_id, dates)

    def _quarantine(self, refused: StagedRefused) -> int:
        return replace_refused(self.lake, "etl", self.lock, refused, self.run_id)

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
        fitted: Mapping[str, str],
        shards: Sequence[Shard],
        versions: Mapping[str, int],
        ledger: Mapping[str, Any],
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
                **fitted,
            },
            "runs": {**before.get("runs", {}), **dict.fromkeys(self.dates, self.run_id)},
            "versions": dict(versions),
            **self.backfill.info(),
            **ledger,
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
