"""A watchdog process beside each rank, which kills the rank when its heartbeat stops.

Horovod ends the peers of a silent rank, but then waits for ever for the rank's own process, which,
when it is frozen, only SIGKILL ends. The heartbeat comes from a thread. So a rank that waits for
data or for its peers has one, and a rank that is stopped, or never releases Python's lock, has not.
"""

from __future__ import annotations

import inspect
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Heartbeats in `stall_s` seconds.
BEATS_PER_DEADLINE = 10


@contextmanager
def watched(stall_s: float) -> Iterator[None]:
    """Runs a block, and kills this process when it has no heartbeat for `stall_s` seconds."""
    # With -S and -E it starts in a few milliseconds. In a session of its own it goes on when the
    # rank's process group is stopped. It must not keep the pipes of the rank's output open. Its
    # code is given as text, because this module's file may lie in a zip.
    text = inspect.getsource(sys.modules[__name__])
    watchdog = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", text, str(os.getpid()), str(stall_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert watchdog.stdin is not None
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(watchdog.stdin.fileno(), stall_s, ended))
    beat.daemon = True
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        watchdog.stdin.close()
        watchdog.wait()


def _beat(pipe: int, stall_s: float, ended: threading.Event) -> None:
    """Writes a byte to the watchdog's pipe at each heartbeat, until training has ended."""
    while not ended.wait(stall_s / BEATS_PER_DEADLINE):
        os.write(pipe, b".")


def _watch(pid: int, stall_s: float) -> None:
    """The watchdog: kills a process when nothing comes on stdin for `stall_s` seconds."""
    while select.select([0], [], [], stall_s)[0]:
        if not os.read(0, 4096):
            # The pipe was closed: the rank has ended, or has left the block.
            return
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]))
