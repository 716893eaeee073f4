"""Why a rank failed: left by the rank in the run's folder, read and explained by the driver."""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import fsspec

from jobs.base import errors
from jobs.base.errors import MillstreamError
from jobs.lake.store import read_json, write_json
from jobs.train.exchange.exchange import PeersSilent


class RankFailed(MillstreamError):
    """A rank ended without a result; the message names it."""


class RankLost(RankFailed):
    """It left no reason: killed, frozen, or its host is gone. Another try may end well."""


@dataclass(frozen=True)
class Failure:
    """Why a rank failed.

    Attributes:
        kind: class of the error.
        parts: what was found and expected, and the remedy.
        trace: of an error that no user causes.
        moment: in seconds since 1970.
    """

    rank: int
    kind: str
    parts: tuple[str, str, str]
    trace: str
    moment: float

    @property
    def is_echo(self) -> bool:
        """The rank only noticed that another one was gone or silent."""
        return self.kind in ("HorovodInternalError", PeersSilent.__name__)

    def as_error(self, ranks: int) -> MillstreamError:
        found, expected, remedy = self.parts
        kind = getattr(errors, self.kind, RankFailed)
        name = f"{self.kind}: " if self.trace else ""
        text = f"rank {self.rank} of {ranks}: {name}{found}\n{self.trace}".rstrip()
        made: MillstreamError = kind(text, expected, remedy)
        return made


def leave_reason(error: BaseException, rank: int, folder: str) -> None:
    """Writes the failure where the driver looks for it; must not fail itself."""
    known = isinstance(error, MillstreamError)
    failure = Failure(
        rank=rank,
        kind=type(error).__name__,
        parts=(error.found, error.expected, error.remedy) if known else (str(error), "", ""),  # type: ignore[attr-defined]
        trace="" if known else "".join(traceback.format_exception(error)),
        moment=time.time(),
    )
    try:
        write_json(f"{folder}/failures/rank-{rank}.json", asdict(failure))
    except OSError as unwritten:
        print(f"{failure}, not written: {unwritten}", file=sys.stderr, flush=True)


def has_reasons(folder: str) -> bool:
    """Whether a rank ended with an error of its own, not of others' silence."""
    return any(not failure.is_echo for failure in _failures(folder))


def forget(folder: str) -> None:
    """Removes what the ranks of an earlier attempt left in the run's folder to be read."""
    fs, path = fsspec.core.url_to_fs(folder)
    for name in (f"{path}/failures", f"{path}/progress.json"):
        if fs.exists(name):
            fs.rm(name, recursive=True)


def explained(
    error: Exception, folder: str, ranks: int, stall_s: int, last_lines: Sequence[str]
) -> MillstreamError:
    """An error that names the rank whose failure came first and is no echo of another's.

    Args:
        error: what the launcher raised.
        folder: where the ranks left their reasons.
        last_lines: that the ranks printed.
    """
    failures = sorted(_failures(folder), key=lambda failure: (failure.is_echo, failure.moment))
    if failures and not failures[0].is_echo:
        return failures[0].as_error(ranks)
    said = "".join(f"\n    {line}" for line in last_lines)
    if failures:
        # A rank that was only late fails too, of the peers that gave up, but in another way.
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


def _failures(folder: str) -> list[Failure]:
    fs, path = fsspec.core.url_to_fs(f"{folder}/failures")
    urls = [fs.unstrip_protocol(name) for name in fs.glob(f"{path}/rank-*.json")]
    trees = [read_json(url) for url in sorted(urls)]
    return [Failure(**{**tree, "parts": tuple(tree["parts"])}) for tree in trees]
