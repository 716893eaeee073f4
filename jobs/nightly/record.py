"""The record of a night: its steps, what each was done with, and what came of it.

One JSON file a date, `<lake>/nights/<ds>.json`, written whole and only by the holder of the
night's lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import fsspec

from jobs.base.errors import ConfigError
from jobs.lake.lake import Lake
from jobs.nightly.names import SEARCH, STEPS
from jobs.stores.files import finite, read_json, write_whole

# They make the night's model and decide on it; without its data there is none.
MODEL_STEPS = ("train", "evaluate", "gate")

WAITING, STARTED, FAILED = "waiting", "started", "failed"
DONE, REFUSED, SKIPPED = "done", "refused", "skipped"
FINAL = (DONE, REFUSED, SKIPPED)

_FORMAT = 1


@dataclass(frozen=True)
class StepRecord:
    """One step of one night.

    Attributes:
        status: waiting, started, failed (the same run goes on there), done, refused, skipped.
        runs: of this step's attempts with the same inputs, the last one last.
        inputs: what it depends on besides the steps before it, by name.
        values: what came of it: counts, versions, metrics.
    """

    status: str = WAITING
    runs: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    started_at: str = ""
    seconds: float = 0.0
    exit_code: int = 0
    message: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True)
class Record:
    """One night.

    Attributes:
        run: of the `nightly` that worked on it last.
        ended_at: when it was closed, after its last step; empty until then.
        caught_up: earlier dates that this night caught up, whose refusals are its own.
        stands: the same night as it was finished before, until doing it again is finished too.
    """

    ds: str
    run: str = ""
    ended_at: str = ""
    caught_up: tuple[str, ...] = ()
    steps: Mapping[str, StepRecord] = field(
        default_factory=lambda: dict.fromkeys(STEPS, StepRecord())
    )
    stands: Record | None = None

    @property
    def is_finished(self) -> bool:
        return all(step.is_final for step in self.steps.values())

    @property
    def is_closed(self) -> bool:
        """Whether nothing is left to do for it: its row is in the ledger, too."""
        return self.is_finished and bool(self.ended_at)

    @property
    def first_open(self) -> str | None:
        """The first step that is not done."""
        return next((name for name, step in self.steps.items() if not step.is_final), None)

    @property
    def refusal(self) -> tuple[str, StepRecord] | None:
        """The first step that refused."""
        found = (item for item in self.steps.items() if item[1].status == REFUSED)
        return next(found, None)

    @property
    def exit_code(self) -> int:
        """That of the first refusal; of what stopped an unfinished night."""
        if self.refusal is not None:
            return self.refusal[1].exit_code
        return next((s.exit_code for s in self.steps.values() if s.exit_code), 0)

    @property
    def champion(self) -> str:
        """The version that scored the night."""
        versions = self.steps["score"].values.get("versions", {})
        return str(versions.get("model", ""))

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps.values())

    def with_step(self, name: str, step: StepRecord) -> Record:
        changed = replace(self, steps={**self.steps, name: step})
        return replace(changed, stands=None) if changed.is_finished else changed

    def reopened(self, first: str, search_too: bool = False) -> Record:
        """The same night with nothing known of a step and those after it.

        Args:
            search_too: nor of a search that comes after it.
        """
        later = STEPS[STEPS.index(first) :]
        if search_too and later != STEPS[-1:]:
            later = (*later, SEARCH)
        steps = {name: StepRecord() if name in later else step for name, step in self.steps.items()}
        stands = self if self.is_finished else self.stands
        return replace(self, steps=steps, ended_at="", stands=stands)

    def first_changed(
        self, inputs: Mapping[str, Mapping[str, str]]
    ) -> tuple[str, list[str]] | None:
        """The first step that was done with other inputs than these, and their names.

        Args:
            inputs: of each step, now.
        """
        for name, step in self.steps.items():
            if step.is_final:
                before, now = step.inputs, inputs[name]
                names = sorted(before.keys() | now.keys())
                if changed := [key for key in names if before.get(key) != now.get(key)]:
                    return name, changed
        return None


def load(lake: Lake, ds: str) -> Record:
    """The record of a date; an empty one where there is none.

    Raises:
        ConfigError: it was written by another version of the code, in a format not known here.
    """
    try:
        found = read_json(url_of(lake, ds))
    except FileNotFoundError:
        return Record(ds)
    if found.get("format") != _FORMAT:
        raise ConfigError(
            f"{url_of(lake, ds)} has format {found.get('format')!r}",
            f"format {_FORMAT}",
            "use the version that wrote it, or remove the file to do the night anew",
        )
    return _of_json(found)


def _of_json(found: Mapping[str, Any]) -> Record:
    steps = {
        name: StepRecord(**{**step, "runs": tuple(step["runs"])})
        for name, step in found["steps"].items()
    }
    searched = {SEARCH: steps[SEARCH]} if SEARCH in steps else {}
    return Record(
        ds=found["ds"],
        run=found["run"],
        ended_at=found["ended_at"],
        caught_up=tuple(found["caught_up"]),
        steps={**{name: steps.get(name, StepRecord()) for name in STEPS}, **searched},
        stands=_of_json(found["stands"]) if found.get("stands") else None,
    )


def save(lake: Lake, record: Record) -> None:
    """Writes the record whole, in the place of the one before."""
    text = json.dumps({"format": _FORMAT, **to_json(record)}, indent=1)
    write_whole(url_of(lake, record.ds), text.encode())


def to_json(record: Record) -> dict[str, Any]:
    """The record as plain JSON values; a value that is no number is null."""
    plain = {**asdict(record), "exit_code": record.exit_code, "seconds": record.seconds}
    plain["stands"] = to_json(record.stands) if record.stands is not None else None
    found: dict[str, Any] = finite(plain)
    return found


def dates_of(lake: Lake) -> list[str]:
    """The dates that have a record, in order."""
    fs, folder = fsspec.core.url_to_fs(lake.folder("nights"))
    fs.invalidate_cache()
    names = (path.rsplit("/", 1)[-1] for path in fs.glob(f"{folder}/*.json"))
    return sorted(name.removesuffix(".json") for name in names)


def url_of(lake: Lake, ds: str) -> str:
    return lake.folder("nights", f"{ds}.json")
