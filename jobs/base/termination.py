"""SIGTERM, as schedulers send it, ends a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""

    exit_code = 128 + signal.SIGTERM


def interruption(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that led to an error: itself, or what was being handled when another came, as
    when the JVM got the same signal and no longer answers."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__cause__ or found.__context__
    return found


@contextmanager
def terminable() -> Iterator[None]:
    """While the block runs SIGTERM raises Terminated: locks are freed, and observers told.

    Signals come to the main thread; in another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _terminate(*_: object) -> NoReturn:
    raise Terminated("terminated by SIGTERM")
