"""Google's store: for reading. No lake is kept there, since delta-rs cannot commit safely."""

from __future__ import annotations

from jobs.stores.store import ObjectStore


class GoogleStore(ObjectStore):
    """Not guarded: its conditional writes hold for some kinds of upload only."""
