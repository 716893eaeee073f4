"""What must stay readable: the table versions and states that kept versions and models name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import fsspec

from jobs.lake.lake import Lake, TableName
from jobs.lake.tables import Table
from jobs.registry.registry import Registry

Versions = dict[TableName, set[int]]

# All but the ledger, from which nothing is ever taken.
TABLES: tuple[TableName, ...] = (
    "examples",
    "quarantine",
    "contributions",
    "id_log",
    # Of runs, which remove them themselves; they have no version, so all that is left goes.
    "judged",
    "predictions",
)


@dataclass(frozen=True)
class Named:
    """Versions by table, and states by their digests."""

    versions: Versions
    states: set[str]


def named(
    lake: Lake, registry: Registry, since: float, force: bool, given_up: Collection[str] = ()
) -> Named:
    """What is newest, was newest at a moment of `since` or later, or is named by such a version.

    Args:
        since: seconds since 1970.
        force: leave out what only registered models and checkpoints name.
        given_up: runs whose checkpoints count no more.
    """
    versions = {name: current_since(lake.table(name), since) for name in TABLES}
    states: set[str] = set()
    for info in _infos(lake, versions["examples"]):
        versions["contributions"].add(info["versions"]["contributions"])
    for version, state in () if force else _pinned(lake, registry, given_up):
        versions["examples"].add(version)
        states.add(state)
    for info in _infos(lake, versions["examples"]):
        # Within a generation the log only grows, so this version has the entries of all states.
        versions["id_log"].add(info["versions"]["id_log"])
        states.update(info["states"].values())
    return Named(versions, states)


def current_since(table: Table, since: float) -> set[int]:
    """The versions that were the newest at a moment of `since` or later."""
    commits = table.commits() if table.exists() else []
    replaced_at = [moment for _, moment in commits[1:]] + [float("inf")]
    return {version for (version, _), end in zip(commits, replaced_at, strict=False) if end > since}


def _infos(lake: Lake, versions: set[int]) -> Iterator[dict[str, Any]]:
    infos = (lake.table("examples").commit_info(version) for version in sorted(versions))
    return (info for info in infos if info)


def _pinned(lake: Lake, registry: Registry, given_up: Collection[str]) -> Iterator[tuple[int, str]]:
    """Examples version and state of each registered model and each checkpoint that counts."""
    for model in registry.versions():
        yield int(model.tags["examples_version"]), model.tags["state_digest"]
    fs, folder = fsspec.core.url_to_fs(lake.folder("checkpoints"))
    if not fs.exists(folder):
        return
    # Late: torch takes seconds to load.
    from jobs.train.keep.checkpoint import identity
    from jobs.train.keep.resume import runs_of
    from jobs.train.keep.seal import Damaged

    for run, urls in runs_of(lake).items():
        for url in urls if run not in given_up else ():
            # A torn one is no checkpoint: nobody goes on from it.
            with suppress(Damaged):
                found = identity(url)
                yield int(found["examples_version"]), found["state_digest"]
