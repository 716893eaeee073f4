"""On the driver: the output of the ranks, and of Horovod's own Spark thread."""

from __future__ import annotations

import logging
import re
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("millstream.train")


@contextmanager
def quiet_spark_thread() -> Iterator[None]:
    """Runs a block in which the trace of Horovod's Spark thread is not printed.

    What ended that thread is raised in the block, too.
    """
    before = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if raised.thread is not None and "run_spark" in raised.thread.name:
            log.debug("Horovod's Spark job ended: %s", raised.exc_value)
        else:
            before(raised)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


class RankOutput:
    """A text stream, to which Horovod writes what ranks print; each line goes to the log."""

    # Horovod puts the Spark task's number before each line.
    _PREFIX = re.compile(r"^\[(\d+)\]<std(?:out|err)>:")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Each rank's stdout and stderr has a thread of its own, which writes pieces of lines.
        self._held = threading.local()
        self._last: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=8))

    def write(self, text: str) -> int:
        held = getattr(self._held, "text", "") + text
        *lines, self._held.text = re.split(r"[\r\n]", held)
        with self._lock:
            for line in lines:
                self._take(line)
        return len(text)

    def _take(self, line: str) -> None:
        prefix = self._PREFIX.match(line)
        line = line[prefix.end() :] if prefix else line
        if line.strip():
            self._last[prefix[1] if prefix else ""].append(line)
            log.info("%s", line)

    def flush(self) -> None:
        pass

    def last_lines(self) -> list[str]:
        """The last lines of each rank, for an error message."""
        with self._lock:
            return [line for lines in self._last.values() for line in lines]
