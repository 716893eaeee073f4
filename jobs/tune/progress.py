"""How far studies are: a small file beside each journal, for who only looks."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import fsspec

from jobs.lake.lake import Lake
from jobs.stores.files import read_json, write_json


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is.

    Attributes:
        run: that worked on it last.
        trials: of the whole study; `told` have ended, of which some `failed` or were `stopped`.
        rows: that all trials trained.
        metric: what they are compared by; `best` of it was seen, by trial `best_trial`.
        left_s: seconds that it may still take; None where that is not known yet.
        ended: whether its winner is registered, or no trial can be one; `version` is its model.
        changed_at: when this was written, in UTC.
    """

    study: str
    run: str
    trials: int
    told: int = 0
    failed: int = 0
    stopped: int = 0
    rows: int = 0
    metric: str = ""
    best: float | None = None
    best_trial: int | None = None
    left_s: float | None = None
    ended: bool = False
    version: str = ""
    changed_at: str = ""

    def line(self) -> str:
        """In a line for people."""
        parts = [f"{self.told} of {self.trials} trials"]
        if self.stopped:
            parts.append(f"{self.stopped} stopped early")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.best is not None:
            parts.append(f"best {self.metric} {self.best:.4f} by trial {self.best_trial}")
        parts.append(f"{self.rows:,} rows")
        if self.left_s is not None and not self.ended:
            parts.append(f"about {duration(self.left_s)} left")
        if self.version:
            parts.append(f"model version {self.version}")
        return ", ".join(parts)

    def status(self, live: Set[str]) -> str:
        """In a word or two; `live` are the runs that hold a lock now."""
        if self.ended:
            return "ended"
        return "running" if self.run in live else "cut short"


def duration(seconds: float) -> str:
    """A span of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def save(folder: str, progress: StudyProgress) -> None:
    """Writes it to a study's folder. A store that refuses stops no search."""
    with suppress(OSError):
        write_json(f"{folder}/progress.json", asdict(progress))


def studies(lake: Lake) -> list[StudyProgress]:
    """All studies: those that ended, then the others, each in the order in which they changed."""
    fs, folder = fsspec.core.url_to_fs(lake.folder("studies"))
    paths = fs.glob(f"{folder}/*/progress.json") if fs.exists(folder) else []
    found = [StudyProgress(**read_json(fs.unstrip_protocol(path))) for path in paths]
    return sorted(found, key=lambda one: (not one.ended, one.changed_at, one.study))


def open_studies(lake: Lake) -> list[str]:
    """The names of the studies that have not ended, the one that changed last at the end."""
    return [one.study for one in studies(lake) if not one.ended]


def shown_studies(lake: Lake, ended: int) -> list[StudyProgress]:
    """As `studies`, with so many of those that ended: the last."""
    found = studies(lake)
    over = sum(one.ended for one in found) - ended
    return found[max(0, over) :]


def lines_of(found: Sequence[StudyProgress], live: Set[str]) -> list[str]:
    """A line a study, as `StudyProgress.status` and `line`."""
    return [f"study {one.study} {one.status(live)}: {one.line()}" for one in found]


def trees_of(found: Sequence[StudyProgress], live: Set[str]) -> list[dict[str, Any]]:
    """A tree for JSON a study."""
    return [{"status": one.status(live), **asdict(one)} for one in found]
