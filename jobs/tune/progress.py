"""How far studies are: a small file beside each journal, for who only looks."""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from dataclasses import asdict, dataclass

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
        ended: whether its winner is registered.
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
        if self.left_s is not None:
            parts.append(f"about {duration(self.left_s)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A span of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def save(folder: str, progress: StudyProgress) -> None:
    """Writes it to a study's folder. A store that refuses stops no search."""
    with suppress(OSError):
        write_json(f"{folder}/progress.json", asdict(progress))


def open_studies(lake: Lake) -> dict[str, StudyProgress]:
    """The studies that have not ended, by name."""
    fs, folder = fsspec.core.url_to_fs(lake.folder("studies"))
    paths = fs.glob(f"{folder}/*/progress.json") if fs.exists(folder) else []
    found = [StudyProgress(**read_json(fs.unstrip_protocol(path))) for path in sorted(paths)]
    return {one.study: one for one in found if not one.ended}


def unfinished(lake: Lake, live: Set[str]) -> list[str]:
    """A line for each study that has not ended, by name.

    Args:
        live: runs that hold a lock now.
    """
    return [
        f"study {name} {'running' if one.run in live else 'cut short'}: {one.line()}"
        for name, one in open_studies(lake).items()
    ]
