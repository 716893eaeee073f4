"""Evaluate: a registered model is measured on rows that it was not trained on.

    spark-submit --properties-file conf/spark/local.conf jobs/evaluate/job.py \\
        --config conf/flights.yaml --model latest
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import cached_property

from pyspark import StorageLevel
from pyspark.sql import SparkSession

from jobs.base.command import run_command
from jobs.base.spark import side_by_side
from jobs.evaluate.export.export import with_engine
from jobs.evaluate.gate.gate import Verdict, decide
from jobs.evaluate.measure.metrics import measure
from jobs.evaluate.measure.selection import (
    MEASURED,
    Selection,
    early_share,
    fresh,
    read_alike,
)
from jobs.evaluate.measure.slices import check_slices
from jobs.evaluate.predict.compatible import id_maps_of, refuse_other_declaration
from jobs.evaluate.predict.ids import IdMaps
from jobs.evaluate.predict.predict import Predictor, check_model, forward_of, predicted
from jobs.evaluate.predict.probe import probe_rows, write_probe
from jobs.evaluate.report.read import read_by_etl
from jobs.evaluate.report.report import Report, write_report
from jobs.evaluate.result import Comparison, EvaluateResult
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, record
from jobs.lake.state import load_state
from jobs.registry.promotions import champions
from jobs.registry.registry import Registry
from jobs.registry.version import LATEST, ModelVersion
from jobs.settings.settings import Settings
from schemas.dataset import Dataset

log = logging.getLogger("millstream.evaluate")


def run(
    settings: Settings,
    spark: SparkSession,
    *,
    run_id: str,
    model: str = LATEST,
    dates: tuple[str, str] | None = None,
) -> EvaluateResult:
    """Measures a model, by default on the dates that it was trained over.

    Args:
        model: a version, an alias or "latest".
        dates: first and last date, both included.

    Raises:
        DataRefused: no such model, version or rows; other examples than the model can read.
    """
    evaluation = Evaluation(settings, spark, run_id)
    version = evaluation.checked(evaluation.registry.resolve(model))
    measured = evaluation.measure(version, evaluation.selection(version, dates))
    evaluation.report(measured)
    evaluation.record(measured)
    return measured


def compare(settings: Settings, spark: SparkSession, *, run_id: str, challenger: str) -> Comparison:
    """Measures a challenger and the champion on the same rows and asks the gate.

    The alias stays where it is: the caller promotes, or raises GateRefused with the reasons.

    Raises:
        DataRefused: see `run`.
    """
    evaluation = Evaluation(settings, spark, run_id)
    version = evaluation.checked(evaluation.registry.resolve(challenger))
    champion = evaluation.rival(version)
    rival = None
    if champion is not None and read_alike(evaluation.lake, champion, version):
        rival = evaluation.checked(champion)
    selection = evaluation.gate_rows(version, rival)
    with side_by_side(spark) as threads:
        other = threads.submit(evaluation.measure, rival, selection) if rival else None
        measured = evaluation.measure(version, selection)
        against = other.result() if other else None
    if against is not None:
        evaluation.record(against)
    verdict = decide(
        settings.gate,
        measured.metrics,
        against.metrics if against else None,
        settings.evaluate.confidence,
    )
    evaluation.report(measured, against, verdict)
    evaluation.record(measured, verdict)
    return Comparison(measured, against, verdict, champion.version if champion else "")


@dataclass(frozen=True)
class Evaluation:
    """The steps of an evaluation, over one lake."""

    settings: Settings
    spark: SparkSession
    run_id: str

    @property
    def dataset(self) -> Dataset:
        return self.settings.dataset()

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake_url, self.dataset.name)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.settings, self.lake)

    def checked(self, model: ModelVersion) -> ModelVersion:
        """The model, when nothing speaks against measuring it that Spark is not needed to see."""
        check_slices(self.dataset, self.settings.evaluate.slices)
        refuse_other_declaration(model, self.dataset, self.lake)
        check_model(self.predictor(model))
        return model

    def predictor(self, model: ModelVersion) -> Predictor:
        return Predictor.of(model, self.dataset, self.settings.evaluate.batch_rows)

    def rival(self, challenger: ModelVersion) -> ModelVersion | None:
        """The champion that a challenger is compared with.

        One that is the champion already is compared as it was before: with the one it replaced.
        """
        champion = self.registry.champion()
        if champion is None or champion.version != challenger.version:
            return champion
        others = [version for version in champions(self.lake) if version != challenger.version]
        return self.registry.resolve(others[-1]) if others else None

    def selection(self, model: ModelVersion, dates: tuple[str, str] | None) -> Selection:
        """Rows of the examples version that the model was trained on.

        Raises:
            DataRefused: there are none.
        """
        table = self.lake.table("examples")
        examples = Examples.open(table.url, int(model.tags["examples_version"]))
        found = Selection(examples, self.settings.evaluate.split, *(dates or model.dates))
        found.shards()
        return found

    def gate_rows(self, challenger: ModelVersion, champion: ModelVersion | None) -> Selection:
        """The rows on which both models are compared: see `gate.rows`."""
        selection = self.selection(challenger, None)
        models = [model for model in (challenger, champion) if model is not None]
        states = [load_state(self.lake, model.tags["state_digest"]) for model in models]
        if self.settings.gate.rows == "fresh":
            return fresh(selection, self.lake, states)
        share = early_share(self.spark, self.lake, selection, states)
        log.info("%.2f %% of ids were encoded before their value had one", 100 * share)
        return replace(selection, early_share=share)

    def measure(self, model: ModelVersion, selection: Selection) -> EvaluateResult:
        """Scores the rows once, keeps the scores, and measures them."""
        started = time.monotonic()
        id_maps = id_maps_of(self.lake, self.dataset, model, selection.examples)
        predictor = self.predictor(model)
        # What is judged are the scores that will be served.
        judged = with_engine(self.lake, predictor, self.settings.score.engine)
        chosen = self.settings.evaluate
        rows = selection.rows(self.spark, self.dataset, chosen)
        scored = predicted(rows, judged, list(MEASURED), id_maps)
        scored = scored.withColumnsRenamed(MEASURED)
        scored = scored.persist(StorageLevel.MEMORY_AND_DISK)
        try:
            metrics = measure(
                scored,
                self.dataset.label.task,
                str(selection),
                chosen.calibration_bins,
                chosen.threshold,
                chosen.auc == "exact",
                self.dataset.weight is not None,
            )
        finally:
            scored.unpersist()
        self._keep_probe(predictor, selection, id_maps)
        report_url = self.lake.folder("reports", f"{self.run_id}.html")
        return EvaluateResult(model, selection, metrics, report_url, time.monotonic() - started)

    def _keep_probe(self, predictor: Predictor, selection: Selection, id_maps: IdMaps) -> None:
        """Keeps rows by which the server tries the model."""
        engine = self.settings.serve.engine
        predictor = with_engine(self.lake, predictor, engine)
        shard = selection.shards()[0]
        rows = probe_rows(f"{selection.examples.url}/{shard.path}", predictor, id_maps)
        forward = forward_of(predictor, threads=1)
        write_probe(self.lake, predictor.digest, engine, forward, rows)

    def report(
        self,
        measured: EvaluateResult,
        champion: EvaluateResult | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        """Writes the HTML report."""
        report = Report(
            title=f"{self.dataset.name}, model version {measured.version}",
            subtitle=measured.measured_on,
            metrics=measured.metrics,
            curves=self.registry.metrics_by_epoch(measured.model),
            facts=measured.facts(self.run_id, champion),
            champion=champion.metrics if champion else None,
            verdict=verdict,
            read=read_by_etl(self.spark, self.lake, measured.selection),
            confidence=self.settings.evaluate.confidence,
            settings=measured.model.tags["settings"],
        )
        write_report(measured.report_url, report)

    def record(self, measured: EvaluateResult, verdict: Verdict | None = None) -> None:
        """Adds to the model's run and to the ledger; with a verdict, the gate's row too."""
        tags, selection = measured.model.tags, measured.selection
        values = {f"{selection.split}.{k}": v for k, v in measured.metrics.values.items()}
        self.registry.log_metrics(measured.version, values)
        row = LedgerRow(
            run=self.run_id,
            stage="evaluate",
            ds=selection.last_ds,
            status="done",
            counts={"rows": measured.metrics.rows},
            digests={"weights": tags["weights_digest"], "state": tags["state_digest"]},
            versions={
                "model": measured.version,
                "examples": str(selection.examples.version),
                "first_ds": selection.first_ds,
            },
            metrics=measured.metrics.values,
            seconds=measured.seconds,
            message=measured.measured_on,
        )
        rows = [row]
        if verdict is not None:
            status = "done" if verdict.passed else "refused"
            message = "; ".join(verdict.reasons or verdict.checks)
            rows.append(replace(row, stage="gate", status=status, seconds=0.0, message=message))
        record(self.lake, rows)


if __name__ == "__main__":
    run_command("evaluate")
