"""Judging: each raw row is read once, by one Spark job that leaves all that later steps need.

Its first tasks read pieces of files, judge their rows, write them into files of the run and count.
Counts, and the hashes of valid rows, go as parcels to tasks after them, which add up, find the
hashes that stand twice and write contributions. Where a parent is too large for every worker, rows
are brought together with it in between.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pyspark.sql import SparkSession

from jobs.base.workers import in_workers
from jobs.etl.fit.expect import Measures, added
from jobs.etl.judge.counts import ByDate, merged
from jobs.etl.judge.files import JudgedFile, ValidRows
from jobs.etl.judge.near import numbered
from jobs.etl.judge.parents import LargeParent, attached
from jobs.etl.judge.said import Said
from jobs.etl.judge.tasks import (
    REPEATED,
    Counted,
    JudgingWork,
    Kept,
    added_up,
    judged_parts,
    judged_pieces,
    pieces_by_key,
)
from jobs.etl.parcels import PARCELS, exchanged
from jobs.rows.judge.engine import Engine
from jobs.rows.read.pieces import Piece, shares

_TASK_BYTES = 96 << 20
# A part's hashes are sorted at once: those of about so many bytes of raw rows.
_PART_BYTES, _MOST_PARTS = 1 << 30, 4_096


@dataclass(frozen=True)
class JudgedRows:
    """The rows of some dates, judged.

    Attributes:
        counts: by date; `duplicate_key` is not among the reasons yet.
        measures: for expectations.
        refused: files of refused rows.
        repeated: number of hashes that more than one valid row has; the folder lists them.
        read: raw rows by the reader's count, those of other dates too.
    """

    valid: ValidRows
    refused: tuple[JudgedFile, ...]
    counts: ByDate
    measures: Measures
    repeated: int
    read: int
    others: int


def judge(
    spark: SparkSession,
    engine: Engine,
    pieces: Sequence[Piece],
    counted: Counted,
    url: str,
    parents: Sequence[LargeParent] = (),
    kept: Kept | None = None,
) -> JudgedRows:
    """Judges the rows of the pieces into files below a folder.

    Args:
        parents: those that the engine does not hold.
        kept: what is written of a table of valid rows, which has all that tells repeated ones
            apart; None: all their columns.

    Raises:
        DataRefused: a file cannot be read, or changed since it was listed.
        ConfigError: an expression cannot be evaluated.
    """
    cores, total = spark.sparkContext.defaultParallelism, sum(piece.weight for piece in pieces)
    work = JudgingWork(
        engine,
        tuple(map(tuple, shares(pieces, max(cores, -(-total // _TASK_BYTES))))),
        counted,
        url,
        min(_MOST_PARTS, 2 * cores * -(-total // _PART_BYTES)),
        tuple(parents),
        kept,
    )
    shared = spark.sparkContext.broadcast(work)
    numbers = numbered(spark, work.shares)
    if parents:
        tasks = max(len(work.shares), max(parent.parts for parent in parents))
        by_key = in_workers(numbers, partial(pieces_by_key, shared), PARCELS)
        joined = attached(by_key, spark.sparkContext.broadcast(engine), parents, tasks)
        sent = in_workers(joined, partial(judged_parts, shared), PARCELS)
    else:
        sent = in_workers(numbers, partial(judged_pieces, shared), PARCELS)
    tasks = min(2 * cores if work.parts > cores else cores, work.parts)
    found = in_workers(exchanged(sent, tasks), partial(added_up, shared), "said string").collect()
    trees = [json.loads(row[0]) for row in found]
    repeated = sum(tree[REPEATED] for tree in trees if REPEATED in tree)
    said = [Said.parse(tree) for tree in trees if REPEATED not in tree]
    return _judged(ValidRows(spark, url, _files(said, "valid")), said, repeated)


def _judged(valid: ValidRows, said: Sequence[Said], repeated: int) -> JudgedRows:
    counts = merged(one.counts for one in said)
    read, others = sum(one.read for one in said), sum(one.others for one in said)
    judged = sum(one.raw for one in counts.values())
    if read != judged + others:
        raise AssertionError(f"{read} rows were read, {judged} judged, {others} of other dates")
    measures = added(one.measures for one in said)
    return JudgedRows(valid, _files(said, "refused"), counts, measures, repeated, read, others)


def _files(said: Sequence[Said], name: str) -> tuple[JudgedFile, ...]:
    found = (getattr(one, name) for one in said)
    return tuple(sorted(file for file in found if file is not None and file.rows))
