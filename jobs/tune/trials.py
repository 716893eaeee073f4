"""Runs the trials of a study, and puts on record what became of them.

Where trials wait at rungs, `Generations` says which runs next. A run that was cut short finds on
record which rungs were reached.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError
from jobs.lake.ledger import LedgerRow, read_ledger, record
from jobs.train.step.history import EpochResult
from jobs.tune.generations import Generations
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
        ended: called after a generation has ended.
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
        ended: Callable[[], None],
    ) -> None:
        self._search, self._study, self._stopping, self._spark = search, study, stopping, spark
        self._parallel, self._budget = parallel, budget
        self._on_told, self._on_ended = told, ended
        self._recorded = {row["run"] for row in read_ledger(search.lake, stage=STAGE)}
        self._lock, self._ends = threading.Lock(), threading.Event()

    def run_all(self) -> None:
        """Runs trials until all have ended or the budget is spent."""
        if self._stopping.waits:
            self._run_generations()
        else:
            self._run_freely()

    def _run_generations(self) -> None:
        """Trials go from rung to rung together."""
        study = self._study
        Generations(
            self,
            self._stopping.rungs,
            study.generations(),
            ahead=not study.learns,
            parallel=self._parallel,
        ).run()

    def _run_freely(self) -> None:
        """Trials wait for no other."""
        left = iter(self._study.open())
        with ThreadPoolExecutor(self._parallel, "trial") as threads:
            working = [threads.submit(self._work, left) for _ in range(self._parallel)]
            try:
                wait(working, return_when=FIRST_EXCEPTION)
            finally:
                self._ends.set()
            for ended in working:
                ended.result()

    def _work(self, left: Iterator[Asked]) -> None:
        """Runs one trial after another, until an error in any ends all at their next rung."""
        while self.may_begin():
            with self._lock:
                one = next(left, None) or self._study.next()
            if one is None:
                return
            for rung in (*self._stopping.rungs, None):
                with self._lock:
                    wanted = not self._ends.is_set() and self.runs_to(one, rung)
                ran = self.run(rung, one) if wanted else None
                with self._lock:
                    if ran is not None:
                        self.take(one, rung, ran)
                    if rung is not None:
                        self.stop([one], rung)

    def runs_to(self, one: Asked, rung: int | None) -> bool:
        """Whether a trial is open, and still has to come to a rung, or to its end when None."""
        if not self._study.is_open(one.number):
            return False
        if rung is None:
            return True
        costs = self._study.costs(rung)
        return rung in self._stopping.rungs_of(one.number) and one.number not in costs

    def run(self, rung: int | None, asked: Asked) -> _Ran:
        """Settings that do not go together are a result, too."""
        try:
            job = self._search.job(asked)
        except ConfigError as error:
            return _Ran(TrialResult(None, str(error), 0.0), "")
        return _Ran(run_trial(self._spark, replace(job, until_rows=rung)), job.folder)

    def take(self, one: Asked, rung: int | None, ran: _Ran) -> None:
        before = self._study.reported(one.number)
        result = replace(ran.result, seconds=ran.result.seconds + before.get("seconds", 0.0))
        self._budget.spend(max(0, result.rows - before.get("rows", 0)))
        metric, more = self._search.metric
        value = result.value(metric, more)
        if result.trained is not None and value is None:
            reason = f"the validation rows have no {metric}: train.best_by may be loss"
            result = replace(result, trained=None, failed=reason)
        rows = max(result.rows, before.get("rows", 0))
        facts = {"params": one.params, "folder": ran.folder, **result.facts(), "rows": rows}
        if result.is_paused and rung is not None and value is not None:
            self._study.report(one.number, rung, value, facts)
        else:
            self._into_ledger({one.number: facts}, result.failed)
            self._study.tell(one, value, facts, result.failed)
            self._on_told(one.number)

    def stop(self, asked: Sequence[Asked], rung: int) -> None:
        """Stops those trials that came to a rung, and do not go on from it."""
        stopped = [one.number for one in asked if self._stops(one.number, rung)]
        self._into_ledger({number: self._study.reported(number) for number in stopped})
        self._study.stop(stopped)
        for number in stopped:
            self._on_told(number)

    def _stops(self, number: int, rung: int) -> bool:
        # With others, who goes on would follow from when they came there.
        costs = self._study.costs(rung, self._until(number))
        came = number in costs and self._study.is_open(number)
        return came and not self._stopping.goes_on(number, costs)

    def _until(self, number: int) -> int | None:
        """The number of the first trial that one which waits is not compared with."""
        return self._study.end_of_generation(number) if self._stopping.waits else None

    def may_begin(self) -> bool:
        """Whether the budget is not spent, and no error ends the run."""
        return not self._budget.is_spent() and not self._ends.is_set()

    def ended(self) -> None:
        self._on_ended()

    def _into_ledger(self, ended: Mapping[int, Mapping[str, Any]], failed: str = "") -> None:
        """Puts trials into the ledger by one commit, each once: facts by number."""
        runs = {self._search.run(number): facts for number, facts in ended.items()}
        new = {run: facts for run, facts in runs.items() if run not in self._recorded}
        record(self._search.lake, [ledger_row(self._search, *one, failed) for one in new.items()])
        self._recorded.update(new)


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
