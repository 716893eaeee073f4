"""Reading beside training: its threads take what training leaves of the cores."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_STEP, _LEAST = 10, 19


def yield_to_training() -> None:
    """Lowers the priority of the calling thread, where the system has one for each thread.

    A rank whose step is interrupted keeps all others waiting in the exchange, where these then
    have time to read; blocks that are made ahead bridge the gap.
    """
    if sys.platform == "linux":
        # Not of the calling thread: one that lowered its own may have made it.
        nice = os.getpriority(os.PRIO_PROCESS, os.getpid())
        with suppress(PermissionError):
            # Where it is refused, or this thread's own is lower already, it reads as it is.
            os.setpriority(os.PRIO_PROCESS, 0, min(nice + _STEP, _LEAST))
