"""A watchdog beside a rank: kills it when its heartbeat stops.

Horovod ends the peers of a rank that is silent, but waits for ever for a frozen process to end,
which no signal but SIGKILL does. The heartbeat is a thread's, so a rank that waits for data or
for its peers is alive; one that is stopped, or holds the interpreter's lock for good, is not.
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

BEATS_PER_DEADLINE = 10


@contextmanager
def watched(stall_s: float) -> Iterator[None]:
    """Runs the block under a watchdog that ends this process `stall_s` after its last heartbeat."""
    # -S -E: it starts in a few milliseconds. A session of its own: what stops the rank's process
    # group leaves it running. Without the rank's output: it would keep those pipes open.
    # Its text, since the module's file may lie in a zip.
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
    while not ended.wait(stall_s / BEATS_PER_DEADLINE):
        os.write(pipe, b".")


def _watch(pid: int, stall_s: float) -> None:
    while select.select([0], [], [], stall_s)[0]:
        if not os.read(0, 4096):
            # The rank has ended, or needs no watchdog any more.
            return
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]))
