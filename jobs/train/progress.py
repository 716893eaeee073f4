"""What a rank shows while it trains: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger("millstream.train")
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Rows of one epoch, rows a second, time left. Only rank 0 shows them.

    Args:
        title: "epoch 2 of 5".
        total_rows: of the epoch, all ranks together.
        shown: False on ranks other than 0.
        terminal: someone watches, and the line can be rewritten.
    """

    def __init__(self, title: str, total_rows: int, shown: bool, terminal: bool) -> None:
        self._title = title
        self._total_rows = total_rows
        self._rows = 0
        self._started = self._said = time.monotonic()
        self._shown = shown and log.isEnabledFor(logging.INFO)
        self._bar = (
            tqdm(total=total_rows, desc=title, unit=" rows", unit_scale=True, leave=False, ncols=90)
            if self._shown and terminal
            else None
        )

    def add(self, rows: int) -> None:
        self._rows += rows
        if self._bar is not None:
            self._bar.update(rows)
        elif self._shown and time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            log.info("%s", self.line())

    def line(self) -> str:
        speed = self._rows / max(1e-9, time.monotonic() - self._started)
        left = (self._total_rows - self._rows) / max(1e-9, speed)
        return (
            f"{self._title}: {self._rows:,} of {self._total_rows:,} rows, {speed:,.0f} rows/s, "
            f"{left:.0f} s left"
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            sys.stderr.flush()
