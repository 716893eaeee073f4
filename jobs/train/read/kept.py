"""Row groups as they were decoded, for trainings of one process that read the same rows in turn.

Trials of a study do: each is short, and begins again at every rung. A group is kept while there is
room; others are decoded each time.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from jobs.batch.tensors import Words


class KeptGroups:
    """Row groups of one selection of columns. Threads may call it together.

    Args:
        limit_bytes: that all take together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._scope: Hashable = None
        self._groups: dict[Hashable, Words] = {}
        self._bytes = 0

    def get(self, scope: Hashable, group: Hashable) -> Words | None:
        """The rows of a group, int32 [n, W], not to be written; None where it is not kept."""
        with self._lock:
            return self._groups.get(group) if scope == self._scope else None

    def has_room(self, scope: Hashable, size: int) -> bool:
        """Whether a group of so many bytes may be kept.

        Args:
            scope: what all that is kept has in common; groups of another are dropped.
        """
        with self._lock:
            if scope != self._scope:
                self._scope, self._groups, self._bytes = scope, {}, 0
            return self._bytes + size <= self.limit_bytes

    def put(self, scope: Hashable, group: Hashable, rows: Words) -> None:
        """Keeps the rows of a group, where there is room."""
        with self._lock:
            fits = self._bytes + rows.nbytes <= self.limit_bytes
            if scope == self._scope and group not in self._groups and fits:
                self._groups[group] = rows
                self._bytes += rows.nbytes


_of_process: KeptGroups | None = None


def of_process(limit_bytes: int) -> KeptGroups:
    """What this process keeps from one training to the next."""
    global _of_process
    if _of_process is None or _of_process.limit_bytes != limit_bytes:
        _of_process = KeptGroups(limit_bytes)
    return _of_process
