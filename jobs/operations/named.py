"""What must stay readable: the table versions and states that kept versions and models name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import fsspec

from jobs.base.errors import DataRefused
from jobs.etl.write.settle import standing_version
from jobs.lake.lake import Lake, TableName
from jobs.lake.state import load_state
from jobs.lake.tables import Table
from jobs.operations.retention import WRITERS
from jobs.registry.registry import Registry

Versions = dict[TableName, set[int]]

# All that runs replace; `ledger` and `served` are appended to.
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
        force: leave out what only registered models, checkpoints and studies name.
        given_up: runs whose checkpoints count no more, and `studies/NAME`.
    """
    versions = {name: current_since(lake.table(name), since) for name in TABLES}
    standing = {standing_version(lake, stage) for stage in WRITERS["quarantine"]}
    versions["quarantine"] |= standing - {-1}
    states: set[str] = set()
    for version, state in () if force else _pinned(lake, registry, given_up):
        versions["examples"].add(version)
        states.update(state)
    infos = lake.table("examples").infos() if versions["examples"] else {}
    for info in (infos[version] for version in versions["examples"] if infos.get(version)):
        for name in ("contributions", "id_log"):
            versions[name].add(info["versions"][name])
        states.update(info["states"].values())
    # A state may have been written again by a run that never committed, with the place it knew.
    with ThreadPoolExecutor(16) as threads:
        versions["id_log"].update(*threads.map(partial(_id_log_version, lake), sorted(states)))
    return Named(versions, states)


def _id_log_version(lake: Lake, digest: str) -> set[int]:
    # A state that is lost, or damaged, can be scored with no more.
    with suppress(DataRefused):
        return {load_state(lake, digest).id_log_version}
    return set()


def current_since(table: Table, since: float) -> set[int]:
    """The versions that were the newest at a moment of `since` or later."""
    commits = table.commits() if table.exists() else []
    replaced_at = [moment for _, moment in commits[1:]] + [float("inf")]
    return {version for (version, _), end in zip(commits, replaced_at, strict=False) if end > since}


def _pinned(
    lake: Lake, registry: Registry, given_up: Collection[str]
) -> Iterator[tuple[int, set[str]]]:
    """Examples version and states of each model, and each checkpoint and study that counts."""
    models = registry.versions()
    for model in models:
        yield int(model.tags["examples_version"]), {model.tags["state_digest"]}
    yield from _of_checkpoints(lake, given_up)
    ended = {model.tags.get("study") for model in models}
    for name in _folders(lake, "studies"):
        if name not in ended and f"studies/{name}" not in given_up:
            # Late: Optuna takes a second to load.
            from jobs.tune.study import known_facts

            if facts := known_facts(lake.folder("studies", name)):
                # The states are those of the version.
                yield facts["examples_version"], set()


def _of_checkpoints(lake: Lake, given_up: Collection[str]) -> Iterator[tuple[int, set[str]]]:
    if not _folders(lake, "checkpoints"):
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
                yield int(found["examples_version"]), {found["state_digest"]}


def _folders(lake: Lake, name: str) -> list[str]:
    fs, root = fsspec.core.url_to_fs(lake.folder(name))
    paths = fs.ls(root, detail=False) if fs.exists(root) else []
    return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)
