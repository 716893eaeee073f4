"""The night: etl, train, evaluate, gate and score for one date.

A night that is finished is not done again: finished means the same raw files, settings and code.
The ledger's row of the night says what it was done with.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from jobs.errors import GateRefused
from jobs.etl import job as etl
from jobs.evaluate import job as evaluate
from jobs.evaluate import score
from jobs.evaluate.registry import CHAMPION, Registry
from jobs.inputs import code_digest, raw_digest
from jobs.lake import Lake
from jobs.ledger import LedgerRow, new_run_id, read_ledger, record
from jobs.lock import stage_lock
from jobs.settings import Settings
from jobs.train import job as train
from schemas.dataset import Dataset

log = logging.getLogger("millstream.nightly")

DONE, REFUSED, UNCHANGED = "done", "refused", "unchanged"


@dataclass(frozen=True)
class NightlyResult:
    """What a night did, in words; `changed` is False where it was finished before."""

    ds: str
    changed: bool
    champion: str
    message: str

    def summary(self) -> str:
        return f"nightly {self.ds}: {self.message}"


def run(settings: Settings, spark: SparkSession, *, ds: str) -> NightlyResult:
    """Does one night.

    Raises:
        DataRefused: the raw data cannot be used; nothing after the ETL ran.
        GateRefused: the new model did not pass. The champion, where there is one, has scored the
            date all the same, as `nightly.score_with_champion` says.
        Locked: another night of this data set is at work.
    """
    dataset = settings.dataset()
    lake = Lake(settings.lake_url, dataset.name)
    run_id = new_run_id("nightly")
    night = Night(settings, spark, dataset, lake, run_id, ds)
    with stage_lock(lake, "nightly", run_id):
        inputs = night.inputs()
        before = read_ledger(lake, stage="nightly", ds=ds)
        finished = next((row for row in reversed(before) if row["status"] != UNCHANGED), None)
        if finished is not None:
            if finished["digests"] == inputs:
                return night.repeat(finished)
            changed = sorted(k for k in inputs if inputs[k] != finished["digests"].get(k))
            log.info("%s was finished, but %s changed since: doing it anew", ds, changed)
        return night.do(inputs)


@dataclass(frozen=True)
class Night:
    """The steps of a night."""

    settings: Settings
    spark: SparkSession
    dataset: Dataset
    lake: Lake
    run_id: str
    ds: str

    @property
    def labelled_ds(self) -> str:
        """The date whose labels are there by now."""
        delay = dt.timedelta(self.settings.nightly.label_delay_days)
        return str(dt.date.fromisoformat(self.ds) - delay)

    def inputs(self) -> dict[str, str]:
        """Digests of what the night depends on: raw files (size and time), settings, code."""
        dates = sorted({self.ds, self.labelled_ds})
        paths = etl.source_paths(self.settings, self.dataset).values()
        return {
            "raw files": raw_digest(self.spark, paths, dates),
            "settings": self.settings.digest(),
            "declaration": self.dataset.digest,
            "code": code_digest(),
        }

    def repeat(self, finished: Mapping[str, Any]) -> NightlyResult:
        """A finished night does nothing; one that the gate refused is refused again."""
        champion = finished["versions"].get(CHAMPION, "")
        message = f"finished before by run {finished['run']}: {finished['message']}"
        record(self.lake, [self._row(UNCHANGED, dict(finished["digests"]), champion, message, 0.0)])
        if finished["status"] == REFUSED:
            raise GateRefused(message, remedy="nothing was done; change the data or the settings")
        return NightlyResult(self.ds, False, champion, message)

    def do(self, inputs: dict[str, str]) -> NightlyResult:
        started = time.monotonic()
        settings, spark = self.settings, self.spark
        etl.run(settings, spark, run_id=new_run_id("etl"), dates=[self.labelled_ds])
        trained = train.run(settings, spark, run_id=new_run_id("train"), last_ds=self.labelled_ds)
        compared = evaluate.compare(
            settings, spark, run_id=new_run_id("evaluate"), challenger=trained.version
        )
        registry = Registry(settings, self.lake)
        if compared.verdict.passed:
            registry.promote(trained.version, self.run_id)
        champion = registry.champion()
        message = self._verdict(trained.version, compared.verdict.passed)
        if champion is not None and (
            compared.verdict.passed or settings.nightly.score_with_champion
        ):
            scored = score.run(
                settings, spark, run_id=new_run_id("score"), dates=[self.ds], model=CHAMPION
            )
            message += f"; {scored.summary()}"
        version = champion.version if champion else ""
        status = DONE if compared.verdict.passed else REFUSED
        seconds = time.monotonic() - started
        record(self.lake, [self._row(status, inputs, version, message, seconds)])
        if not compared.verdict.passed:
            raise GateRefused(
                f"{message}\n    " + "\n    ".join(compared.verdict.reasons),
                "a model that passes the gate",
                f"see the report {compared.challenger.report_url}",
            )
        return NightlyResult(self.ds, True, version, message)

    def _verdict(self, version: str, passed: bool) -> str:
        if passed:
            return f"model version {version} is the champion"
        return f"model version {version} was refused by the gate, the champion stays"

    def _row(
        self, status: str, inputs: dict[str, str], champion: str, message: str, seconds: float
    ) -> LedgerRow:
        return LedgerRow(
            run=self.run_id,
            stage="nightly",
            ds=self.ds,
            status=status,
            digests=inputs,
            versions={CHAMPION: champion} if champion else {},
            seconds=seconds,
            message=message,
        )
