"""The contract: what a lake needs of a store.

Folders are listed, and files described and read in ranges, by the store's class for fsspec, which
gives each file's `size` and something that changes when it is written again, and never answers from
an old listing. What fsspec leaves open is here: whole writes, and writes of a file that several
writers guard. A new store is a class of this kind that passes `tests/stores/test_contract.py`; a
package brings it as an entry point of the group `millstream.stores`, named by the URLs' scheme.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.base.errors import ConfigError


class Store:
    """A store that can be read and written, and whose files cannot be guarded.

    Paths are those of `fs`: without scheme and host.

    Attributes:
        fs: fsspec's class of the store.
        renames: whether a folder can take another's name at once. Where not, a file is there when
            all of it is; elsewhere a writer's half file could be seen.
        keeps_tables: whether delta-rs can commit there.
    """

    renames = True
    keeps_tables = True

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def await_answer(self) -> None:
        """Returns when the store answers, for clients that have no patience of their own.

        Raises:
            OSError: it does not; the message names it.
        """

    def write_whole(self, path: str, content: bytes) -> None:
        """Writes or replaces a file; nobody sees it before it is complete."""
        with self.writing(path) as file:
            file.write(content)

    @contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        """A file to write piece by piece, which nobody sees before the block ended well."""
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        staged = f"{path}.{time.time_ns()}.tmp"
        with self.fs.open(staged, "wb") as file:
            yield file
        self.fs.mv(staged, path)

    def read_tagged(self, path: str) -> tuple[bytes | None, str]:
        """A guarded file's content and a tag of just this content; None and "" where none is."""
        raise self._unguarded(path)

    def create(self, path: str, content: bytes) -> bool:
        """Makes a guarded file, whole; False where another writer made it first."""
        raise self._unguarded(path)

    def replace(self, path: str, content: bytes, tag: str) -> bool:
        """Replaces what was read with the tag; False where another writer did so first."""
        raise self._unguarded(path)

    def check_keeps_tables(self, path: str) -> None:
        """Raises ConfigError where no lake can be."""
        if not self.keeps_tables:
            raise self._no_lake(path, "in which delta-rs cannot commit")

    def _unguarded(self, path: str) -> ConfigError:
        return self._no_lake(path, "that cannot guard a file against other writers")

    def _no_lake(self, path: str, why: str) -> ConfigError:
        return ConfigError(
            f"{self.fs.unstrip_protocol(path)} is in a store {why}",
            "a lake on a path that all writers mount, on s3:// or on hdfs://",
            "keep the lake there; reading works from any store",
        )


class ObjectStore(Store):
    """A store that shows a file when all of it is there, and has no folders to rename."""

    renames = False

    def write_whole(self, path: str, content: bytes) -> None:
        self.fs.pipe_file(path, content)

    @contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        # It comes to be when it is closed; an error must not close it half written.
        file = self.fs.open(path, "wb")
        try:
            yield file
        except BaseException:
            file.discard()
            # Else it is closed once more when it is collected.
            file.closed = True
            raise
        file.close()
