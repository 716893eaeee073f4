"""Guarded files of stores whose only promise is that one of several writers makes a new file."""

from __future__ import annotations

import re
from abc import abstractmethod
from contextlib import suppress

from jobs.stores.store import Store

_VERSION = re.compile(r"^\d{20}$")


# As many versions stay. Who comes late by fewer finds the number taken that it would make.
KEPT = 32


class VersionedStore(Store):
    """A guarded file is a folder of its last versions, named by their numbers.

    Who makes the next number has replaced the file. A number below the kept ones is free again:
    who makes it came late, and has replaced nothing.
    """

    @abstractmethod
    def _make(self, path: str, content: bytes) -> bool:
        """Makes a file, whole; False where there is one. What it staged beside it, by a name that
        goes on after a dot, may be removed by others."""

    def read_tagged(self, path: str) -> tuple[bytes | None, str]:
        while newest := max(self._versions(path), default=""):
            # Between the two others may have made so many that it was removed.
            with suppress(FileNotFoundError):
                return self.fs.cat_file(f"{path}/{newest}"), newest
        return None, ""

    def create(self, path: str, content: bytes) -> bool:
        return self.replace(path, content, "")

    def replace(self, path: str, content: bytes, tag: str) -> bool:
        mine = _named(int(tag or 0) + 1)
        if not self._make(f"{path}/{mine}", content):
            # Also when it was done, its answer lost, and the client's second try refused.
            return self.read_tagged(path)[0] == content
        newest = max(self._versions(path))
        oldest = _named(int(newest) - KEPT + 1)
        for name in self._names(path):
            # Of what others staged, that for a number which is taken: they have lost.
            number, _, staged = name.partition(".")
            if number <= mine if staged else number < oldest:
                with suppress(FileNotFoundError):
                    self.fs.rm(f"{path}/{name}")
        return mine >= oldest

    def _versions(self, path: str) -> list[str]:
        return [name for name in self._names(path) if _VERSION.match(name)]

    def _names(self, path: str) -> list[str]:
        try:
            return [name.rsplit("/", 1)[-1] for name in self.fs.ls(path, detail=False)]
        except FileNotFoundError:
            return []


def _named(version: int) -> str:
    return f"{max(version, 0):020}"
