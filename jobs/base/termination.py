"""SIGTERM, as schedulers send it, and SIGHUP of a terminal that closes end a command as Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

# What the last signal within `terminable` raised.
_raised: KeyboardInterrupt | None = None


class Terminated(KeyboardInterrupt):
    """The process was asked to end by a signal."""

    def __init__(self, name: signal.Signals) -> None:
        super().__init__(f"terminated by {name.name}")
        self.exit_code = 128 + name


def interruption(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that led to an error: itself, or what was being handled when another came, as
    when the JVM got the same signal and no longer answers. Of an error that tells of none it is the
    signal before it: DuckDB raises an error of its own in the place of an interrupt."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__cause__ or found.__context__
    return found or _raised


@contextmanager
def terminable() -> Iterator[None]:
    """While the block runs SIGTERM and SIGHUP raise Terminated: locks are freed, temporary files
    removed, observers told. A SIGHUP that is ignored, as under nohup, stays so.

    Signals come to the main thread; in another one nothing is changed.
    """
    global _raised
    _raised = None
    with handlers_kept() as kept:
        for name, handler in kept.items():
            if name != signal.SIGINT or handler is signal.default_int_handler:
                signal.signal(name, _interrupt)
        yield


@contextmanager
def handlers_kept() -> Iterator[dict[signal.Signals, Any]]:
    """Gives the handlers of the signals that end a command, and sets them again after the block:
    libraries set their own."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    kept = {name: signal.getsignal(name) or signal.SIG_DFL for name in ending()}
    try:
        yield kept
    finally:
        for name, handler in kept.items():
            signal.signal(name, handler)


def ending() -> list[signal.Signals]:
    """The signals that ask a command to end; without SIGHUP where that is ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


def _interrupt(number: int, _: object) -> NoReturn:
    global _raised
    is_ctrl_c = number == signal.SIGINT
    _raised = KeyboardInterrupt() if is_ctrl_c else Terminated(signal.Signals(number))
    raise _raised
