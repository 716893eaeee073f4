"""A sample of what was answered, chosen by hash, in the Delta table `served`.

Written in the background. When it cannot keep up the oldest rows go, and are counted.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.base.xxhash import xxhash64
from jobs.lake.lake import Lake
from jobs.lake.tables import Table
from jobs.rows.base.names import DS
from jobs.serve.accounts import Accounts
from jobs.serve.champion import Answers, Champion
from jobs.serve.request.rows import Values

log = logging.getLogger("millstream.serve")

SERVED = pa.schema(
    [
        (DS, pa.string()),
        ("answered_at", pa.timestamp("us", tz="UTC")),
        ("raw", pa.string()),
        ("score", pa.float32()),
        ("scores", pa.list_(pa.float32())),
        ("reasons", pa.list_(pa.string())),
        ("model_version", pa.string()),
        ("weights_digest", pa.string()),
        ("run_id", pa.string()),
    ]
)
_EVERY_S = 5.0


def append_served(table: Table, rows: pa.Table) -> None:
    """Adds rows of `SERVED`. Their texts stay out of the table's log, which is never erased."""
    table.append(rows, measured=[DS])


class ServedSample:
    """A replica's part of the table.

    Args:
        fraction: of the rows.
        queue_rows: that may wait to be written.
    """

    def __init__(
        self, lake: Lake, run: str, accounts: Accounts, fraction: float, queue_rows: int
    ) -> None:
        self._table, self._run, self._accounts = lake.table("served"), run, accounts
        self._bound = int(fraction * (1 << 32))
        self._held: deque[dict[str, Any]] = deque()
        self._most = queue_rows
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write_until_end, name="served", daemon=True)
        if self._bound:
            self._thread.start()

    def offer(self, columns: Mapping[str, Values], answers: Answers, champion: Champion) -> None:
        """Keeps those rows whose hash falls into the sample: the same rows on any replica."""
        if not self._bound:
            return
        texts = _texts(columns, len(answers.scores))
        chosen = (xxhash64(pa.array(texts)) & 0xFFFFFFFF) < self._bound
        moment = datetime.now(UTC)
        rows = []
        for place in np.flatnonzero(chosen).tolist():
            score = answers.scores[place]
            refused = place in answers.reasons
            of_classes = score.ndim > 0 and not refused
            rows.append(
                {
                    DS: moment.date().isoformat(),
                    "answered_at": moment,
                    "raw": texts[place],
                    "score": None if refused else float(score.max()),
                    "scores": score.tolist() if of_classes else None,
                    "reasons": list(answers.reasons.get(place, ())),
                    "model_version": champion.version.version,
                    "weights_digest": champion.version.tags["weights_digest"],
                    "run_id": self._run,
                }
            )
        self._hold(rows)

    def _hold(self, rows: list[dict[str, Any]]) -> None:
        with self._lock:
            self._held.extend(rows)
            surplus = max(0, len(self._held) - self._most)
            for _ in range(surplus):
                self._held.popleft()
        if surplus:
            self._accounts.drop(surplus)

    def _write_until_end(self) -> None:
        while not self._end.wait(_EVERY_S):
            self._write()

    def _write(self) -> None:
        with self._lock:
            rows, self._held = list(self._held), deque()
        if not rows:
            return
        try:
            append_served(self._table, pa.Table.from_pylist(rows, schema=SERVED))
        except Exception as error:
            # A full disk, or a store that is away, must not stop the answers.
            log.warning("`served` did not take %d rows; they wait: %s", len(rows), error)
            with self._lock:
                self._held.extendleft(reversed(rows))
            self._hold([])

    def close(self) -> None:
        """Writes what waits, once."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        self._write()
        if self._held:
            self._accounts.drop(len(self._held))


def _texts(columns: Mapping[str, Values], count: int) -> list[str]:
    """Each row as JSON, its columns by name; bytes by their length alone."""
    lists = {
        name: values.tolist() if isinstance(values, np.ndarray) else list(values)
        for name, values in sorted(columns.items())
    }
    return [
        json.dumps({name: _json(values[row]) for name, values in lists.items()})
        for row in range(count)
    ]


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return f"{len(value)} bytes"
    return None if isinstance(value, float) and value != value else value
