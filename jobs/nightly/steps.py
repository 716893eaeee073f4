"""The steps of a night, each as what it does and what comes of it.

A step replays harmlessly, so one that was done but not recorded is simply done again. Training
alone is found again by its ledger row: its checkpoints are gone by then. The jobs are imported by
their steps: torch and MLflow take seconds that a night of one step need not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, DataRefused, GateRefused, NoRawFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.nightly import page
from jobs.nightly.inputs import labelled_ds
from jobs.nightly.names import SEARCH
from jobs.nightly.record import DONE, REFUSED, Record
from jobs.observe import facts
from jobs.observe.run import Run
from jobs.settings.settings import Settings

if TYPE_CHECKING:
    from jobs.etl.job import EtlResult

log = logging.getLogger("millstream.nightly")


@dataclass(frozen=True)
class Outcome:
    """What came of a step. Values: `counts`, `versions`, `metrics` as in the ledger, and others."""

    message: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: str = DONE

    @classmethod
    def of_refusal(cls, refused: DataRefused | GateRefused, status: str = REFUSED) -> Outcome:
        values = {"no_raw_file": True} if isinstance(refused, NoRawFile) else {}
        return cls(str(refused), values, status)


@dataclass(frozen=True)
class Steps:
    """What each step does, in one lake, for the nights of some dates."""

    settings: Settings
    start_spark: Callable[[], SparkSession]
    lake: Lake

    @cached_property
    def spark(self) -> SparkSession:
        return self.start_spark()

    def etl(self, run: Run, nights: Sequence[Record]) -> list[Outcome]:
        from jobs.etl import job

        dates = [labelled_ds(self.settings, night.ds) for night in nights]
        result = job.run(self.settings, self.spark, run_id=run.id, dates=dates)
        return [self._of_etl(ds, result) for ds in dates]

    def _of_etl(self, ds: str, result: EtlResult) -> Outcome:
        from jobs.etl.judge.counts import summary

        values = {"ds": ds, "versions": {"examples": str(result.version)}}
        if ds in result.counts:
            counts = result.counts[ds]
            return Outcome(summary([counts]), {**values, "counts": counts.ledger()})
        # Its pass was committed by an attempt before, so it was not done again.
        rows = read_ledger(self.lake, stage="etl", ds=ds, status="done")
        return Outcome("done before", {**values, "counts": rows[-1]["counts"] if rows else {}})

    def train(self, run: Run, nights: Sequence[Record]) -> list[Outcome]:
        from jobs.train import job

        (night,) = nights
        done = self._trained(night.steps["train"].runs)
        if done is not None:
            return [done]
        last_ds = labelled_ds(self.settings, night.ds)
        result = job.run(self.settings, self.spark, run_id=run.id, last_ds=last_ds)
        return [Outcome(result.summary(), {**facts.of_train(result), "weights": result.digest})]

    def _trained(self, runs: Sequence[str]) -> Outcome | None:
        """What one of these runs registered, with its ledger row."""
        for row in read_ledger(self.lake, stage="train", status="done"):
            if row["run"] in runs:
                self.forget_training(runs)
                model, weights = row["versions"]["model"], row["digests"]["weights"]
                known = {name: row[name] for name in ("counts", "versions", "metrics")}
                message = f"model version {model}, trained before by run {row['run']}"
                return Outcome(message, {**known, "weights": weights})
        return None

    def forget_training(self, runs: Sequence[str]) -> None:
        """Removes what runs that nobody goes on with left to go on from."""
        from jobs.train.attempts import remove_checkpoints

        for run in runs:
            remove_checkpoints(self.lake.folder("checkpoints", run))

    def evaluate(self, run: Run, nights: Sequence[Record]) -> list[Outcome]:
        from jobs.evaluate import job

        (night,) = nights
        compared = job.compare(
            self.settings,
            self.spark,
            run_id=run.id,
            challenger=night.steps["train"].values["versions"]["model"],
        )
        verdict, measured = compared.verdict, compared.challenger
        values = {
            **facts.of_evaluate(measured),
            "champion": compared.champion.version if compared.champion else "",
            "standing": compared.standing,
            "passed": verdict.passed,
            "checks": list(verdict.checks),
            "reasons": list(verdict.reasons),
            "report": measured.report_url,
            "measured_on": measured.measured_on,
        }
        return [Outcome(measured.summary(), values)]

    def gate(self, run: Run, nights: Sequence[Record]) -> list[Outcome]:
        """Promotes the model that the evaluation's verdict lets pass.

        Raises:
            GateRefused: it does not pass, or another champion stands than the verdict knew.
        """
        (night,) = nights
        found = night.steps["evaluate"].values
        version = found["versions"]["model"]
        before = self.champion()
        if not found["passed"]:
            stays = "the champion stays"
            if before == version:
                stays = "yet it is the champion since it passed; see `millstream rollback`"
            raise GateRefused(
                "\n    ".join(
                    (
                        f"model version {version} was refused by the gate, {stays}",
                        *found["reasons"],
                    )
                ),
                "a model that passes the gate",
                f"see the report {found['report']}",
            )
        self._promote(run, night.steps["gate"].runs, version, found["standing"])
        message = f"model version {version} is the champion"
        return [Outcome(message, {"versions": {"champion": version, "before": before}})]

    def score(self, run: Run, nights: Sequence[Record]) -> list[Outcome]:
        from jobs.evaluate import score

        dates = [night.ds for night in nights]
        result = score.run(self.settings, self.spark, run_id=run.id, dates=dates)
        champion = result.model_version
        return [
            Outcome(
                f"{counts.valid:,} rows scored by model version {champion}, "
                f"{counts.quarantined:,} refused",
                {
                    "versions": {"model": champion, "predictions": str(result.version)},
                    "counts": {
                        "raw": counts.raw,
                        "predicted": counts.valid,
                        "quarantined": counts.quarantined,
                    },
                },
            )
            for counts in (result.counts[ds] for ds in dates)
        ]

    def tune(self, run: Run, nights: Sequence[Record]) -> list[Outcome]:
        """Goes on with a study; the winner of one that ends is promoted where the gate lets it."""
        try:
            from jobs.tune import nightly
        except ImportError as error:
            raise ConfigError(
                f"nightly.tune_on: the search needs a package: {error}",
                remedy="pip install 'millstream[tune]'",
            ) from error
        (night,) = nights
        last_ds = labelled_ds(self.settings, night.ds)
        try:
            result = nightly.run(self.settings, self.spark, run_id=run.id, last_ds=last_ds)
        except (ConfigError, DataRefused) as refused:
            # The night's own model and scores stand.
            return [Outcome(f"the search was refused: {refused}")]
        values = {**facts.of_tune(result), "study": result.study}
        if not result.version:
            return [Outcome(result.summary(), values)]
        said = self._judged(run, night.steps[SEARCH].runs, result.version)
        return [Outcome(f"{result.summary()}; {said}", values)]

    def _judged(self, run: Run, runs: Sequence[str], version: str) -> str:
        """Promotes a search's winner that passes the gate; says what the gate said."""
        from jobs.evaluate import job

        compared = job.compare(self.settings, self.spark, run_id=run.id, challenger=version)
        if not compared.verdict.passed:
            return f"the gate refused it: {'; '.join(compared.verdict.reasons)}"
        try:
            self._promote(run, runs, version, compared.standing)
        except GateRefused as refused:
            return str(refused)
        return f"model version {version} is the champion from now on"

    def _promote(self, run: Run, runs: Sequence[str], version: str, instead_of: str) -> None:
        """Promotes a version, and tells of it, also where an attempt was killed before it did.

        Args:
            runs: the attempts of the step, this one included.
            instead_of: the champion that the verdict knew.
        """
        from jobs.registry.promotions import moves

        self._registry().promote(version, run.id, instead_of)
        for move in moves(self.lake)[-1:]:
            if move["run"] in runs and move["versions"]["to"] == version:
                run.promoted(version, move["versions"]["from"])

    def report(self, run: Run, nights: Sequence[Record]) -> list[Outcome]:
        outcomes = []
        for night in nights:
            url = page.write(self.lake, night)
            outcomes.append(Outcome(f"the night's page is {url}", {"report": url}))
        return outcomes

    def champion(self) -> str:
        """The version that is live; empty where there is none."""
        found = self._registry().champion()
        return found.version if found else ""

    def work(self, name: str) -> Callable[[Run, Sequence[Record]], list[Outcome]]:
        found: Callable[[Run, Sequence[Record]], list[Outcome]] = getattr(self, name)
        return found

    def _registry(self) -> Any:
        from jobs.registry.registry import Registry

        return Registry(self.settings, self.lake)
