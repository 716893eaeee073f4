"""Why a rank failed. The rank writes it to the run's folder, and the driver makes it an error."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NoReturn

import fsspec

from jobs.base import errors
from jobs.base.bounded import attempt
from jobs.base.errors import MillstreamError
from jobs.stores.files import read_json, write_json
from jobs.train.exchange.exchange import PeersSilent

# Longest writing of a reason. The other ranks wait for this one to end.
LEAVE_S = 20.0
log = logging.getLogger("millstream.train")


class RankFailed(MillstreamError):
    """A rank ended without a result; the message has its number."""


class RankLost(RankFailed):
    """A rank wrote no reason: it was killed or frozen, or its host is gone. A retry may succeed."""


@dataclass(frozen=True)
class Failure:
    """Why a rank failed, as it is written to a file.

    Attributes:
        rank: its number.
        kind: name of the error's class.
        parts: of a `MillstreamError` found, expected and remedy; of others the message and "", "".
        trace: the stack trace of an error that is no `MillstreamError`, else "".
        moment: when it failed, in seconds since 1970.
    """

    rank: int
    kind: str
    parts: tuple[str, str, str]
    trace: str
    moment: float

    @property
    def is_echo(self) -> bool:
        """Whether the rank failed only because another one was gone or silent."""
        return self.kind in ("HorovodInternalError", PeersSilent.__name__)

    def as_error(self, ranks: int) -> MillstreamError:
        """An error of the same class, where it is one of `jobs.base.errors`, with the rank."""
        found, expected, remedy = self.parts
        kind = getattr(errors, self.kind, RankFailed)
        name = f"{self.kind}: " if self.trace else ""
        text = f"rank {self.rank} of {ranks}: {name}{found}\n{self.trace}".rstrip()
        made: MillstreamError = kind(text, expected, remedy)
        return made


def leave_reason(error: BaseException, rank: int, folder: str) -> None:
    """Writes why this rank failed to the run's folder. Prints it where that is not possible.

    This raises nothing and ends within `LEAVE_S` seconds, whatever the store does.
    """
    known = isinstance(error, MillstreamError)
    failure = Failure(
        rank=rank,
        kind=type(error).__name__,
        parts=(error.found, error.expected, error.remedy) if known else (str(error), "", ""),  # type: ignore[attr-defined]
        trace="" if known else "".join(traceback.format_exception(error)),
        moment=time.time(),
    )
    url = f"{folder}/failures/rank-{rank}.json"
    if unwritten := attempt(partial(write_json, url, asdict(failure)), LEAVE_S):
        print(f"{failure}, not written: {unwritten!r}", file=sys.stderr, flush=True)


def end_rank(error: BaseException, rank: int, folder: str) -> NoReturn:
    """Ends this rank's process with exit code 1, after an attempt to leave the reason."""
    try:
        leave_reason(error, rank, folder)
    finally:
        # hvd.shutdown() would wait for peers that are in an exchange. The launcher ends them when
        # it sees the exit code.
        os._exit(1)


def has_reasons(folder: str) -> bool:
    """Whether a rank failed for another reason than that its peers were gone or silent."""
    return any(not failure.is_echo for failure in _known_failures(folder))


def forget(folder: str) -> None:
    """Removes the failures and the progress of an earlier attempt from the run's folder."""
    fs, path = fsspec.core.url_to_fs(folder)
    for name in (f"{path}/failures", f"{path}/progress.json"):
        if fs.exists(name):
            fs.rm(name, recursive=True)


def explained(
    error: Exception, folder: str, ranks: int, stall_s: int, last_lines: Sequence[str]
) -> MillstreamError:
    """Makes the error that ends the driver, naming the rank that failed first and caused the rest.

    Args:
        error: what Horovod's launcher raised.
        folder: URL of the run's folder.
        ranks: their number.
        stall_s: `train.stall_s`, for the message.
        last_lines: the last lines that the ranks printed.
    """
    failures = sorted(
        _known_failures(folder), key=lambda failure: (failure.is_echo, failure.moment)
    )
    if failures and not failures[0].is_echo:
        return failures[0].as_error(ranks)
    said = "".join(f"\n    {line}" for line in last_lines)
    if failures:
        # Ranks that waited in vain failed alike. One that was only late failed after them, and in
        # another way, because they were gone.
        echo = failures[0].kind
        silent = set(range(ranks)) - {failure.rank for failure in failures if failure.kind == echo}
        names = ", ".join(str(rank) for rank in sorted(silent)) or "unknown"
        return RankLost(
            f"rank {names} of {ranks} was lost: killed, frozen, or longer than {stall_s} s away "
            f"from an exchange (rank {failures[0].rank} waited for it){said}",
            remedy="look at that rank's host, its memory and its data; train.stall_s is the limit",
        )
    exited = re.search(r"Process name: (\S+)\s+Exit code: (-?\d+)", str(error))
    if exited:
        return RankLost(
            f"rank {exited[1]} of {ranks} ended with exit code {exited[2]}{said}",
            remedy="137 is a kill, mostly for memory: lower train.workers or train.batch_rows",
        )
    if "Timed out waiting for" in str(error):
        return RankFailed(
            f"{ranks} ranks did not start in time{said}",
            remedy="give Spark more free slots, or raise train.start_timeout_s",
        )
    return RankLost(f"the ranks could not be run: {error}{said}")


def _known_failures(folder: str) -> list[Failure]:
    """The failures that the store tells of; one that is silent must not hide the error at hand."""
    found: list[Failure] = []
    if error := attempt(lambda: found.extend(_failures(folder)), LEAVE_S):
        log.warning("why ranks failed could not be read from %s: %r", folder, error)
        return []
    return found


def _failures(folder: str) -> list[Failure]:
    fs, path = fsspec.core.url_to_fs(f"{folder}/failures")
    urls = [fs.unstrip_protocol(name) for name in fs.glob(f"{path}/rank-*.json")]
    trees = [read_json(url) for url in sorted(urls)]
    return [Failure(**{**tree, "parts": tuple(tree["parts"])}) for tree in trees]
