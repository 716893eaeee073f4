"""Counts once more what is left of valid rows, where repetitions of keys were found among them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import pyarrow as pa

from jobs.base.workers import in_workers
from jobs.etl.fit.counting import Counter
from jobs.etl.fit.expect import Measures, added, measured
from jobs.etl.judge.judging import JudgedRows
from jobs.etl.judge.said import parcel
from jobs.etl.judge.tasks import Counted
from jobs.etl.parcels import PARCELS, exchanged, received
from jobs.rows.base.names import DS, SPLIT
from schemas.expect import Nulls, Share


def recount(rows: JudgedRows, counted: Counted) -> JudgedRows:
    """Counts the valid rows once more, without those that duplicates lost."""
    columns = list(dict.fromkeys([DS, SPLIT, *_counted_columns(counted)]))
    sent = rows.valid.in_arrow(columns, partial(_counted_again, counted), PARCELS)
    tasks = max(1, min(counted.merging.parts if counted.merging else 1, 64))
    merged = partial(_merged_again, counted)
    found = in_workers(exchanged(sent, tasks), merged, "said string").collect()
    return replace(rows, measures=added(json.loads(row[0]) for row in found))


def _counted_columns(counted: Counted) -> list[str]:
    names = [e.field for e in counted.expectations if isinstance(e, Nulls)]
    if any(isinstance(e, Share) for e in counted.expectations):
        names += counted.fields
    return [*names, *(counted.merging.groups.columns if counted.merging is not None else [])]


def _counted_again(counted: Counted, tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    assert counted.merging is not None
    counter, measures = Counter(counted.merging.groups), [Measures()]
    for table in tables:
        counter.add(table)
        measures.append(measured(table, counted.expectations))
    yield from counted.merging.sent(counter)
    yield parcel(counted.merging.parts, json.dumps(added(measures)).encode())


def _merged_again(counted: Counted, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    assert counted.merging is not None
    for part, contents in received(batches):
        if part < counted.merging.parts:
            counted.merging.written(part, contents, counted.contributions_url)
        else:
            said = [content.to_pybytes().decode() for content in contents]
            yield pa.RecordBatch.from_arrays([pa.array(said, pa.string())], ["said"])
