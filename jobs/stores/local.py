"""Files of this machine, and of file systems that it mounts."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.stores.store import Store


class LocalStore(Store):
    """Guarded by flock, which the system frees when a process dies."""

    def read_tagged(self, path: str) -> tuple[bytes | None, str]:
        # No guard, which whoever may only read could not take: what is there is replaced whole.
        return _tagged(path)

    def create(self, path: str, content: bytes) -> bool:
        return self.replace(path, content, "")

    def replace(self, path: str, content: bytes, tag: str) -> bool:
        with _alone(path):
            if _tagged(path)[1] != tag:
                return False
            staged = Path(path).with_suffix(f".{os.getpid()}.tmp")
            staged.write_bytes(content)
            staged.replace(path)
        return True


def _tagged(path: str) -> tuple[bytes | None, str]:
    if not Path(path).exists():
        return None, ""
    content = Path(path).read_bytes()
    return content, repr(content)


@contextmanager
def _alone(path: str) -> Iterator[None]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).with_suffix(".guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield
