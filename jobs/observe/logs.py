"""The log as JSON lines, beside the human one on standard error."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from jobs.observe.event import Event
from jobs.settings.redact import redacted
from jobs.stores.files import finite

Context: TypeAlias = Mapping[str, str]
FACTS = "facts"
# Only for the JSON lines: people read the same in the command's last line.
runs = logging.getLogger("millstream.run")
runs.propagate = False
_WORDS = {"start": "started", "done": "done", "fail": "failed", "promotion": "promoted a model"}


class JsonLines:
    """Writes runs' events to the JSON log."""

    name = "json_log"

    def tell(self, event: Event) -> None:
        level = logging.ERROR if event.kind == "fail" else logging.INFO
        facts = {
            "event": event.kind,
            "seconds": round(event.seconds, 3),
            "exit_code": event.exit_code,
            "parent": event.subject.parent.run if event.subject.parent else "",
            "counts": event.counts,
            "versions": event.versions,
            "metrics": event.metrics,
        }
        words = f"{event.subject.stage} {_WORDS[event.kind]}"
        said = f"{words}: {event.message}" if event.message else words
        runs.log(level, "%s", said, extra={FACTS: {k: v for k, v in facts.items() if v != {}}})


@contextmanager
def json_log(path: str | None, context: Callable[[], Context]) -> Iterator[None]:
    """While the block runs, log records of Millstream are appended to the file too.

    Args:
        path: of the file; none is written when None.
        context: what a record of this moment is about.
    """
    if path is None:
        yield
        return
    handler = _File(path, context)
    loggers = [logging.getLogger("millstream"), runs]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
    runs.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()


class _File(logging.Handler):
    """Appends a line a record, in one write, so that runs at the same time may share the file."""

    def __init__(self, path: str, context: Callable[[], Context]) -> None:
        super().__init__()
        self._path, self._context = Path(path), context
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(f"{self._line(record)}\n".encode())
        except OSError as error:
            # No log call here: it would come back to this handler.
            if not self._failed:
                print(f"millstream: the JSON log is not written: {error}", file=sys.stderr)
            self._failed = True

    def _line(self, record: logging.LogRecord) -> str:
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redacted(message),
            "run": "",
            "stage": "",
            "ds": "",
            **self._context(),
            **getattr(record, FACTS, {}),
        }
        return json.dumps(finite(line), ensure_ascii=False, default=str)
