"""A study's journal in the lake: Optuna's own format, a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from optuna.storages.journal import BaseJournalBackend

from jobs.stores.files import write_whole


class LakeJournal(BaseJournalBackend):
    """The journal of one writer, who holds the lock of the stage `tune`.

    It is written whole each time, so a kill leaves one that is complete; see `at_once`.
    """

    def __init__(self, url: str) -> None:
        self._url, self._holds = url, False
        self._lines = _lines(url)
        self._written = len(self._lines)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return [json.loads(line) for line in self._lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._lines += [json.dumps(log, separators=(",", ":")) for log in logs]
        if not self._holds:
            self._write()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What is appended within is written by one write at the end: a kill leaves all or none."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False
        if self._written < len(self._lines):
            self._write()

    def _write(self) -> None:
        write_whole(self._url, "".join(f"{line}\n" for line in self._lines).encode())
        self._written = len(self._lines)


def _lines(url: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(url)
    try:
        content: bytes = fs.cat_file(path)
    except FileNotFoundError:
        return []
    return content.decode().splitlines()
