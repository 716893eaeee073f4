"""What a replica answered: received = answered + refused + shed + failed, once it has drained.

Counts go to Prometheus, in files that the replicas of a host share, and as rows to the ledger. What
the ledger must have of a replica that is killed is in the files at once; times and sizes are added
once a second, since each write asks the system for the process's number.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, record
from jobs.serve.left import ANSWERED, FAILED, RECEIVED, REQUESTS, ROWS, SHED, STAGE
from jobs.serve.request.errors import RequestError

log = logging.getLogger("millstream.serve")

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class _Held:
    """A histogram whose values are counted here until Prometheus is told of all at once."""

    def __init__(
        self, name: str, what: str, registry: CollectorRegistry, bounds: Sequence[float]
    ) -> None:
        self._histogram = Histogram(name, what, registry=registry, buckets=bounds)
        self._bounds, self._counts = bounds, [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def tell(self) -> None:
        # `observe`, the public call, takes one value, and thousands of them would hold up requests.
        for bucket, count in zip(self._histogram._buckets, self._counts, strict=True):
            if count:
                bucket.inc(count)
        self._histogram._sum.inc(self._sum)
        self._counts, self._sum = [0] * len(self._counts), 0.0


class Accounts:
    """The counts of one replica.

    Args:
        run: name of the replica's run in the ledger.
        shared: whether other replicas' files count too, when Prometheus asks.
    """

    def __init__(self, lake: Lake, run: str, replica: int, shared: bool) -> None:
        self._lake, self._run, self._replica = lake, run, replica
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._since = time.monotonic()
        own = CollectorRegistry()
        self._registry = own
        if shared:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._requests = Counter(REQUESTS, "Requests", ["outcome", "version"], registry=own)
        self._scored = Counter(
            ROWS, "Rows of answered requests", ["outcome", "version"], registry=own
        )
        self._latency = _Held("millstream_serve_seconds", "From request to answer", own, _SECONDS)
        self._queued = _Held("millstream_serve_queue_seconds", "From queue to batch", own, _SECONDS)
        self._batches = _Held("millstream_serve_batch_rows", "Rows of a batch", own, _ROWS)
        self._waiting = Gauge(
            "millstream_serve_waiting_rows",
            "Rows in the queue",
            registry=own,
            multiprocess_mode="livesum",
        )
        self._dropped = Counter(
            "millstream_serve_sample_dropped", "Rows not kept in `served`", registry=own
        )
        self._children: dict[tuple[Counter, str, str], Counter] = {}
        self._rows_waiting = 0

    @contextmanager
    def request(self, version: str) -> Iterator[None]:
        """A request from its arrival to its end; what it raises says its outcome."""
        started = time.monotonic()
        self._count(RECEIVED, version)
        outcome = FAILED
        try:
            yield
            outcome = ANSWERED
        except RequestError as error:
            outcome = error.outcome
            raise
        except asyncio.CancelledError:
            # By gRPC, whose deadline passed or whose client went away, or at the end of a drain.
            outcome = SHED
            raise
        finally:
            self._count(outcome, version)
            self._latency.observe(time.monotonic() - started)

    def rows(self, version: str, scored: int, refused: int) -> None:
        """Rows of an answered request."""
        for outcome, count in (("scored", scored), ("refused", refused)):
            if count:
                self._child(self._scored, outcome, version).inc(count)
        with self._lock:
            self._counts[version]["rows_scored"] += scored
            self._counts[version]["rows_refused"] += refused

    def batch(self, rows: int, waited_s: Sequence[float]) -> None:
        """A batch that was computed, and how long each of its requests waited before."""
        self._batches.observe(rows)
        for seconds in waited_s:
            self._queued.observe(seconds)

    def queue(self, rows: int) -> None:
        self._rows_waiting = rows

    def tell(self) -> None:
        """Gives Prometheus what was observed since the last time."""
        for held in (self._latency, self._queued, self._batches):
            held.tell()
        self._waiting.set(self._rows_waiting)

    def drop(self, rows: int) -> None:
        self._dropped.inc(rows)

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        self.tell()
        return generate_latest(self._registry)

    def _count(self, name: str, version: str) -> None:
        self._child(self._requests, name, version).inc()
        with self._lock:
            self._counts[version][name] += 1

    def _child(self, counter: Counter, outcome: str, version: str) -> Counter:
        key = (counter, outcome, version)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = counter.labels(outcome, version)
        return found

    # The ledger

    def write(self) -> bool:
        """Adds what was counted since the last time to the ledger, a row a version.

        Where the store does not take it, the counts stay for the next time. Returns whether they
        are written.
        """
        # The last one waits for one that may put its counts back.
        with self._writing:
            return self._write()

    def _write(self) -> bool:
        with self._lock:
            counts, self._counts = self._counts, defaultdict(lambda: defaultdict(int))
            since, self._since = self._since, time.monotonic()
        day = datetime.now(UTC).date().isoformat()
        rows = [
            LedgerRow(
                run=self._run,
                stage=STAGE,
                ds=day,
                status="done",
                counts=dict(own),
                versions={"model": version, "replica": str(self._replica)},
                seconds=self._since - since,
            )
            for version, own in counts.items()
        ]
        try:
            record(self._lake, rows)
        except Exception as error:
            log.warning("the ledger did not take the counts; they are kept: %s", error)
            with self._lock:
                for version, own in counts.items():
                    for name, count in own.items():
                        self._counts[version][name] += count
                self._since = since
            return False
        return True
