"""A run, observed from its start to its end.

    with observed(settings, lake, "etl", run_id, dates) as run:
        result = etl.run(...)
        run.done(**facts.of_etl(result))

Runs may lie within each other, as the steps of a night do: the outer one is then the parent. An
exception that leaves the block is the run's failure; it goes on unchanged. Without `done` a block
that ends by itself is done all the same, with nothing counted.

No observer can fail or hold up a run: each call has a deadline (`observe.timeout_s`), and an
observer that fails is named by one warning and tried again at the next event.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from jobs.base.bounded import attempt
from jobs.base.errors import MillstreamError
from jobs.lake.lake import Lake
from jobs.observe.event import Event, Kind, Observer, Subject
from jobs.observe.logs import Context, JsonLines, json_log
from jobs.settings.observe import ObserveSettings
from jobs.settings.redact import keep_secret, redacted
from jobs.settings.settings import Settings
from jobs.stores.errors import known_error

log = logging.getLogger("millstream.observe")
INTERRUPTED = 130


class Observers:
    """What the runs of a command that lie within each other share."""

    def __init__(self, settings: ObserveSettings, observers: Sequence[Observer]) -> None:
        self._timeout_s = settings.timeout_s
        self._observers = observers
        self._warned: set[str] = set()
        self.runs: list[Run] = []

    def tell(self, event: Event) -> None:
        for observer in self._observers:
            if error := attempt(partial(observer.tell, event), self._timeout_s):
                self._warn(observer.name, error)

    def _warn(self, name: str, error: Exception) -> None:
        if name not in self._warned:
            self._warned.add(name)
            said = redacted(f"{type(error).__name__}: {error}")
            log.warning("observer %s failed, the run goes on without it: %s", name, said)

    def context(self) -> Context:
        """What log lines of this moment are about."""
        if not self.runs:
            return {}
        subject = self.runs[-1].subject
        return {"run": subject.run, "stage": subject.stage, "ds": subject.ds}


class Run:
    """A run that is observed; say what it did with `done`."""

    def __init__(self, observers: Observers, subject: Subject) -> None:
        self.subject = subject
        self._observers = observers
        self._started = time.monotonic()
        self._facts: dict[str, Any] = {}
        self._told = self._in_parts = False

    @property
    def id(self) -> str:
        return self.subject.run

    def done(
        self,
        *,
        counts: Mapping[str, int] | None = None,
        versions: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """What the run did, as in the ledger; told when the block ends, by failure too.

        Args:
            counts: rows by name: raw or rows; train, val, test, predicted; quarantined.
            versions: of the tables and models written or used: examples, predictions, model.
            metrics: measured values by name.
        """
        given = {"counts": counts, "versions": versions, "metrics": metrics}
        self._facts |= {name: dict(value) for name, value in given.items() if value is not None}

    def promoted(self, version: str, instead_of: str = "") -> None:
        """A model became the champion."""
        versions = {"champion": version, **({"before": instead_of} if instead_of else {})}
        self._tell("promotion", facts={"versions": versions})

    def in_parts(self) -> None:
        """What fails now is done again in parts, which tell of failures themselves."""
        self._in_parts = True

    def start(self) -> None:
        self._tell("start", facts={})

    def end(self) -> None:
        self._tell("done")

    def fail(self, error: BaseException) -> None:
        error = known_error(error) or error
        unexpected = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        exit_code = getattr(error, "exit_code", unexpected)
        said = str(error) if isinstance(error, MillstreamError) else repr(error)
        told = self._told or self._in_parts
        self._tell("fail", exit_code=exit_code, message=redacted(said), told=told)
        if not self._in_parts:
            for outer in self._observers.runs:
                outer._told = True

    def _tell(self, kind: Kind, facts: dict[str, Any] | None = None, **more: Any) -> None:
        now, seconds = dt.datetime.now(dt.UTC), time.monotonic() - self._started
        known = self._facts if facts is None else facts
        self._observers.tell(Event(kind, self.subject, now, seconds, **more, **known))


# A driver does one thing at a time; its helper threads' log lines belong to that.
_open: list[Observers] = []


@contextmanager
def observed(
    settings: Settings, lake: Lake, stage: str, run_id: str, dates: Sequence[str] = ()
) -> Iterator[Run]:
    """Tells the observers of `settings.observe` of the block's start and end.

    Args:
        stage: etl, train, evaluate, gate, score, nightly, ...
        dates: as YYYY-MM-DD; empty for a run of all dates.
    """
    with ExitStack() as stack:
        if not _open:
            _open.append(Observers(settings.observe, observers_of(settings)))
            stack.callback(_open.clear)
            path = settings.observe.json_log
            where = settings.path(path) if path else None
            stack.enter_context(json_log(where, _open[0].context))
        observers = _open[0]
        run = Run(observers, _subject(settings, lake, stage, run_id, dates, observers.runs))
        observers.runs.append(run)
        stack.callback(observers.runs.remove, run)
        run.start()
        try:
            yield run
        except BaseException as error:
            run.fail(error)
            raise
        run.end()


def observers_of(settings: Settings) -> list[Observer]:
    """Those that the settings ask for."""
    # Late: most runs have none of them.
    from jobs.observe import lineage, prometheus, webhook

    wanted, timeout_s = settings.observe, settings.observe.timeout_s
    for variable in (wanted.pushgateway_url_env, wanted.lineage_url_env, wanted.webhook_url_env):
        if variable:
            keep_secret(variable)
    found: list[Observer] = []
    if wanted.json_log:
        found.append(JsonLines())
    if wanted.prometheus_folder:
        found.append(prometheus.Textfile(settings.path(wanted.prometheus_folder)))
    if wanted.pushgateway_url or wanted.pushgateway_url_env:
        gateway = wanted.pushgateway_url, wanted.pushgateway_url_env
        found.append(prometheus.Pushgateway(*gateway, timeout_s))
    if wanted.lineage_file:
        path = settings.path(wanted.lineage_file)
        found.append(lineage.LineageFile(path, wanted.lineage_namespace))
    if wanted.lineage_url or wanted.lineage_url_env:
        server = wanted.lineage_url, wanted.lineage_url_env
        found.append(lineage.LineageServer(*server, wanted.lineage_namespace, timeout_s))
    if wanted.webhook_url or wanted.webhook_url_env:
        found.append(webhook.Webhook(wanted.webhook_url, wanted.webhook_url_env, timeout_s))
    return found


def _subject(
    settings: Settings,
    lake: Lake,
    stage: str,
    run_id: str,
    dates: Sequence[str],
    outer: Sequence[Run],
) -> Subject:
    sources = {**settings.etl.sources, **(settings.score.sources or {} if stage == "score" else {})}
    return Subject(
        dataset=lake.url.rsplit("/", 1)[-1],
        lake_url=lake.url,
        sources={name: settings.path(path) for name, path in sources.items()},
        stage=stage,
        run=run_id,
        dates=tuple(sorted(dates)),
        parent=outer[-1].subject if outer else None,
    )
