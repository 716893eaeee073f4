"""What others' tools watch a training by: TensorBoard's curves, Prometheus' text file, a warning.

Rank 0 alone writes; nothing here may stop a training, so a file that cannot be written is said
once and given up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.train.step.history import EpochResult, Position
from jobs.train.step.loop import Commits
from jobs.train.step.rowledger import RowLedger

log = logging.getLogger("millstream.train")
SECONDS_BETWEEN_GAUGES = 10.0
MOST_WAITING = 0.1
# Each epoch waits for its first rows; one of a second or less has nothing to gain.
SHORTEST_WAIT_S = 1.0


class Watch:
    """Passes positions on to `commits`, and shows them.

    Args:
        run: its name, a label of the gauges.
        epoch_rows, step_rows: rows of an epoch, and of a step.
        curves: folder for TensorBoard; no curves when None.
        gauges: file for Prometheus' node exporter (its textfile collector); none when None.
    """

    def __init__(
        self,
        commits: Commits,
        *,
        run: str,
        epoch_rows: int,
        step_rows: int,
        curves: str | None,
        gauges: str | None,
    ) -> None:
        self._commits, self._run = commits, run
        self._epoch_rows, self._step_rows = epoch_rows, step_rows
        self._gauges = gauges
        self._written_s = time.monotonic()
        self._before = Position()
        self._curves: _Curves | None = None
        with self._unless_broken():
            self._curves = _Curves(curves) if curves else None

    def after_step(self, position: Position, ledger: RowLedger) -> None:
        self._commits.after_step(position, ledger)
        if time.monotonic() - self._written_s > SECONDS_BETWEEN_GAUGES:
            self._show(position)

    def after_epoch(self, position: Position) -> None:
        self._commits.after_epoch(position)
        result = position.history.epochs[-1]
        share = waiting_share(result)
        if share > MOST_WAITING and result.wait_s >= SHORTEST_WAIT_S:
            log.warning(
                "epoch %d waited for data for %.0f %% of its time; more stream.decode_threads or "
                "stream.memory_mb, or fewer ranks, may help",
                *(result.epoch + 1, 100 * share),
            )
        row = position.epoch * self._epoch_rows
        self._write(values_of_epoch(result, self._step_rows), row, position)

    def _show(self, position: Position) -> None:
        since = _since(self._before, position)
        values = {
            "train_loss": since.loss / since.weight if since.weight else 0.0,
            "rows_per_s": since.row / max(1e-9, since.seconds),
            **_split(since, since.row, self._step_rows),
        }
        self._before = position
        self._write(values, position.epoch * self._epoch_rows + position.row, position)

    def _write(self, values: dict[str, float], row: int, position: Position) -> None:
        self._written_s = time.monotonic()
        with self._unless_broken():
            if self._curves is not None:
                self._curves.add(values, row)
            if self._gauges is not None:
                write_gauges(self._gauges, self._run, {**values, "rows": row})

    @contextmanager
    def _unless_broken(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log.warning("curves and gauges are given up: %s", error)
            self._curves = self._gauges = None

    def close(self) -> None:
        with self._unless_broken():
            if self._curves is not None:
                self._curves.close()


class _Curves:
    def __init__(self, folder: str) -> None:
        # Late: the import costs seconds.
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder)

    def add(self, values: dict[str, float], row: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, row)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def waiting_share(result: EpochResult) -> float:
    """Of an epoch's time, what it waited for data."""
    return result.wait_s / max(1e-9, result.seconds)


def values_of_epoch(result: EpochResult, step_rows: int) -> dict[str, float]:
    """What is shown after an epoch, by name; times are milliseconds a step."""
    values = {"train_loss": result.train_loss, "rows_per_s": result.rows / result.seconds}
    for name in ("val_loss", "val_auc"):
        measured = getattr(result, name)
        if measured is not None:
            values[name] = measured
    return values | _split(result, result.rows, step_rows)


def _split(times: Position | EpochResult, rows: int, step_rows: int) -> dict[str, float]:
    steps = max(1, -(-rows // step_rows))
    return {
        "wait_ms_per_step": 1000 * times.wait_s / steps,
        "compute_ms_per_step": 1000 * times.compute_s / steps,
        "exchange_ms_per_step": 1000 * times.exchange_s / steps,
        "bytes_sent_per_step": times.bytes_sent / steps,
    }


def _since(before: Position, now: Position) -> Position:
    """What was added up between two positions; all of it in a new epoch."""
    if before.epoch != now.epoch or before.row > now.row:
        return now
    return Position(
        epoch=now.epoch,
        row=now.row - before.row,
        loss=now.loss - before.loss,
        weight=now.weight - before.weight,
        seconds=now.seconds - before.seconds,
        wait_s=now.wait_s - before.wait_s,
        compute_s=now.compute_s - before.compute_s,
        exchange_s=now.exchange_s - before.exchange_s,
        bytes_sent=now.bytes_sent - before.bytes_sent,
    )


def write_gauges(path: str, run: str, values: dict[str, float]) -> None:
    """Replaces the file whole, so that a scrape sees all of it or the one before."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    for name, value in values.items():
        gauge = Gauge(
            f"millstream_train_{name}", name.replace("_", " "), ["run"], registry=registry
        )
        gauge.labels(run).set(value)
    write_to_textfile(path, registry)
