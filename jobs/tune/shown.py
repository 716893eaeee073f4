"""What people see of a study at work: a log line a trial, and the file that `status` reads."""

from __future__ import annotations

import datetime as dt
import logging
import time

from jobs.tune.progress import StudyProgress, save
from jobs.tune.search import Search
from jobs.tune.study import Study
from jobs.tune.told import Told

log = logging.getLogger("millstream.tune")


class Shown:
    """Tells people, and `millstream status`, how far a study is."""

    def __init__(self, search: Search, study: Study, run_id: str) -> None:
        self._search, self._study, self._run = search, study, run_id
        self._began, self._before = time.monotonic(), len(study.told())
        self._save()

    def told(self, number: int) -> None:
        """Shows a trial that ended."""
        told = next(one for one in self._study.told() if one.number == number)
        if told.failed:
            found = f"failed: {told.failed}"
        elif told.stopped is not None:
            found = f"stopped at {told.rows:,} rows"
        else:
            found = f"{self._search.metric[0]} {told.value:.4f}"
        progress = self._save()
        log.info("trial %d: %s (%s); %s", number, found, values_of(told), progress.line())

    def end(self, version: str) -> None:
        """Shows that the run ends; with the winner's model where the study does, too."""
        self._save(version)

    def _save(self, version: str = "") -> StudyProgress:
        told, best, trials = self._study.told(), self._study.best(), self._study.trials
        now = len(told) - self._before
        pace = (time.monotonic() - self._began) / now if now else None
        progress = StudyProgress(
            study=self._search.name,
            run=self._run,
            trials=trials,
            told=len(told),
            failed=sum(bool(one.failed) for one in told),
            stopped=sum(one.stopped is not None for one in told),
            rows=sum(one.rows for one in told),
            metric=self._search.metric[0],
            best=best.value if best is not None else None,
            best_trial=best.number if best is not None else None,
            left_s=pace * (trials - len(told)) if pace is not None else None,
            ended=bool(version) or (best is None and self._study.has_ended),
            version=version,
            changed_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        save(self._search.folder, progress)
        return progress


def values_of(told: Told) -> str:
    """A trial's settings, in a line."""
    return ", ".join(f"{name}={value}" for name, value in told.params.items())
