"""The night: etl, train, evaluate, gate, score and report of one date, or of a range.

    spark-submit --properties-file conf/spark/local.conf jobs/nightly/job.py \\
        --config conf/flights.yaml --date 2013-02-01

Called again it goes on at the first step that is not done; a finished night is done again only
from the step whose raw files, settings, declaration or code changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyspark.sql import SparkSession

from jobs.base.command import run_command
from jobs.base.errors import ConfigError, DataRefused, GateRefused, MillstreamError
from jobs.lake.lake import Lake
from jobs.lake.ledger import new_run_id
from jobs.lake.lock import stage_lock
from jobs.nightly.dates import days, missed
from jobs.nightly.names import STEPS
from jobs.nightly.record import DONE, MODEL_STEPS, Record
from jobs.nightly.work import Work
from jobs.observe.run import observed
from jobs.settings.settings import Settings

log = logging.getLogger("millstream.nightly")


@dataclass(frozen=True)
class NightlyResult:
    """What a night did, in words; `changed` is False where it was finished before."""

    ds: str
    changed: bool
    champion: str
    message: str

    def summary(self) -> str:
        return f"nightly {self.ds}: {self.message}"


def run(
    settings: Settings,
    start_spark: Callable[[], SparkSession],
    *,
    ds: str,
    first_ds: str | None = None,
    start: str | None = None,
    only: str | None = None,
    force: bool = False,
) -> NightlyResult:
    """Does one night, and before it the missed ones: etl and score for each, the model for `ds`.

    Args:
        start_spark: called once there is something to do; nights that are done need none.
        first_ds: do all dates from this one on; those of `nightly.catch_up_days` that were missed
            when None.
        start: do this step and those after it again, though they were done.
        only: do this step alone, with no other date's.
        force: do all steps again, or the one of `only`.

    Raises:
        DataRefused, GateRefused: the first refusal of these nights, after all the others was
            done: the champion, where there is one, has scored as `nightly.score_with_champion`
            says. A night that was refused is refused again.
        ConfigError: `only` names a step that others must come before.
        Locked: another night of this data set is at work.
    """
    lake = Lake(settings.lake_url, settings.dataset().name)
    with (
        observed(settings, lake, "nightly", new_run_id("nightly"), [ds]) as this,
        stage_lock(lake, "nightly", this.id) as lock,
    ):
        work = Work(settings, start_spark, lake, lock, this)
        if only is not None:
            return _one_step(work, ds, only, force)
        earlier = days(first_ds, ds)[:-1] if first_ds else missed(settings, lake, work.inputs, ds)
        return _nights(work, [*earlier, ds], STEPS[0] if force else start)


def _nights(work: Work, dates: Sequence[str], start: str | None) -> NightlyResult:
    """The spine: all dates' data and scores, the last date's model."""
    *earlier, last = dates
    for ds in dates:
        work.open(ds, start)
    work.catch_up(last, earlier)
    open_dates = [ds for ds in dates if not work.record(ds).is_closed]
    if not open_dates:
        return _repeated(work, last)

    work.begin_spark()
    work.do("etl", open_dates)
    for ds in earlier:
        work.leave_model_to(ds, last)
    if earlier and work.champion():
        work.do("score", earlier)
    for step in MODEL_STEPS:
        work.do(step, [last])
    work.do("score", dates)
    work.add_search(last)
    work.do("report", dates)

    work.close(open_dates)
    return _result(work, last, changed=True)


def _one_step(work: Work, ds: str, step: str, again: bool) -> NightlyResult:
    """One step on the same record, for a scheduler that has a task a step.

    Its exit code is its own: of a step that a refusal left nothing to do, that refusal's. That of
    `report`, the last one, is the night's.
    """
    work.open(ds, None, only=step)
    record = work.record(ds)
    before = STEPS[: STEPS.index(step)]
    if missing := next((name for name in before if not record.steps[name].is_final), None):
        raise ConfigError(
            f"step {missing!r} of {ds} is {record.steps[missing].status}, and {step!r} follows it",
            "the steps before done, in the order " + ", ".join(STEPS),
            f"run the night with --only {missing} first",
        )
    if again:
        work.reopen(ds, step)
    done = record.steps[step].is_final and not again
    work.do(step, [ds])
    record = work.record(ds)
    if record.is_finished and not record.is_closed:
        work.close([ds])
    found = record.steps[step]
    how = "done before: " if done else ""
    if step == "report":
        return _result(work, ds, changed=not done, before=how)
    code = record.exit_code if step in MODEL_STEPS else found.exit_code
    if code and found.status != DONE:
        raise _refused(code, f"{ds}, {step}: {how}{found.status}, {found.message}")
    return NightlyResult(ds, not done, "", f"{step}: {how}{found.status}, {found.message}")


def _repeated(work: Work, ds: str) -> NightlyResult:
    """Finished nights do nothing; what was refused is refused again."""
    record = work.record(ds)
    work.note_repeated(ds)
    before = f"finished before by run {record.run}: "
    return _result(work, ds, changed=False, before=before)


def _result(work: Work, ds: str, *, changed: bool, before: str = "") -> NightlyResult:
    for night in [*work.record(ds).caught_up, ds]:
        record = work.record(night)
        if record.refusal is not None:
            step, refused = record.refusal
            text = f"{night}, {step}: {before}{refused.message}\n  {scored(record)}"
            raise _refused(refused.exit_code, text)
    record = work.record(ds)
    caught_up = f"; caught up {', '.join(record.caught_up)}" if record.caught_up else ""
    return NightlyResult(ds, changed, record.champion, f"{before}{told(record)}{caught_up}")


def told(record: Record) -> str:
    """A night in a line."""
    return f"{record.steps['gate'].message}; {scored(record)}"


def scored(record: Record) -> str:
    """What came of a night's scoring, in words; that the champion stood in, loudly."""
    score = record.steps["score"]
    if score.status != DONE:
        return f"not scored: {score.message}"
    stood_in = " ALL THE SAME" if record.refusal else ""
    return f"SCORED{stood_in}: {score.message}" if stood_in else score.message


def _refused(exit_code: int, text: str) -> MillstreamError:
    kind = GateRefused if exit_code == GateRefused.exit_code else DataRefused
    return kind(text)


if __name__ == "__main__":
    run_command("nightly")
