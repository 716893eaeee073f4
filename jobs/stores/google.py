"""Google's store: raw files and others' folders, and locks; no lake."""

from __future__ import annotations

from jobs.stores.store import ObjectStore
from jobs.stores.versions import VersionedStore


class GoogleStore(VersionedStore, ObjectStore):
    """Guarded by uploads of files that must be new, which hold for uploads in one request.

    delta-rs uploads in another way, whose condition nobody kept, so it cannot commit there.
    """

    keeps_tables = False

    def _make(self, path: str, content: bytes) -> bool:
        try:
            self.fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True
