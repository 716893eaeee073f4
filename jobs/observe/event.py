"""What an observer is told of a run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from jobs.base.errors import Locked

Kind: TypeAlias = Literal["start", "done", "fail", "promotion"]


@dataclass(frozen=True)
class Subject:
    """The run that events are about.

    Attributes:
        lake_url: of the data set's folder in the lake.
        sources: where the raw files are, by the declaration's names.
        dates: as YYYY-MM-DD, in order; empty for a run of all dates.
        parent: the run that this one is a step of; None where it is none.
    """

    dataset: str
    lake_url: str
    sources: Mapping[str, str]
    stage: str
    run: str
    dates: tuple[str, ...] = ()
    parent: Subject | None = None

    @property
    def ds(self) -> str:
        """The date, or `first..last`."""
        return "..".join(dict.fromkeys((self.dates[0], self.dates[-1]))) if self.dates else ""


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        kind: `start`; then `done` or `fail`; in between, a `promotion` of a model.
        seconds: since the start.
        exit_code: what a command that ends like this ends with.
        message: of the failure.
        told: of a failure: a step or a part of this run fails, and is told of.
        counts, versions, metrics: as in the ledger.
    """

    kind: Kind
    subject: Subject
    time: dt.datetime
    seconds: float = 0.0
    exit_code: int = 0
    message: str = ""
    told: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_locked(self) -> bool:
        """Another run is at work, and this one did nothing."""
        return self.kind == "fail" and self.exit_code == Locked.exit_code


class Observer(Protocol):
    """Tells one kind of others' tools. It may raise and it may hang: see `jobs.observe.run`."""

    name: str

    def tell(self, event: Event) -> None: ...
