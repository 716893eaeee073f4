"""What processes of one host share: a guard, and copies of files that are checked once."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from jobs.base.errors import ConfigError, Locked
from jobs.stores.errors import persistently

GUARD_TIMEOUT_S = 120.0
# Copying and checking a GiB takes no longer, as `train.checkpoint_timeout_s`.
_GIB_TIMEOUT_S = 600.0
# Copies that a host keeps of each kind: the champion's and the challenger's tables, and the moments
# that a training starts with.
_MOST = {"copies": 2, "moments": 1}


@contextmanager
def guarded(path: Path, timeout_s: float = GUARD_TIMEOUT_S) -> Iterator[None]:
    """Lets one process at a time into the block; the system frees the guard of a dead one.

    Raises:
        Locked: another process kept it for longer than the time-out; the message names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with _opened(path) as guard:
        while not _taken(guard.fileno()):
            if time.monotonic() > deadline:
                guard.seek(0)
                raise Locked(
                    f"{path} is held by {guard.read().strip() or 'an unnamed process'} for more "
                    f"than {timeout_s:g} s",
                    remedy="wait for that process to end, or stop it",
                )
            time.sleep(0.05)
        if guard.writable():
            guard.truncate(0)
            guard.write(f"pid {os.getpid()} of {os.uname().nodename}\n")
            guard.flush()
        yield


def _opened(path: Path) -> IO[str]:
    """Whoever may only read takes turns, too, with those who write what it reads."""
    try:
        return path.open("a+")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS) or not path.is_file():
            raise
        return path.open()


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def on_host(
    url: str,
    files: Mapping[str, int],
    digest: str,
    verify: Callable[[Path], None],
    kind: Literal["copies", "moments"] = "copies",
) -> Path:
    """The local folder of files, checked by one process of the host for all of them.

    Files of a remote store are copied, once, to the temporary folder (`TMPDIR`): a host needs disk
    for them, and the processes that map them share their pages. The copies used last stay.

    Args:
        url: of the folder.
        files: their names in it, and sizes in bytes.
        digest: of what they must hold.
        verify: raises where the files in a local folder are not that.
        kind: of which those used last stay.

    Raises:
        FileNotFoundError: there is no such file.
        Locked: another process takes too long to copy or check them.
    """
    fs, path = fsspec.core.url_to_fs(url.rstrip("/"))
    limit_s = _GIB_TIMEOUT_S * max(1.0, sum(files.values()) / 2**30)
    if isinstance(fs, LocalFileSystem):
        checked = _shared("checked") / _as_they_are(Path(path), files, digest)
        with guarded(checked.with_suffix(".guard"), limit_s):
            if not checked.exists():
                verify(Path(path))
                checked.touch()
        return Path(path)
    copy = _shared(kind) / digest
    with guarded(copy.with_suffix(".guard"), limit_s):
        if not copy.exists():
            staged = copy.with_suffix(".tmp")
            _fetch(fs, path, files, staged)
            verify(staged)
            staged.rename(copy)
        os.utime(copy)
        _forget_others(copy.parent, _MOST[kind])
    return copy


def _fetch(fs: Any, path: str, files: Mapping[str, int], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        persistently(partial(fs.get_file, f"{path}/{name}", str(folder / name)))


def _shared(name: str) -> Path:
    """A folder of this user's processes on this host.

    Raises:
        ConfigError: it is another user's.
    """
    folder = Path(tempfile.gettempdir()) / f"millstream-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or folder.is_symlink():
        raise ConfigError(
            f"{folder} may be written by others", "a folder of this user alone", "remove it"
        )
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def _as_they_are(folder: Path, files: Mapping[str, int], digest: str) -> str:
    """A name that is another when a file was replaced or written to."""
    text = f"{folder.absolute()} {digest}"
    for name in files:
        found = (folder / name).stat()
        text += f" {name} {found.st_size} {found.st_ino} {found.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()


def _forget_others(folder: Path, most: int) -> None:
    """Whoever has mapped the files of a copy keeps them, although they have no name any more."""
    copies = [path for path in folder.iterdir() if path.is_dir() and not path.suffix]
    for old in sorted(copies, key=lambda path: path.stat().st_mtime)[:-most]:
        shutil.rmtree(old, ignore_errors=True)
