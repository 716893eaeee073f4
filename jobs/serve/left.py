"""The counts that a replica left when it was killed: its ledger rows are written by another.

Prometheus' files, which are mapped, outlive their process. What they hold and the ledger does not
is what was counted since the replica's last row; requests that were under way count as failed.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, read_ledger, record

log = logging.getLogger("millstream.serve")

STAGE = "serve"
RECEIVED, ANSWERED, SHED, FAILED = "received", "answered", "shed", "failed"
OUTCOMES = (ANSWERED, "refused", SHED, FAILED)
REQUESTS, ROWS = "millstream_serve_requests", "millstream_serve_rows"

# Of Prometheus, by the number of a process.
_COUNTS = "counter_{}.db"
_ALIVE, _DEAD, _TAKEN = "run", "dead", "taken"
_COUNTERS = {f"{REQUESTS}_total": "", f"{ROWS}_total": "rows_"}


def begin(folder: Path, run: str, replica: int) -> None:
    """Notes whose counts this process has.

    Args:
        folder: of this server's replicas, with Prometheus' files.

    Raises:
        FileExistsError: a dead replica had this process's number, and its counts would go on.
    """
    pid = os.getpid()
    if (folder / _COUNTS.format(pid)).exists():
        raise FileExistsError(f"a replica before had the process number {pid}; take another")
    file = folder / f"{_ALIVE}_{pid}"
    # Whole or not at all, as the process may be killed at any moment.
    new = folder / f"new_{pid}"
    new.write_text(json.dumps([run, replica]), encoding="utf-8")
    new.rename(file)


def end(folder: Path) -> None:
    """Notes that this process left nothing."""
    (folder / f"{_ALIVE}_{os.getpid()}").unlink(missing_ok=True)


def note_death(folder: Path, pid: int) -> None:
    """Notes that a process has ended, whatever it left."""
    with suppress(FileNotFoundError):
        (folder / f"{_ALIVE}_{pid}").rename(folder / f"{_DEAD}_{pid}")


def take_back(folder: Path) -> None:
    """Leaves what a replica had taken, and died before it was written, to whoever comes."""
    for file in folder.glob(f"{_TAKEN}_*"):
        file.rename(folder / file.name.replace(_TAKEN, _DEAD, 1))


def account(lake: Lake, folder: Path) -> None:
    """Writes what dead processes left to the ledger. Where it is not taken, it stays."""
    for file in sorted(folder.glob(f"{_DEAD}_*")):
        pid = int(file.name.removeprefix(f"{_DEAD}_"))
        taken = folder / f"{_TAKEN}_{pid}"
        # Of several replicas one has it.
        with suppress(FileNotFoundError):
            file.rename(taken)
            try:
                run, replica = json.loads(taken.read_text(encoding="utf-8"))
                record(lake, list(_rows(lake, folder / _COUNTS.format(pid), run, replica)))
            except Exception as error:
                log.warning("the ledger did not take what a replica left; it is kept: %s", error)
                taken.rename(file)
                continue
            taken.unlink()


def _rows(lake: Lake, counters: Path, run: str, replica: int) -> Iterator[LedgerRow]:
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for row in read_ledger(lake, run=run):
        known[row["versions"]["model"]].update(row["counts"])
    for version, counts in _counted(counters).items():
        lost = counts[RECEIVED] - sum(counts[outcome] for outcome in OUTCOMES)
        counts[FAILED] += lost
        left = counts - known[version]
        if left:
            yield LedgerRow(
                run=run,
                stage=STAGE,
                ds=datetime.now(UTC).date().isoformat(),
                status="done",
                counts=dict(left),
                versions={"model": version, "replica": str(replica)},
                message=f"written for it after its end; {lost} requests were under way",
            )


def _counted(file: Path) -> dict[str, Counter[str]]:
    """All counts of a process by model version."""
    # Late: its first import decides where counts go, by a variable that the supervisor sets.
    from prometheus_client.mmap_dict import MmapedDict

    found: dict[str, Counter[str]] = defaultdict(Counter)
    if not file.exists():
        return found
    for key, value, *_ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        _, name, labels, _ = json.loads(key)
        if name in _COUNTERS:
            found[labels["version"]][_COUNTERS[name] + labels["outcome"]] += int(value)
    return found
