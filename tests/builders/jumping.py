"""`jobs.main` whose clock jumps: `python -m tests.builders.jumping COMMAND ...`.

The variable JUMP says when and how far, as `AFTER_S,BY_S`. Only the driver's Python jumps, and only
the time of day; what waits by a monotonic clock is not touched, as on a machine that is set right.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from jobs.main import main

JUMP = "MILLSTREAM_TEST_JUMP"


def jump(by_s: float) -> None:
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + by_s
    time.time_ns = lambda: now_ns() + int(by_s * 1e9)


if __name__ == "__main__":
    after_s, by_s = map(float, os.environ[JUMP].split(","))
    timer = threading.Timer(after_s, jump, (by_s,))
    timer.daemon = True
    timer.start()
    sys.exit(main())
