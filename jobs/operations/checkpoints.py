"""Checkpoints of trainings that did not finish, and that nobody went on with for long."""

from __future__ import annotations

import time
from collections import defaultdict

from jobs.lake.lake import Lake
from jobs.operations.stored import StoredFile, stored_files


def abandoned(lake: Lake, place: str, days: int) -> dict[str, list[StoredFile]]:
    """The files of each folder of a place in which none was written within so many days."""
    files = defaultdict(list)
    for file in stored_files(lake.folder(place)):
        files[file.relative.split("/", 1)[0]].append(file)
    since = time.time() - 86_400 * days
    return {
        name: own
        for name, own in sorted(files.items())
        if max(file.written_at for file in own) < since
    }


def give_up(lake: Lake, run: str) -> None:
    """Removes what a run left to go on from."""
    # Late: torch takes seconds to load.
    from jobs.train.attempts import remove_checkpoints

    remove_checkpoints(lake.folder("checkpoints", run))
