"""Backfill: many dates in passes of some, each with its commit; one cut short goes on there.

Each commit but the last says which passes are done and of which raw files. The same range run again
with the same settings, declaration and code skips these while their files are the same. A pass
rests on those before it: after one that is made anew none is skipped. A range that was finished is
made anew.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from jobs.base.code import code_digest, digest_of
from jobs.settings.settings import Settings

log = logging.getLogger("millstream.etl")

Chunks = Sequence[Sequence[str]]


def chunks_of(dates: Sequence[str], size: int) -> list[Sequence[str]]:
    """The dates, in order, in passes of at most `size`."""
    ordered = sorted(set(dates))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


@dataclass(frozen=True)
class Backfill:
    """How far a range of dates is.

    Attributes:
        key: digest of the range and of all that it depends on but raw files.
        last: the first date of the last pass.
        done: first date of a pass that is done -> digest of its raw files.
    """

    key: str
    last: str
    done: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def resumed(cls, settings: Settings, chunks: Chunks, before: Mapping[str, Any]) -> Backfill:
        """As far as the newest commit says that this very range is."""
        parts = (settings.etl.model_dump_json(), settings.dataset().digest, code_digest())
        key = digest_of(json.dumps([[list(chunk) for chunk in chunks], *parts]))
        found = before.get("backfill", {})
        done = found["done"] if found.get("key") == key else {}
        return cls(key, chunks[-1][0], done)

    def has(self, chunk: Sequence[str], raw: str) -> bool:
        return self.done.get(chunk[0]) == raw

    def with_pass(self, chunk: Sequence[str], raw: str) -> Backfill:
        """With this pass done, and none after it."""
        before = {first: digest for first, digest in self.done.items() if first < chunk[0]}
        return Backfill(self.key, self.last, {**before, chunk[0]: raw})

    def info(self) -> dict[str, Any]:
        """For the commit of the pass that is done last; nothing when the range is."""
        if self.last in self.done:
            return {}
        return {"backfill": {"key": self.key, "done": dict(self.done)}}


class Progress:
    """Passes done, rows a second and time left: a bar on a terminal, else a line a pass."""

    def __init__(self, chunks: Chunks) -> None:
        shown = log.isEnabledFor(logging.INFO) and len(chunks) > 1
        self._chunks, self._done, self._rows = chunks, 0, 0
        self._started = time.monotonic()
        self._skipped = 0
        self._lines = shown and not sys.stderr.isatty()
        self._bar = tqdm(total=len(chunks), unit="pass", disable=not shown or self._lines)

    def skip(self, chunk: Sequence[str]) -> None:
        log.info("%s..%s: done before this range was cut short", chunk[0], chunk[-1])
        self._skipped += 1
        self._bar.update()

    def add(self, chunk: Sequence[str], rows: int) -> None:
        """One more pass is committed."""
        self._done, self._rows = self._done + 1, self._rows + rows
        seconds = time.monotonic() - self._started
        speed = f"{self._rows / seconds:,.0f} rows/s"
        self._bar.set_postfix_str(f"{self._rows:,} rows, {speed}")
        self._bar.update()
        if self._lines:
            finished = self._done + self._skipped
            left_s = seconds / self._done * (len(self._chunks) - finished)
            place = f"{finished} of {len(self._chunks)} passes, {chunk[0]}..{chunk[-1]}"
            log.info("%s: %s rows, %s, %.0f s left", place, f"{self._rows:,}", speed, left_s)

    def close(self) -> None:
        self._bar.close()
