"""Parcels: rows go from Python workers to Python workers as few large binaries.

What Spark's shuffle costs is mostly one for each row and each column that it moves and sorts. Here
it moves *parcels*: the rows of a task that belong to one part, as one batch in Arrow's format.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.base.workers import in_workers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PART = "part"
CONTENT = "content"
PARCELS = f"{PART} int, {CONTENT} binary"
# Rows are gathered so far, to make few parcels.
_GATHERED_BYTES = 128 << 20
# The JVM holds a few parcels of each task, some copies of each.
_PARCEL_BYTES = 16 << 20
# So much of a part is held in memory, and the rest of it in a file.
_HELD_BYTES = 512 << 20

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]


def parcels(rows: pa.Table, parts: Numbers, order: Ints | None = None) -> Iterator[pa.RecordBatch]:
    """A parcel, or several, for each part that has rows.

    Args:
        parts: of each row [n], n > 0.
        order: in which a part's rows come; None: as they are.
    """
    # Numbers of two bytes are sorted by counting them.
    keys = parts.astype(np.uint16) if parts.max() < 1 << 16 else parts
    if order is None:
        order = np.argsort(keys, kind="stable")
    else:
        order = order[np.argsort(keys[order], kind="stable")]
    (batch,) = rows.combine_chunks().take(order).to_batches()
    numbers: list[int] = []
    contents: list[pa.Buffer] = []
    held = 0
    for part, start, size in _stretches(parts[order], _PARCEL_BYTES * len(parts) // batch.nbytes):
        numbers.append(part)
        contents.append(batch.slice(start, size).serialize())
        held += contents[-1].size
        if held >= _PARCEL_BYTES:
            yield _batch(numbers, contents)
            numbers, contents, held = [], [], 0
    if contents:
        yield _batch(numbers, contents)


def _stretches(parts: Numbers, most: int) -> Iterator[tuple[int, int, int]]:
    """Part, first row and number of rows, about `most`, of each stretch of rows of one part."""
    found, starts = np.unique(parts, return_index=True)
    sizes = np.diff(starts, append=len(parts))
    for part, start, size in zip(found.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        for first in range(0, size, max(1, most)):
            yield part, start + first, min(max(1, most), size - first)


def _batch(numbers: Sequence[int], contents: Sequence[pa.Buffer]) -> pa.RecordBatch:
    ends = np.cumsum([0, *[content.size for content in contents]]).astype(np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(contents))]
    binaries = pa.Array.from_buffers(pa.binary(), len(contents), buffers)
    return pa.RecordBatch.from_arrays([pa.array(numbers, pa.int32()), binaries], [PART, CONTENT])


def stream_parcels(rows: pa.Table, parts: Numbers) -> Iterator[pa.RecordBatch]:
    """The same, each with its schema, for rows whose tables are not all alike.

    Args:
        parts: of each row [n], n > 0.
    """
    order = np.argsort(parts, kind="stable")
    sorted_rows, most = (
        rows.take(pa.array(order)),
        _PARCEL_BYTES * len(parts) // max(1, rows.nbytes),
    )
    for part, start, size in _stretches(parts[order], most):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(sorted_rows.slice(start, size))
        yield _batch([part], [sink.getvalue()])


def streamed(contents: Iterable[pa.Buffer]) -> pa.Table:
    """The rows in such parcels."""
    return pa.concat_tables([pa.ipc.open_stream(content).read_all() for content in contents])


def gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables' rows in fewer and larger ones."""
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        held.append(table)
        size += table.nbytes
        if size >= _GATHERED_BYTES:
            yield pa.concat_tables(held)
            held, size = [], 0
    if held:
        yield pa.concat_tables(held)


def exchanged(sent: DataFrame, tasks: int) -> DataFrame:
    """The parcels of part p at task p mod `tasks`, each part's together, parts ascending."""
    # Only here: the server encodes rows without Spark.
    from pyspark.sql import functions as F

    task = F.pmod(F.col(PART), F.lit(tasks))
    return sent.repartitionById(tasks, task).sortWithinPartitions(PART)


def small_exchange(spark: SparkSession) -> int:
    """Sends a parcel from each of as many tasks as there are cores; returns how many came."""
    cores = spark.sparkContext.defaultParallelism
    sent = in_workers(spark.range(0, cores, 1, cores), _numbered, PARCELS)
    found = in_workers(exchanged(sent, cores), _counted, "parcels long").collect()
    return sum(row["parcels"] for row in found)


def _numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for number in (n for batch in batches for n in batch.column(0).to_pylist()):
        yield _batch([number], [pa.py_buffer(b"a parcel")])


def _counted(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _, contents in received(batches):
        yield pa.RecordBatch.from_arrays([pa.array([len(contents)])], ["parcels"])


def received(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, list[pa.Buffer]]]:
    """Each part with its parcels, in no order."""
    rows = (
        (part, content.as_buffer())
        for batch in batches
        for part, content in zip(batch.column(0).to_pylist(), batch.column(1), strict=True)
    )
    for part, own in groupby(rows, key=itemgetter(0)):
        yield part, _held(own)


def opened(contents: Iterable[pa.Buffer], schema: pa.Schema) -> list[pa.RecordBatch]:
    """The rows in parcels."""
    return [pa.ipc.read_record_batch(content, schema) for content in contents]


def _held(parcels: Iterable[tuple[int, pa.Buffer]]) -> list[pa.Buffer]:
    """The parcels, those of large parts mapped from a file that has no name any more."""
    held: list[pa.Buffer] = []
    size = 0
    with tempfile.NamedTemporaryFile(dir=local_folder()) as file:
        spilled = []
        for _, content in parcels:
            size += content.size
            if size <= _HELD_BYTES:
                held.append(content)
            else:
                file.write(content)
                spilled.append(content.size)
        if spilled:
            file.flush()
            mapped = pa.memory_map(file.name)
            held += [mapped.read_buffer(length) for length in spilled]
    return held


def local_folder() -> str | None:
    """Where a Python worker may put files; None: the system's temporary folder."""
    return os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or None
