"""Score: raw rows of some dates become predictions, one for each valid row, in one commit.

    spark-submit --properties-file conf/spark/local.conf jobs/evaluate/score.py \\
        --config conf/flights.yaml --date 2013-12-01 --model champion

The same ingest, rules and encoder as the ETL's, with the state that the model was trained with.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.base.command import run_command
from jobs.base.errors import DataRefused
from jobs.etl.files import read_errors
from jobs.etl.identity import Survey
from jobs.etl.job import source_paths
from jobs.etl.judge import Judging
from jobs.etl.kept import Kept
from jobs.etl.names import DS, REASONS, SOURCE_FILE, UNDATED
from jobs.etl.quarantine import QUARANTINE, STAGE, stage_quarantine
from jobs.etl.states import state_entries
from jobs.etl.validate import survey
from jobs.evaluate.export.export import for_scoring
from jobs.evaluate.predict.compatible import refuse_other_declaration
from jobs.evaluate.predict.encoded import judged, refused_counts, stage_encoded, valid
from jobs.evaluate.predict.predict import Predictor, check_weights, predicted_files
from jobs.evaluate.predict.predictions import (
    MODEL_VERSION,
    RUN_ID,
    Content,
    content,
    kept_columns,
    predictions_schema,
    refused_content,
    verified,
)
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, record
from jobs.lake.lock import StageLock, stage_lock
from jobs.lake.state import State, load_state
from jobs.registry.registry import Registry
from jobs.registry.version import CHAMPION, ModelVersion
from jobs.settings.settings import Settings
from schemas.dataset import ROW_ID, Dataset

log = logging.getLogger("millstream.score")


@dataclass(frozen=True)
class Tally:
    """Rows of one date: `raw` counted by itself, the others from what was written."""

    raw: int = 0
    predicted: int = 0
    reasons: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())


@dataclass(frozen=True)
class ScoreResult:
    """What a run committed; `changed` is False where the same predictions stood already."""

    url: str
    version: int
    model_version: str
    tallies: Mapping[str, Tally]
    changed: bool
    seconds: float

    def summary(self) -> str:
        """One line: rows, where they are, of which model."""
        total: Counter[str] = Counter()
        for tally in self.tallies.values():
            total.update(raw=tally.raw, predicted=tally.predicted, quarantined=tally.quarantined)
        return (
            f"{total['raw']:,} rows = predicted {total['predicted']:,} + quarantined "
            f"{total['quarantined']:,}, by model version {self.model_version}; "
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
    with stage_lock(lake, "score", run_id) as lock, read_errors():
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
        digest, rows = self.model.tags["weights_digest"], self.settings.score.batch_rows
        found = Predictor(self.model.folder_url, digest, self.dataset, rows)
        return for_scoring(self.lake, found) if self.settings.score.engine == "onnx" else found

    def run(self) -> ScoreResult:
        started = time.monotonic()
        state = self._checked_state()
        sources = self._sources()
        surveyed = survey(self.spark, self.dataset, sources, self.dates)
        raw_counts = self._raw_counts(surveyed)
        total, version = f"{sum(raw_counts.values()):,}", self.model.version
        log.info("%s raw rows to score with model version %s", total, version)
        try:
            kept = Judging(
                self.spark, self.dataset, sources, self.dates, surveyed, with_label=False
            ).kept(self.lake, self.run_id)
            encoded = self._stage_encoded(kept, state)
            rows = judged(self.spark, self.lake, encoded)
            refused = refused_counts(rows)
            self._refuse_lost_dates(raw_counts, refused)
            files = self._stage_predictions(valid(encoded))
            found = verified(self.spark, self.dataset, self.lake.table("predictions"), files)
            tallies = {
                ds: Tally(raw, found[ds].rows if ds in found else 0, refused.get(ds, {}))
                for ds, raw in sorted(raw_counts.items())
            }
            _assert_conserved(tallies)
            log.info("scored %s rows", f"{sum(t.predicted for t in tallies.values()):,}")
            changed = self._differs(found, rows)
            quarantine = self._quarantine(rows) if changed else -1
            log.info("refused %s rows", f"{sum(t.quarantined for t in tallies.values()):,}")
        finally:
            for name in ("kept", "encoded"):
                self.lake.table(name).discard(self.run_id)
        table = self.lake.table("predictions")
        committed = self._commit(files, quarantine) if changed else table.version()
        if not changed:
            table.discard(self.run_id)
        seconds = time.monotonic() - started
        result = ScoreResult(table.url, committed, version, tallies, changed, seconds)
        record(self.lake, self._ledger_rows(result, found))
        return result

    # Reading

    def _checked_state(self) -> State:
        """The state that the model was trained with; both are what their digests say."""
        refuse_other_declaration(self.model, self.dataset, self.lake)
        check_weights(self.predictor)
        return load_state(self.lake, self.model.tags["state_digest"])

    def _sources(self) -> dict[str, str]:
        """Those of the ETL, with those of `score.sources` in their place."""
        merged = {**self.settings.etl.sources, **(self.settings.score.sources or {})}
        etl = self.settings.etl.model_copy(update={"sources": merged})
        return source_paths(self.settings.model_copy(update={"etl": etl}), self.dataset)

    def _raw_counts(self, surveyed: Survey) -> Mapping[str, int]:
        """Rows of each date counted apart from all that follows, for the conservation count."""
        counts = surveyed.rows
        if empty := [ds for ds in self.dates if ds not in counts]:
            raise DataRefused(
                f"no rows to score for {', '.join(empty[:5])}"
                + (f" and {len(empty) - 5} more dates" if len(empty) > 5 else ""),
                "at least one row a date",
                "land the data, or leave the date out",
            )
        return counts

    def _refuse_lost_dates(
        self, raw_counts: Mapping[str, int], refused: Mapping[str, Mapping[tuple[str, ...], int]]
    ) -> None:
        for ds in self.dates:
            reasons = Counter(refused.get(ds, {}))
            if reasons.total() == raw_counts[ds]:
                why = ", ".join(f"{'+'.join(r)} ({n:,})" for r, n in reasons.most_common(3))
                message = f"{ds}: all {raw_counts[ds]:,} rows are refused: {why}"
                counts = {"raw": raw_counts[ds], "quarantined": raw_counts[ds]}
                record(
                    self.lake,
                    [LedgerRow(self.run_id, "score", ds, "refused", counts, message=message)],
                )
                raise DataRefused(
                    message, "at least one valid row a date", "correct the raw data and run again"
                )

    # Predicting

    def _stage_encoded(self, rows: Kept, state: State) -> list[NewFile]:
        """Encodes the rows once, into files that are this run's alone."""
        entries = state_entries(self.spark, self.lake, state)
        most = self.settings.etl.broadcast_max_entries
        large = [name for name, known in state.vocabulary.items() if known.entries > most]
        return stage_encoded(rows, self.dataset, entries, state.ds, large, self.lake, self.run_id)

    def _stage_predictions(self, encoded: Sequence[NewFile]) -> list[NewFile]:
        """Scores the valid rows once, into files that nobody sees yet."""
        schema = predictions_schema(self.dataset)
        kept = [(name, schema[name].dataType.simpleString()) for name in kept_columns(self.dataset)]
        url = self.lake.table("encoded").url
        scored = predicted_files(
            self.spark, url, encoded, self.predictor, [*kept, (DS, "string")]
        ).withColumns({MODEL_VERSION: F.lit(self.model.version), RUN_ID: F.lit(self.run_id)})
        # Small dates share a task and large ones are cut, whatever the partitions before.
        even = scored.hint("rebalance", F.col(DS)).sortWithinPartitions(DS, ROW_ID)
        names = schema.fieldNames()
        return self.lake.table("predictions").stage(even.select(*names), self.run_id, [DS])

    # Writing

    def _differs(self, found: Mapping[str, Content], rows: DataFrame) -> bool:
        """Whether the tables hold anything else for the dates than this run would write."""
        predictions, quarantine = self.lake.table("predictions"), self.lake.table("quarantine")
        schema = predictions_schema(self.dataset)
        before = predictions.spark(self.spark, schema, where={DS: self.dates})
        if content(before, self.dataset) != found:
            return True
        where = {STAGE: ["score"], DS: [*self.dates, UNDATED]}
        refused = quarantine.spark(self.spark, QUARANTINE, where=where)
        read = F.broadcast(rows.select(SOURCE_FILE).distinct())
        ours = refused.where(F.col(DS) != UNDATED).unionByName(
            refused.where(F.col(DS) == UNDATED).join(read, SOURCE_FILE, "left_semi")
        )
        return refused_content(ours) != refused_content(rows.where(F.size(REASONS) > 0))

    def _quarantine(self, rows: DataFrame) -> int:
        table = self.lake.table("quarantine")
        files = stage_quarantine(rows, table, "score", self.run_id)
        where = {STAGE: ["score"], DS: [*self.dates, UNDATED]}
        self.lock.check()
        return table.replace(
            files, QUARANTINE, list(where), where, {"run": self.run_id}, "score", self.lock.token
        )

    def _commit(self, files: Sequence[NewFile], quarantine: int) -> int:
        """Makes the run visible: this commit names everything else that it wrote."""
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
        }
        self.lock.check()
        return self.lake.table("predictions").replace(
            files,
            predictions_schema(self.dataset),
            [DS],
            {DS: self.dates},
            info,
            "score",
            self.lock.token,
        )

    def _ledger_rows(self, result: ScoreResult, found: Mapping[str, Content]) -> list[LedgerRow]:
        tags = self.model.tags
        return [
            LedgerRow(
                run=self.run_id,
                stage="score",
                ds=ds,
                status="done" if result.changed else "unchanged",
                counts={
                    "raw": tally.raw,
                    "predicted": tally.predicted,
                    "quarantined": tally.quarantined,
                },
                digests={
                    "predictions": f"{found[ds].digest if ds in found else 0:016x}",
                    "weights": tags["weights_digest"],
                    "state": tags["state_digest"],
                },
                versions={"predictions": str(result.version), "model": self.model.version},
                seconds=result.seconds,
            )
            for ds, tally in result.tallies.items()
        ]


def _assert_conserved(tallies: Mapping[str, Tally]) -> None:
    """Law 1 for scoring: raw rows = predicted + quarantined."""
    for ds, tally in tallies.items():
        if tally.raw != tally.predicted + tally.quarantined:
            raise AssertionError(
                f"{ds}: {tally.raw} raw rows, but {tally.predicted} predicted and "
                f"{tally.quarantined} quarantined; nothing was committed"
            )


if __name__ == "__main__":
    run_command("score")
