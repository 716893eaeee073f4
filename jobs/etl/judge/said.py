"""What a task says of itself: counts, files and refusals, on their way to the driver."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.base.errors import ConfigError, DataRefused, MillstreamError, NoRawFile
from jobs.etl.fit.expect import Measures
from jobs.etl.judge.counts import ByDate, from_json, to_json
from jobs.etl.judge.files import JudgedFile


@dataclass
class Said:
    """Of one task.

    Attributes:
        read: raw rows by the reader's count.
        others: rows of dates that were not asked for.
        error: a refusal: its class and parts; the rest then counts for nothing.
    """

    counts: ByDate = field(default_factory=dict)
    measures: Measures = field(default_factory=dict)
    valid: JudgedFile | None = None
    refused: JudgedFile | None = None
    read: int = 0
    others: int = 0
    error: list[str] | None = None

    @staticmethod
    def of(error: MillstreamError) -> Said:
        """An exception of a task would come to the user as a trace of Java's."""
        return Said(error=[type(error).__name__, error.found, error.expected, error.remedy])

    def json(self) -> bytes:
        parts: dict[str, Any] = {**vars(self), "counts": to_json(self.counts)}
        for name in ("valid", "refused"):
            file: JudgedFile | None = parts[name]
            parts[name] = None if file is None else list(vars(file).values())
        return json.dumps(parts).encode()

    @staticmethod
    def parse(tree: dict[str, Any]) -> Said:
        """
        Raises:
            MillstreamError: the refusal that the task met.
        """
        if tree["error"]:
            raise refusal_of(*tree["error"])
        files = {name: _file(tree[name]) for name in ("valid", "refused")}
        return Said(**{**tree, "counts": from_json(tree["counts"]), **files})


def _file(parts: Sequence[Any] | None) -> JudgedFile | None:
    return None if parts is None else JudgedFile(parts[0], parts[1], tuple(parts[2]), parts[3])


def refusal_of(kind: str, found: str, expected: str, remedy: str) -> MillstreamError:
    """A refusal that a task met."""
    kinds: dict[str, type[MillstreamError]] = {
        one.__name__: one for one in (ConfigError, DataRefused, NoRawFile)
    }
    return kinds.get(kind, DataRefused)(found, expected, remedy)


def parcel(part: int, content: bytes) -> pa.RecordBatch:
    """A parcel of something else than rows."""
    arrays = [pa.array([part], pa.int32()), pa.array([content], pa.binary())]
    return pa.RecordBatch.from_arrays(arrays, ["part", "content"])
