"""Checkpoints of trainings that did not finish, and that nobody went on with for long."""

from __future__ import annotations

import time
from collections import defaultdict

from jobs.lake.lake import Lake
from jobs.operations.stored import StoredFile, stored_files


def abandoned(lake: Lake, days: int) -> dict[str, list[StoredFile]]:
    """The files of each run that wrote none within so many days, by the run's name."""
    files = defaultdict(list)
    for file in stored_files(lake.folder("checkpoints")):
        files[file.relative.split("/", 1)[0]].append(file)
    since = time.time() - 86_400 * days
    return {
        run: of_run
        for run, of_run in sorted(files.items())
        if max(file.written_at for file in of_run) < since
    }


def give_up(lake: Lake, run: str) -> None:
    """Removes what a run left to go on from."""
    # Late: torch takes seconds to load.
    from jobs.train.attempts import remove_checkpoints

    remove_checkpoints(lake.folder("checkpoints", run))
