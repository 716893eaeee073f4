"""Score: raw rows of some dates become predictions, one for each valid row, in one commit.

    spark-submit --properties-file conf/spark/local.conf jobs/evaluate/score.py \\
        --config conf/flights.yaml --date 2013-12-01 --model champion

The same row engine and encoder as the ETL's, with the state that the model was trained with.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from pyspark.sql import SparkSession

from jobs.base.command import run_command
from jobs.base.errors import DateRefused
from jobs.etl.encode.encoder import Encoder
from jobs.etl.encode.vocabulary import stage_vocabularies
from jobs.etl.fit.states import state_entries
from jobs.etl.judge.counts import DateCounts, refuse_empty
from jobs.etl.judge.duplicates import without_duplicates
from jobs.etl.judge.judging import JudgedRows, judge
from jobs.etl.judge.parents import stage_parents
from jobs.etl.judge.tasks import Counted
from jobs.etl.raw.sources import RawSources, source_paths
from jobs.etl.write.quarantine import RefusedRows, StagedRefused, stage_quarantine
from jobs.etl.write.settle import replace_refused, settle
from jobs.evaluate.export.export import with_engine
from jobs.evaluate.predict.accounts import (
    assert_conserved,
    ledger_counts,
    ledger_lines,
    refuse_lost,
)
from jobs.evaluate.predict.compatible import refuse_other_declaration
from jobs.evaluate.predict.predict import Predictor, check_model
from jobs.evaluate.predict.predictions import (
    Content,
    contents,
    predictions_of_file,
    predictions_schema,
    refused_of_file,
    standing,
)
from jobs.evaluate.predict.scorer import Scorer
from jobs.evaluate.predict.stage import stage_predictions
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, of_commit, record, record_committed, record_lost
from jobs.lake.lock import StageLock, stage_lock
from jobs.lake.state import State, load_state
from jobs.registry.registry import Registry
from jobs.registry.version import CHAMPION, ModelVersion
from jobs.rows.base.names import DS
from jobs.settings.settings import Settings
from schemas.dataset import Dataset

log = logging.getLogger("millstream.score")


@dataclass(frozen=True)
class ScoreResult:
    """What a run committed; `changed` is False where the same predictions stood already.

    Attributes:
        counts: by date; of each the valid rows are predicted.
    """

    url: str
    version: int
    model_version: str
    counts: Mapping[str, DateCounts]
    changed: bool
    seconds: float

    def summary(self) -> str:
        """One line: rows, where they are, of which model."""
        total = sum(self.counts.values(), DateCounts())
        return (
            f"{total.raw:,} rows = predicted {total.valid:,} + quarantined "
            f"{total.quarantined:,}, by model version {self.model_version}; "
            f"{'written to' if self.changed else 'as they were in'} {self.url}, "
            f"version {self.version}"
        )


def run(
    settings: Settings,
    spark: SparkSession,
    *,
    run_id: str,
    dates: Sequence[str],
    model: str = CHAMPION,
) -> ScoreResult:
    """Scores the raw rows of the dates with one version of the model.

    Args:
        model: a version, an alias or "latest", resolved once: a promotion during the run does not
            mix versions.

    Raises:
        DataRefused: no such model, or it belongs to another declaration; a file cannot be used;
            a date has no rows or only refused ones.
        Locked: another run is scoring this data set.
    """
    dataset = settings.dataset()
    lake = Lake(settings.lake_url, dataset.name)
    with stage_lock(lake, "score", run_id) as lock:
        record_lost(lake, "predictions", lake.table("predictions").newest_info())
        version = Registry(settings, lake).resolve(model)
        return Scoring(settings, spark, lake, lock, run_id, version, sorted(set(dates))).run()


@dataclass(frozen=True)
class Scoring:
    """The scoring of some dates, ending in one commit of the predictions."""

    settings: Settings
    spark: SparkSession
    lake: Lake
    lock: StageLock
    run_id: str
    model: ModelVersion
    dates: Sequence[str]

    @cached_property
    def dataset(self) -> Dataset:
        return self.settings.dataset()

    @cached_property
    def predictor(self) -> Predictor:
        found = Predictor.of(self.model, self.dataset, self.settings.score.batch_rows)
        return with_engine(self.lake, found, self.settings.score.engine)

    def run(self) -> ScoreResult:
        started = time.monotonic()
        state, raw = self._checked_state(), self._raw()
        settle(self.lake, "score", self.lock, self.run_id)
        files = len(raw.files[self.dataset.rows])
        log.info("%s raw files to score with model version %s", f"{files:,}", self.model.version)
        try:
            rows = self._scored(raw, state)
            predictions, found = self._stage_predictions(rows)
            log.info("scored %s rows", f"{sum(one.rows for one in found.values()):,}")
            refused = self._stage_quarantine(raw, rows)
        finally:
            self.lake.table("judged").discard(self.run_id)
        log.info("refused %s rows", f"{sum(refused.rows.values()):,}")
        assert_conserved(rows.counts, found, refused.rows)
        changed = self._differs(found, refused)
        status = "done" if changed else "unchanged"
        line = LedgerRow(self.run_id, "score", "", status, versions={"model": self.model.version})
        line = replace(line, seconds=time.monotonic() - started)
        done = ledger_lines(line, self.model, rows.counts, found)
        version = self._commit(predictions, refused, done) if changed else self._left_as_it_was()
        url, seconds = self.lake.table("predictions").url, time.monotonic() - started
        record_committed(self.lake, "predictions", version, done, seconds)
        return ScoreResult(url, version, self.model.version, rows.counts, changed, seconds)

    # Reading

    def _checked_state(self) -> State:
        """The state that the model was trained with; both are what their digests say."""
        refuse_other_declaration(self.model, self.dataset, self.lake)
        check_model(self.predictor)
        return load_state(self.lake, self.model.tags["state_digest"])

    def _raw(self) -> RawSources:
        """Of the ETL's sources, with those of `score.sources` in their place."""
        merged = {**self.settings.etl.sources, **(self.settings.score.sources or {})}
        etl = self.settings.etl.model_copy(update={"sources": merged})
        paths = source_paths(self.settings.model_copy(update={"etl": etl}), self.dataset)
        return RawSources.listed(self.dataset, paths, self.dates)

    def _scored(self, raw: RawSources, state: State) -> JudgedRows:
        """The valid rows with their scores, and the refused ones, in files of this run."""
        folder = self.lake.table("judged").fresh_folder(self.run_id)
        most_mb = self.settings.etl.broadcast_parent_mb
        engine = raw.engine(None, False, most_mb)
        parents = stage_parents(self.spark, raw, self.dataset, most_mb, folder)
        scorer = self._scorer(state, folder)
        pieces = raw.pieces(with_label=False)
        rows = judge(self.spark, engine, pieces, Counted(), folder, parents, scorer)
        log.info("%s raw rows to score", f"{rows.read - rows.others:,}")
        rows = without_duplicates(rows, self.dataset)
        refuse_empty(rows.counts, self.dates)
        try:
            refuse_lost(rows.counts, self.dates)
        except DateRefused as error:
            one = LedgerRow(self.run_id, "score", error.ds, "refused", message=str(error))
            record(self.lake, [replace(one, counts=ledger_counts(rows.counts[error.ds]))])
            raise
        return rows

    def _scorer(self, state: State, folder: str) -> Scorer:
        names = {f.log_name for f in self.dataset.counted}
        vocabularies = stage_vocabularies(state_entries(self.lake, state), names, folder)
        return Scorer(Encoder(self.dataset, vocabularies, state.ds), self.predictor)

    # Writing

    def _stage_predictions(self, rows: JudgedRows) -> tuple[list[NewFile], dict[str, Content]]:
        """Writes the predictions into files that nobody sees yet."""
        return stage_predictions(
            rows.valid,
            {ds: one.valid for ds, one in rows.counts.items()},
            self.dataset,
            self.lake.table("predictions"),
            self.run_id,
            self.model.version,
        )

    def _stage_quarantine(self, raw: RawSources, rows: JudgedRows) -> StagedRefused:
        read = frozenset(file.path for file in raw.files[self.dataset.rows])
        refused = RefusedRows(rows.valid.url, rows.refused, read)
        table = self.lake.table("quarantine")
        return stage_quarantine(self.spark, refused, table, "score", self.run_id, self.dates)

    def _differs(self, found: Mapping[str, Content], refused: StagedRefused) -> bool:
        """Whether the tables hold anything else for the dates than this run would write."""
        table, read = self.lake.table("predictions"), partial(predictions_of_file, self.dataset)
        before = standing(table, {DS: self.dates})
        if contents(self.spark, table.url, before, read) != found:
            return True
        table = self.lake.table("quarantine")
        before = [f for f in standing(table, refused.where) if f not in refused.kept]
        old, new = (
            contents(self.spark, table.url, files, refused_of_file)
            for files in (before, refused.files)
        )
        return old != new

    def _left_as_it_was(self) -> int:
        """Takes what was staged away; returns the predictions' version."""
        for name in ("predictions", "quarantine"):
            self.lake.table(name).discard(self.run_id)
        return self.lake.table("predictions").version()

    def _commit(
        self, files: Sequence[NewFile], refused: StagedRefused, done: Sequence[LedgerRow]
    ) -> int:
        """Makes the run visible: the last commit names everything else that it wrote."""
        quarantine = replace_refused(self.lake, "score", self.lock, refused, self.run_id)
        info = {
            "run": self.run_id,
            "stage": "score",
            "dataset": self.dataset.name,
            "declaration": self.dataset.digest,
            "dates": list(self.dates),
            "model_version": self.model.version,
            "weights": self.model.tags["weights_digest"],
            "state": self.model.tags["state_digest"],
            "versions": {"quarantine": quarantine},
            **of_commit(done),
        }
        schema, where = predictions_schema(self.dataset), {DS: self.dates}
        self.lock.check()
        return self.lake.table("predictions").replace(
            files, schema, [DS], where, info, "score", self.lock.token
        )


if __name__ == "__main__":
    run_command("score")
