"""Runs the trials of a study, and puts on record what became of them.

Where trials wait at rungs, those of a generation come to a rung before any goes on from it, so who
goes on follows from values alone. A run that was cut short finds on record which rungs were
reached.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError
from jobs.lake.ledger import LedgerRow, read_ledger, record
from jobs.train.step.history import EpochResult
from jobs.tune.search import STAGE, Search
from jobs.tune.stopping import Stopping
from jobs.tune.study import Asked, Study
from jobs.tune.trial import TrialResult, run_trial


class Budget:
    """What a run may spend; endless where None. A rung that was begun is gone through."""

    def __init__(self, rows: int | None = None, seconds: float | None = None) -> None:
        self._rows = math.inf if rows is None else rows
        self._until_s = math.inf if seconds is None else time.monotonic() + seconds
        self._spent = 0

    def spend(self, rows: int) -> None:
        """Takes note of rows that were trained."""
        self._spent += rows

    def is_spent(self) -> bool:
        """Whether nothing more is to be begun. The first trials of a run always are."""
        late = time.monotonic() >= self._until_s
        return self._spent >= self._rows or (late and self._spent > 0)


@dataclass(frozen=True)
class _Ran:
    """What came of running a trial to a rung or its end, and the folder of what it made."""

    result: TrialResult
    folder: str


class Trials:
    """The trials of a study, as Spark runs them.

    Args:
        parallel: trials at a time.
        budget: of this run.
        told: called after a trial was told of, with its number.
    """

    def __init__(
        self,
        search: Search,
        study: Study,
        stopping: Stopping,
        spark: SparkSession,
        *,
        parallel: int,
        budget: Budget,
        told: Callable[[int], None],
    ) -> None:
        self._search, self._study, self._stopping, self._spark = search, study, stopping, spark
        self._parallel, self._budget, self._on_told = parallel, budget, told
        self._recorded = {row["run"] for row in read_ledger(search.lake, stage=STAGE)}
        self._lock = threading.Lock()

    def run_generation(self, asked: Sequence[Asked]) -> None:
        """Runs trials from rung to rung together, until all have ended or the budget is spent."""
        for rung in (*self._stopping.rungs, None):
            wanted = [one for one in asked if self._runs_to(one, rung)]
            if wanted and self._budget.is_spent():
                return
            with ThreadPoolExecutor(self._parallel, "trial") as threads:
                found = threads.map(partial(self._run, rung), wanted)
                for one, ran in zip(wanted, found, strict=True):
                    self._take(one, rung, ran)
            if rung is not None:
                self._stop(asked, rung)

    def run_freely(self) -> None:
        """Runs trials that wait for no other, until all have ended or the budget is spent."""
        left = iter(self._study.open())
        with ThreadPoolExecutor(self._parallel, "trial") as threads:
            for ended in [threads.submit(self._work, left) for _ in range(self._parallel)]:
                ended.result()

    def _work(self, left: Iterator[Asked]) -> None:
        while not self._budget.is_spent():
            with self._lock:
                one = next(left, None) or self._study.next()
            if one is None:
                return
            for rung in (*self._stopping.rungs, None):
                with self._lock:
                    wanted = self._runs_to(one, rung)
                ran = self._run(rung, one) if wanted else None
                with self._lock:
                    if ran is not None:
                        self._take(one, rung, ran)
                    if rung is not None:
                        self._stop([one], rung)

    def _runs_to(self, one: Asked, rung: int | None) -> bool:
        """Whether a trial is open, and still has to come to a rung, or to its end when None."""
        if not self._study.is_open(one.number):
            return False
        if rung is None:
            return True
        return rung in self._stopping.rungs_of(one.number) and one.number not in self._study.costs(
            rung
        )

    def _run(self, rung: int | None, asked: Asked) -> _Ran:
        """Settings that do not go together are a result, too."""
        try:
            job = self._search.job(asked)
        except ConfigError as error:
            return _Ran(TrialResult(None, str(error), 0.0), "")
        return _Ran(run_trial(self._spark, replace(job, until_rows=rung)), job.folder)

    def _take(self, one: Asked, rung: int | None, ran: _Ran) -> None:
        before = self._study.reported(one.number)
        result = replace(ran.result, seconds=ran.result.seconds + before.get("seconds", 0.0))
        self._budget.spend(max(0, result.rows - before.get("rows", 0)))
        metric = self._search.metric[0]
        value = result.value(metric)
        if result.trained is not None and value is None:
            reason = f"the validation rows have no {metric}: train.best_by may be loss"
            result = replace(result, trained=None, failed=reason)
        rows = max(result.rows, before.get("rows", 0))
        facts = {"params": one.params, "folder": ran.folder, **result.facts(), "rows": rows}
        if result.is_paused and rung is not None and value is not None:
            self._study.report(one.number, rung, value, facts)
        else:
            self._ended(one, facts, result.failed)
            self._study.tell(one, value, facts, result.failed)
            self._on_told(one.number)

    def _stop(self, asked: Sequence[Asked], rung: int) -> None:
        """Stops those trials that came to a rung, and do not go on from it."""
        costs = self._study.costs(rung)
        for one in asked:
            number = one.number
            if number not in costs or not self._study.is_open(number):
                continue
            if not self._stopping.goes_on(number, costs):
                facts = self._study.reported(number)
                self._ended(one, facts)
                self._study.stop(number, facts)
                self._on_told(number)

    def _ended(self, one: Asked, facts: Mapping[str, Any], failed: str = "") -> None:
        """Puts a trial into the ledger, once."""
        run = self._search.run(one.number)
        if run not in self._recorded:
            record(self._search.lake, [ledger_row(self._search, run, facts, failed)])
            self._recorded.add(run)


def ledger_row(search: Search, run: str, facts: Mapping[str, Any], failed: str = "") -> LedgerRow:
    """A training of a search in the ledger, from `TrialResult.facts`."""
    base, epochs = search.base, facts.get("epochs", ())
    best = EpochResult(**epochs[facts["best_epoch"]]) if epochs else None
    digests = {"weights": facts["weights"], "state": search.state.digest} if best else {}
    return LedgerRow(
        run=run,
        stage=STAGE,
        ds=base.last_ds,
        status="refused" if failed else "done",
        counts={"rows": facts["rows"], "epochs": len(epochs)},
        digests=digests,
        versions={"examples": str(base.examples.version), "study": search.name},
        metrics=best.metrics() if best is not None else {},
        seconds=facts["seconds"],
        message=failed,
    )
