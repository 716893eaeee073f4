"""Finds the checkpoint that a training resumes from, and logs why others are not used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fsspec

from jobs.base.errors import DataRefused, MillstreamError
from jobs.lake.lake import Lake
from jobs.settings.train import RUN_SETTINGS
from jobs.train.keep.chain import verified_chain
from jobs.train.keep.checkpoint import Checkpoint, listed
from jobs.train.keep.seal import Damaged
from jobs.train.order.fingerprint import check_fingerprint

log = logging.getLogger("millstream.train")

Identity = Mapping[str, Any]

# Settings of `train` that may differ from the checkpoint's. The size of a batch may change at any
# row, and the rows that the days stand for are compared by themselves.
FREE_SETTINGS = RUN_SETTINGS | {"batch_rows", "window_days", "map_tables_mb"}

# The trials of a search begin so; only their study goes on with them.
TRIALS = "tune-"


def runs_of(lake: Lake) -> dict[str, list[str]]:
    """The runs that have checkpoint folders: name of the run -> their URLs, the newest first."""
    fs, root = fsspec.core.url_to_fs(lake.folder("checkpoints"))
    try:
        names = [path.rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(root, detail=False)]
    except FileNotFoundError:
        return {}
    urls = {name: listed(lake.folder("checkpoints", name)) for name in sorted(names)}
    return {name: found for name, found in urls.items() if found}


def select(
    lake: Lake,
    resume: str,
    identity: Identity,
    started_from: Callable[[str | None], Identity] | None = None,
) -> Checkpoint | None:
    """Finds the newest complete checkpoint of this training; logs why newer ones are not used.

    Args:
        resume: `auto`, `never`, or the name of a run.
        identity: of the training, see `TrainJob.identity`.
        started_from: the identity that this training has when it starts from the given model
            version. `train.warm_start: champion` may have named another version by the time at
            which the checkpoint's training began. None where that cannot be.

    Returns:
        The checkpoint; None where there is none, and training starts from its beginning.

    Raises:
        DataRefused: the named run has no complete checkpoint, or one of another training.
    """
    if resume == "never":
        return None
    runs = runs_of(lake)
    if resume != "auto":
        return _of_run(resume, runs, identity, started_from)
    own = [run for run in runs if not run.startswith(TRIALS)]
    newest_first = sorted(own, key=lambda run: runs[run][0].rsplit("/", 1)[-1], reverse=True)
    for run in newest_first:
        found, passed_over = _newest_complete(runs[run])
        for line in passed_over:
            log.warning("%s", line)
        misfits = list(differences(found.identity, identity, started_from)) if found else []
        if found and not misfits:
            return found
        if misfits:
            log.warning("run %s is not resumed: %s", run, "; ".join(misfits))
    return None


def _of_run(
    run: str,
    runs: Mapping[str, list[str]],
    identity: Identity,
    started_from: Callable[[str | None], Identity] | None,
) -> Checkpoint:
    if run not in runs:
        raise DataRefused(
            f"run {run!r} left no checkpoint",
            f"one of {', '.join(runs)}" if runs else "a run that did not finish",
            "name one of them, or start anew with --resume never",
        )
    found, passed_over = _newest_complete(runs[run])
    if found is None:
        raise DataRefused(
            "\n  ".join([f"run {run} has no complete checkpoint:", *passed_over]),
            remedy="start anew with --resume never",
        )
    for line in passed_over:
        log.warning("%s", line)
    if misfits := list(differences(found.identity, identity, started_from)):
        raise DataRefused(
            f"run {run} is another training: " + "; ".join(misfits),
            "the data, the model and the settings that it was started with",
            "give them back (dates by --until), or start anew with --resume never",
        )
    return found


def newest_of_run(folder: str) -> Checkpoint | None:
    """Finds the newest complete checkpoint in a run's folder; logs why newer ones are not used."""
    found, passed_over = _newest_complete(listed(folder))
    for line in passed_over:
        log.warning("%s", line)
    return found


def _newest_complete(urls: list[str]) -> tuple[Checkpoint | None, list[str]]:
    """The first of `urls` that is complete, and a line for each before it that is not."""
    passed_over: list[str] = []
    for url in urls:
        try:
            return verified_chain(url), passed_over
        except (Damaged, OSError) as error:
            passed_over.append(f"checkpoint {'/'.join(url.split('/')[-2:])} is not used: {error}")
    return None, passed_over


def differences(
    stored: Identity,
    now: Identity,
    started_from: Callable[[str | None], Identity] | None = None,
) -> Iterator[str]:
    """The differences between two trainings, each as a text that names it.

    Args:
        stored, now: the identities of the checkpoint and of the training, see `TrainJob.identity`.
        started_from: see `select`.
    """
    # Older checkpoints do not name it.
    source = stored.get("warm_start", now.get("warm_start"))
    if started_from is not None and source != now.get("warm_start"):
        try:
            now = started_from(source)
        except MillstreamError as refused:
            yield refused.found
            return
    try:
        check_fingerprint(stored["fingerprint"], now["fingerprint"])
    except DataRefused as refused:
        yield refused.found
    for section, title in (("spec", "the model's "), ("train", "train.")):
        before, after = stored[section], now[section]
        for name in sorted(before.keys() | after.keys()):
            free = section == "train" and name in FREE_SETTINGS
            if not free and before.get(name) != after.get(name):
                yield f"{title}{name} was {_short(before.get(name))}, is {_short(after.get(name))}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
