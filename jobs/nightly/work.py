"""Working on nights: each step is on record before it starts and when it ended."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused, GateRefused, Locked, NoRawFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, new_run_id
from jobs.lake.ledger import record as record_in_ledger
from jobs.lake.lock import StageLock
from jobs.nightly.inputs import InputReader, Inputs
from jobs.nightly.names import SEARCH, STEPS
from jobs.nightly.record import (
    DONE,
    FAILED,
    MODEL_STEPS,
    REFUSED,
    SKIPPED,
    STARTED,
    Record,
    StepRecord,
    load,
    save,
)
from jobs.nightly.steps import Outcome, Steps
from jobs.observe.facts import Facts
from jobs.observe.run import Run, observed
from jobs.settings.settings import Settings
from jobs.stores.errors import known_error

log = logging.getLogger("millstream.nightly")

UNCHANGED = "unchanged"
_NO_SEARCH = StepRecord(SKIPPED)


class Work:
    """Nights of one data set, under their lock."""

    def __init__(
        self,
        settings: Settings,
        start_spark: Callable[[], SparkSession],
        lake: Lake,
        lock: StageLock,
        run: Run,
    ) -> None:
        self.inputs = InputReader(settings)
        self._settings, self._lake, self._lock, self._run = settings, lake, lock, run
        self._steps = Steps(settings, start_spark, lake)
        self._nights: dict[str, Record] = {}
        self._now: dict[str, Inputs] = {}

    def record(self, ds: str) -> Record:
        if ds not in self._nights:
            self._nights[ds] = load(self._lake, ds)
        return self._nights[ds]

    def champion(self) -> str:
        return self._steps.champion()

    # Which steps are to be done

    def begin_spark(self) -> None:
        """Starts it beside what the first step does before it needs one."""
        _ = self._steps.spark

    def open(self, ds: str, start: str | None, only: str | None = None) -> None:
        """Reopens a night where its inputs changed, or at `start`.

        Args:
            only: reopen at no earlier step than this.
        """
        self._now[ds] = self.inputs.of(ds)
        night = self.record(ds)
        changed = night.first_changed(self._now[ds])
        if changed is not None:
            step, names = changed
            what = f"{', '.join(names[:5])}{f' and {len(names) - 5} more' * (len(names) > 5)}"
            if only is not None and STEPS.index(step) < STEPS.index(only):
                raise DataRefused(
                    f"step {step!r} of {ds} was done with others than these now: {what}",
                    "the raw files, settings and code that the night began with",
                    f"run the night again from there: --only {step}",
                )
            log.warning("%s: %s changed since step %r was done; redoing from it", ds, what, step)
            self.reopen(ds, step)
        if start is not None:
            first = night.first_open
            if first is not None and STEPS.index(first) < STEPS.index(start):
                log.info("%s: step %r is not done yet, so it goes on there", ds, first)
            self.reopen(ds, start, search_too=True)

    def reopen(self, ds: str, step: str, search_too: bool = False) -> None:
        self._put(self.record(ds).reopened(step, search_too))

    def catch_up(self, last: str, earlier: Sequence[str]) -> None:
        """Puts earlier dates on the last one's record; its model is made anew for new data."""
        night = self.record(last)
        new = any(not self.record(ds).steps["etl"].is_final for ds in earlier)
        if new and night.steps["train"].is_final:
            night = night.reopened("train")
        caught_up = tuple(sorted({*night.caught_up, *earlier}))
        if earlier:
            log.info("%s: catching up %s first", last, ", ".join(earlier))
        self._put(replace(night, caught_up=caught_up, run=night.run or self._run.id))

    def leave_model_to(self, ds: str, last: str) -> None:
        """A date that is caught up has the last one's model. A search goes on in later nights."""
        begun = self.record(ds).steps["train"]
        if begun.runs and not begun.is_final:
            self._steps.forget_training(begun.runs)
        steps = self.record(ds).steps
        for name in (*MODEL_STEPS, SEARCH):
            if name in steps and not steps[name].is_final:
                self._end(ds, name, Outcome(f"left to {last}", {"left_to": last}, SKIPPED))

    def add_search(self, ds: str) -> None:
        """Gives a night the step that searches, where its weekday has one."""
        night = self.record(ds)
        if not self._settings.nightly.searches(ds) or night.steps["etl"].status != DONE:
            if not night.steps.get(SEARCH, _NO_SEARCH).is_final:
                self._end(ds, SEARCH, Outcome("this night searches no more", status=SKIPPED))
            return
        if SEARCH not in night.steps:
            self._put(night.with_step(SEARCH, StepRecord()))
        self.do(SEARCH, [ds])

    # Doing them

    def do(self, name: str, dates: Sequence[str]) -> None:
        """Does a step of the dates where it is open and has anything to do."""
        dates = [ds for ds in dates if not self.record(ds).steps[name].is_final]
        for ds in dates:
            if (reason := self._nothing_to_do(ds, name)) is not None:
                log.warning("%s: no %s: %s", ds, name, reason)
                self._end(ds, name, Outcome(reason, status=SKIPPED))
        if left := [ds for ds in dates if not self.record(ds).steps[name].is_final]:
            self._do_together(name, left)

    def _nothing_to_do(self, ds: str, name: str) -> str | None:
        night = self.record(ds)
        gate = night.steps["gate"]
        if name in MODEL_STEPS:
            if night.refusal is not None:
                return f"step {night.refusal[0]!r} was refused"
            if night.steps["etl"].status == SKIPPED:
                return "there is no raw file"
        if name != "score" or gate.status == DONE:
            return None
        if not gate.values.get("left_to") and not self._settings.nightly.score_with_champion:
            return "nightly.score_with_champion is off"
        champion = self.champion()
        if not champion:
            return "there is no champion yet"
        if night.refusal is not None:
            log.warning(
                "%s: REFUSED at step %r; THE CHAMPION, model version %s, SCORES ALL THE SAME",
                ds,
                night.refusal[0],
                champion,
            )
        return None

    def _do_together(self, name: str, dates: Sequence[str]) -> None:
        """One pass for all; where one date is refused, it is looked for by halves."""
        run_id = new_run_id(name)
        nights = [self._begin(ds, name, run_id) for ds in dates]
        started = time.monotonic()
        try:
            with observed(self._settings, self._lake, name, run_id, dates) as run:
                outcomes = self._outcomes(name, run, nights)
                run.done(**_facts(outcomes))
        except (DataRefused, GateRefused) as refused:
            if len(dates) > 1:
                half = len(dates) // 2
                self._do_together(name, dates[:half])
                self._do_together(name, dates[half:])
                return
            self._end(dates[0], name, Outcome.of_refusal(refused), started, refused.exit_code)
        except BaseException as error:
            self._fail(dates, name, error, started)
            raise
        else:
            for ds, outcome in zip(dates, outcomes, strict=True):
                self._end(ds, name, outcome, started)

    def _outcomes(self, name: str, run: Run, nights: Sequence[Record]) -> list[Outcome]:
        try:
            return self._steps.work(name)(run, nights)
        except (DataRefused, GateRefused) as refused:
            if len(nights) > 1:
                run.in_parts()
            elif isinstance(refused, NoRawFile) and self._settings.nightly.missing_raw == "skip":
                return [Outcome.of_refusal(refused, SKIPPED)]
            raise

    def _begin(self, ds: str, name: str, run_id: str) -> Record:
        inputs = self._now[ds][name]
        step = self.record(ds).steps[name]
        runs = (*step.runs, run_id) if step.inputs == inputs else (run_id,)
        step = StepRecord(STARTED, runs, inputs, _moment())
        self._put(replace(self.record(ds), run=self._run.id).with_step(name, step))
        log.info("%s: step %s", ds, name)
        return self.record(ds)

    def _end(
        self,
        ds: str,
        name: str,
        outcome: Outcome,
        started: float | None = None,
        exit_code: int = 0,
    ) -> None:
        step = replace(
            self.record(ds).steps[name],
            inputs=self._now[ds][name],
            status=outcome.status,
            message=outcome.message,
            values=outcome.values,
            seconds=time.monotonic() - started if started is not None else 0.0,
            exit_code=exit_code if outcome.status == REFUSED else 0,
        )
        if step.status == REFUSED:
            log.warning("%s: step %s is REFUSED: %s", ds, name, step.message)
        self._put(self.record(ds).with_step(name, step))

    def _fail(self, dates: Sequence[str], name: str, error: BaseException, started: float) -> None:
        """Notes what ended a step; the same command goes on there."""
        error = known_error(error) or error
        with contextlib.suppress(OSError, Locked):
            for ds in dates:
                step = replace(
                    self.record(ds).steps[name],
                    status=FAILED,
                    message=f"{type(error).__name__}: {error}",
                    seconds=time.monotonic() - started,
                    exit_code=getattr(error, "exit_code", 1),
                )
                self._put(self.record(ds).with_step(name, step))

    # Ending

    def close(self, dates: Sequence[str]) -> None:
        """Nights whose steps are all done get their row in the ledger; once more if killed here."""
        record_in_ledger(self._lake, [self._ledger_row(ds) for ds in dates])
        for ds in dates:
            self._put(replace(self.record(ds), ended_at=_moment()))
        steps = self.record(dates[-1]).steps
        self._run.done(
            counts=steps["etl"].values.get("counts"),
            versions=steps["score"].values.get("versions"),
            metrics=steps["evaluate"].values.get("metrics"),
        )

    def note_repeated(self, ds: str) -> None:
        row = replace(self._ledger_row(ds), run=self._run.id, status=UNCHANGED, seconds=0.0)
        record_in_ledger(self._lake, [row])

    def _ledger_row(self, ds: str) -> LedgerRow:
        night = self.record(ds)
        champion = night.champion
        messages = (f"{name}: {s.status}, {s.message}" for name, s in night.steps.items())
        return LedgerRow(
            run=night.run,
            stage="nightly",
            ds=ds,
            status=REFUSED if night.refusal else DONE,
            versions={"champion": champion} if champion else {},
            seconds=night.seconds,
            message="; ".join(messages),
        )

    def _put(self, night: Record) -> None:
        self._nights[night.ds] = night
        self._lock.check()
        save(self._lake, night)


def _facts(outcomes: Sequence[Outcome]) -> Facts:
    """Of several dates together: their counts added up."""
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        counts.update(outcome.values.get("counts", {}))
    last = outcomes[-1].values
    versions, metrics = dict(last.get("versions", {})), dict(last.get("metrics", {}))
    return Facts(counts=dict(counts), versions=versions, metrics=metrics)


def _moment() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
