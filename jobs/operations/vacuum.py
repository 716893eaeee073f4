"""Vacuum: removes the files of the lake that no kept version of a table names.

Checkpoints that nobody goes on from, files of dead runs and of replaced versions, states of
neither, exports and probes of models that are not registered. No lock is taken for files: files are
listed before the locks are looked at, and the locks before the tables, so that a file of a run that
works is either its lock's or already named by a version.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import fsspec

from jobs.base.errors import DataRefused, Locked
from jobs.etl.fit.condensed import FOLDER, paths_to_keep
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, record
from jobs.lake.lock import live_runs, stage_lock
from jobs.lake.manifest import MANIFESTS, Shard
from jobs.lake.tables import Table
from jobs.operations.checkpoints import abandoned, give_up
from jobs.operations.named import TABLES, Named, named
from jobs.operations.retention import retain
from jobs.operations.stored import StoredFile, stored_files
from jobs.registry.registry import Registry
from jobs.settings.settings import Settings

log = logging.getLogger("millstream.vacuum")

# A file that was never shown, as stores write them.
_HALF = ".tmp"


@dataclass
class VacuumResult:
    """What was removed, or would be, by place.

    Attributes:
        dropped: dates past retention, by table.
        given_up: trainings whose checkpoints are past retention.
        skipped: what could not be looked at, and why.
    """

    dry_run: bool
    files: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    given_up: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, place: str, files: Iterable[StoredFile]) -> None:
        sizes = [file.bytes for file in files]
        if sizes:
            self.files[place] = self.files.get(place, 0) + len(sizes)
            self.bytes[place] = self.bytes.get(place, 0) + sum(sizes)

    def summary(self) -> str:
        did = "would remove" if self.dry_run else "removed"
        parts = [f"{place} {count:,}" for place, count in sorted(self.files.items())]
        text = f"{did} {sum(self.files.values()):,} files, {sum(self.bytes.values()):,} bytes"
        text += f" ({', '.join(parts)})" if parts else ""
        for table, dates in sorted(self.dropped.items()):
            verb = "would drop" if self.dry_run else "dropped"
            text += f"; {verb} {len(dates)} dates of {table}, {dates[0]}..{dates[-1]}"
        if self.given_up:
            verb = "would give up" if self.dry_run else "gave up"
            text += f"; {verb} unfinished trainings {', '.join(self.given_up)}"
        return "; ".join([text, *self.skipped])


def run(
    settings: Settings, *, run_id: str, older_than_hours: float, force: bool, dry_run: bool
) -> VacuumResult:
    """Drops the dates that are past retention, then removes what no kept version names.

    Args:
        older_than_hours: versions that were the newest within that time are kept, and files
            written within it.
        force: remove also what only registered models and checkpoints name.
        dry_run: change nothing.

    Raises:
        Locked: dates are past retention in a table that a run is writing now.
    """
    started = time.monotonic()
    lake = Lake(settings.lake_url, settings.dataset().name)
    result = VacuumResult(dry_run)
    result.dropped = retain(lake, settings.retention, run_id, dry_run)
    since = time.time() - 3600 * older_than_hours
    days = settings.retention.checkpoints_days
    _vacuum_checkpoints(lake, days, run_id, result)
    registry = Registry(settings, lake)
    studies = (
        [] if days is None else [f"studies/{name}" for name in abandoned(lake, "studies", days)]
    )
    look = partial(named, lake, registry, since, force, [*result.given_up, *studies])
    unreferred = _unreferred(lake, registry, since, older_than_hours)
    for place, files in chain(_unnamed_files(lake, since, look), unreferred):
        result.add(place, files)
        if not dry_run:
            _remove(lake.url, files)
    try:
        _vacuum_states(lake, since, look, run_id, result)
    except Locked as error:
        result.skipped.append(f"states were left alone: {error.found}")
    if not dry_run:
        _record(lake, result, run_id, time.monotonic() - started)
    return result


def _vacuum_checkpoints(lake: Lake, days: int | None, run_id: str, result: VacuumResult) -> None:
    """Under the locks of training and of searches, which go on from any run of theirs."""
    if days is None or not abandoned(lake, "checkpoints", days):
        return
    try:
        with ExitStack() as held:
            locks = [held.enter_context(stage_lock(lake, s, run_id)) for s in ("train", "tune")]
            for run, files in abandoned(lake, "checkpoints", days).items():
                result.given_up.append(run)
                result.add("checkpoints", files)
                if not result.dry_run:
                    for lock in locks:
                        lock.check()
                    give_up(lake, run)
    except Locked as error:
        result.skipped.append(f"checkpoints were left alone: {error.found}")


def _unnamed_files(lake: Lake, since: float, look: Any) -> Iterator[tuple[str, list[StoredFile]]]:
    stored = {name: stored_files(lake.table(name).url) for name in TABLES}
    live = live_runs(lake)
    kept: Named = look()
    for name in TABLES:
        table = lake.table(name)
        paths = {file.path for n in sorted(kept.versions[name]) for file in table.files(n)}
        if name == "contributions" and table.exists():
            paths |= paths_to_keep(table.url, table.files())
        runs = {Shard.run_of(path) for path in paths}
        _refuse_if_damaged(table, {file.relative for file in stored[name]})
        old = (file for file in stored[name] if file.written_at < since)
        unnamed = (file for file in old if _is_unnamed(file.relative, paths, runs))
        yield name, [file for file in unnamed if not _is_of(live, file.relative)]


def _unreferred(
    lake: Lake, registry: Registry, since: float, hours: float
) -> Iterator[tuple[str, list[StoredFile]]]:
    """Files that versions of appended tables left, and exports and probes of no model."""
    for appended in ("served", "ledger"):
        table = lake.table(appended)
        if table.exists():
            left = set(table.replaced_files(math.ceil(hours)))
            yield appended, [file for file in stored_files(table.url) if file.relative in left]
    stored = {name: stored_files(lake.folder(name)) for name in ("exports", "probes")}
    if not any(stored.values()):
        # The registry may be a server that does not answer.
        return
    digests = {model.digest for model in registry.versions()}
    for name, files in stored.items():
        old = (file for file in files if file.written_at < since)
        yield name, [file for file in old if _is_left(file.relative, digests)]


def _refuse_if_damaged(table: Table, stored: set[str]) -> None:
    """Nothing is removed where the newest version cannot be told from the rest."""
    fs, root = fsspec.core.url_to_fs(table.url)
    named = {file.path for file in table.files()} if table.exists() else set()
    # What a run has committed since the listing is there, but was not listed.
    if missing := sorted(path for path in named - stored if not fs.exists(f"{root}/{path}")):
        raise DataRefused(
            f"{table.url}: {len(missing)} files of the newest version are missing, one is "
            f"{missing[0]}",
            "all files that the version names",
            "make their dates again; nothing was removed",
        )


def _is_unnamed(relative: str, paths: set[str], runs: set[str]) -> bool:
    """Whether a file of a table is none of the named ones and belongs to none of them."""
    place, _, name = relative.rpartition("/")
    if relative.startswith("_delta_log/") or relative in paths:
        return False
    if name.startswith(".") and name.endswith(".crc"):
        return f"{place}/{name[1:-4]}" not in paths
    if "/_temporary/" in f"/{place}/" or name.endswith(_HALF):
        return True
    if _is_data(name) and relative.startswith("run="):
        return True
    return _run_of(relative) not in runs


def _is_left(relative: str, kept: Collection[str]) -> bool:
    """Whether a file is in none of the folders that are kept, or half written."""
    return relative.split("/", 1)[0] not in kept or relative.endswith(_HALF)


def _is_data(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(("_", "."))


def _run_of(relative: str) -> str:
    """The run whose folder or manifest a file is in."""
    first, _, rest = relative.partition("/")
    return rest.removesuffix(".parquet") if first == MANIFESTS else first.removeprefix("run=")


def _is_of(live: Collection[str], relative: str) -> bool:
    """Whether a run that holds a lock wrote the file: its passes have names that begin with its."""
    run = _run_of(relative)
    # The ETL's, and of no run by its name.
    if run == FOLDER and live:
        return True
    return any(run == holder or run.startswith(f"{holder}-") for holder in live)


def _vacuum_states(lake: Lake, since: float, look: Any, run_id: str, result: VacuumResult) -> None:
    """Under the lock, since a run may take up a state that lies there unnamed."""
    with stage_lock(lake, "etl", run_id) as lock:
        kept = look().states
        files = [
            file
            for file in stored_files(lake.folder("states"))
            if file.written_at < since and _is_left(file.relative, kept)
        ]
        result.add("states", files)
        if not result.dry_run:
            lock.check()
            _remove(lake.url, files)


def _remove(lake_url: str, files: Iterable[StoredFile]) -> None:
    fs, _ = fsspec.core.url_to_fs(lake_url)
    folders: set[str] = set()
    for file in files:
        # Another vacuum may have come first.
        with suppress(FileNotFoundError):
            fs.rm_file(file.path)
        depth = file.relative.count("/")
        folders.update(file.path.rsplit("/", up)[0] for up in range(1, depth + 1))
    # The deepest first; an object store has none, and one that still holds something stays.
    for folder in sorted(folders, key=len, reverse=True):
        with suppress(OSError):
            if fs.isdir(folder) and not fs.ls(folder):
                fs.rmdir(folder)


def _record(lake: Lake, result: VacuumResult, run_id: str, seconds: float) -> None:
    counts = {f"{place}_files": count for place, count in result.files.items()}
    counts |= {f"{place}_bytes": count for place, count in result.bytes.items()}
    row = LedgerRow(run_id, "vacuum", "", "done", counts, message=result.summary(), seconds=seconds)
    record(lake, [row])
