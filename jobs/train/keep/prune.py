"""Checkpoints that a run does not need any more are removed."""

from __future__ import annotations

import fsspec

from jobs.train.keep.checkpoint import COMMIT, STAGED, listed


def prune(folder: str, keep: int, written: list[str]) -> None:
    """Removes the checkpoints of a run that are not among its last complete ones.

    Args:
        folder: URL of the run's folder.
        keep: number of checkpoints that stay.
        written: URLs of the run's complete checkpoints, the oldest first.
    """
    kept = {url.rsplit("/", 1)[-1] for url in written[-keep:]}
    fs, root = fsspec.core.url_to_fs(folder)
    for url in listed(folder):
        name = url.rsplit("/", 1)[-1]
        if name not in kept:
            # First the commit, so that a half-removed folder does not look like a checkpoint.
            if fs.exists(f"{root}/{name}/{COMMIT}"):
                fs.rm_file(f"{root}/{name}/{COMMIT}")
            fs.rm(f"{root}/{name}", recursive=True)
    for path in fs.glob(f"{root}/{STAGED}*"):  # A process was killed while it wrote it.
        fs.rm(path, recursive=True)
