"""Which version is live: the champion's alias is watched, and a new one must pass its probe."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from jobs.base.errors import ConfigError
from jobs.lake.lake import Lake
from jobs.registry.registry import Registry
from jobs.rows.judge.parents import parent_rows
from jobs.rows.read.files import RawFile, find_files
from jobs.serve.champion import Champion, load_champion
from jobs.settings.settings import Settings
from schemas.dataset import Dataset

log = logging.getLogger("millstream.serve")


class Live:
    """The version that answers, and the loading of the next one beside it.

    Attributes:
        champion: None until one could be loaded.
        problem: why the registry's champion is not the one that answers; empty where it is.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.champion: Champion | None = None
        self.problem = "no model was loaded yet"
        self._settings, self._folder = settings, folder
        self._dataset = settings.dataset()
        self._lake = Lake(settings.lake_url, self._dataset.name)
        self._registry = Registry(settings, self._lake)
        self._refused = ""
        self._files: dict[str, tuple[RawFile, ...]] = {}
        self._parents: dict[str, pa.Table] = {}
        self._looked_at = 0.0
        self._lock = threading.Lock()

    async def watch(self) -> None:
        """Looks every `serve.watch_s`, in a thread of its own, until it is cancelled."""
        while True:
            await asyncio.sleep(self._settings.serve.watch_s)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Takes the registry's champion where it is another, and parents where files are newer.

        What fails is said once; the version that is live stays.
        """
        with self._lock:
            try:
                self._look()
            except Exception as error:
                self._say(f"{type(error).__name__}: {error}")

    def _look(self) -> None:
        target = self._registry.alias_target()
        if target is None:
            return self._say("the registry has no champion")
        # Before the version, since the one that stays must have them too where the new one fails.
        self._take_parents()
        live = self.champion
        if live is not None and live.version.version == target.version:
            self.problem = ""
            return None
        started = time.monotonic()
        found = load_champion(
            self._settings.serve, self._dataset, self._lake, target, self._parents, self._folder
        )
        # Requests under way end on the version that they began with.
        self.champion, self.problem, self._refused = found, "", ""
        seconds = time.monotonic() - started
        log.info("model version %s is live, loaded in %.1f s", target.version, seconds)
        return None

    def _say(self, problem: str) -> None:
        live = self.champion.version.version if self.champion else "none"
        self.problem = problem
        if problem != self._refused:
            log.warning("version %s stays live: %s", live, problem)
            self._refused = problem

    def _take_parents(self) -> None:
        """Reads parents whose files are others than before. Where one fails all are read again, or
        the live version would lack those that did not."""
        settings, now = self._settings.serve, time.monotonic()
        if self._looked_at and now - self._looked_at < settings.parents_refresh_s:
            return
        files = parent_files(self._settings)
        changed = {name: of for name, of in files.items() if of != self._files.get(name)}
        newer = {name: looked_up(self._dataset, name, of) for name, of in changed.items()}
        parents = {**self._parents, **newer}
        if newer and self.champion is not None:
            self.champion = self.champion.with_parents(parents)
        self._files, self._parents, self._looked_at = files, parents, now


def parent_files(settings: Settings) -> dict[str, tuple[RawFile, ...]]:
    """The files of parents that rows are looked up in, by source."""
    paths = settings.serve.parents
    return {name: tuple(find_files(settings.path(path), [])) for name, path in paths.items()}


def looked_up(dataset: Dataset, name: str, files: Sequence[RawFile]) -> pa.Table:
    """A parent's rows, as the row engine joins them.

    Raises:
        DataRefused: a row does not parse, or a key stands twice.
    """
    join = next(one for one in dataset.joins if one.source == name)
    return parent_rows(files, dataset.source(name), join)


def refuse_bad_parents(settings: Settings) -> None:
    """
    Raises:
        ConfigError: serve.parents names what is no parent, or one of a date.
    """
    joined = {join.source for join in settings.dataset().joins}
    parents: Mapping[str, str] = settings.serve.parents
    if unknown := sorted(parents.keys() - joined):
        raise ConfigError(
            f"serve.parents has {', '.join(unknown)}",
            f"sources that the declaration joins: {', '.join(sorted(joined)) or 'none'}",
        )
    if dated := sorted(name for name, path in parents.items() if "{ds}" in path):
        raise ConfigError(
            f"serve.parents.{dated[0]} is of a date each",
            "a parent without {ds}",
            "leave it out; requests then bring its columns",
        )
