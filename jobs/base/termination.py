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
