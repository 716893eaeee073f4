"""Acts that may hang or fail, and must do neither to what comes after them."""

from __future__ import annotations

import threading
from collections.abc import Callable


def attempt(act: Callable[[], object], seconds: float) -> Exception | None:
    """Calls `act` in another thread and waits for it at most so many seconds.

    When these are over the thread is left to itself, and does not keep the process. A deadline of a
    socket's would not do: none covers the look-up of a host's name, or a peer that sends a byte now
    and then.

    Returns:
        Why it did not succeed, a TimeoutError where it took longer; None where it did.
    """
    failure: list[Exception] = []

    def run() -> None:
        try:
            act()
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="millstream-attempt", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return TimeoutError(f"no end within {seconds:g} s")
    return failure[0] if failure else None
