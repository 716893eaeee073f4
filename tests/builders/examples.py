"""Real committed examples without Spark: Parquet by pyarrow, committed by the lake's own code.

`row_id` runs over the whole table, so that rows can be told apart; every other column follows from
it, so that a test can compare every value. Numbers that are missing stand where `row_id % 7 == 3`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.base.xxhash import xxhash64_of_numbers
from jobs.lake.examples import Examples
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from jobs.lake.manifest import Shard, write_manifest
from schemas.dataset import ROW_ID, Column, Dataset, Source, StoredColumn
from schemas.field import Carried, Categorical, Label, Numeric, Weight

CLICKS = Dataset(
    name="clicks",
    sources=(
        Source(
            "clicks",
            columns=(
                Column("user", "string", nullable=False),
                Column("clicked", "double"),
                Column("importance", "double"),
                Column("age", "double"),
                Column("price", "double"),
                Column("ad", "string"),
                Column("site", "string"),
                Column("city", "string"),
            ),
        ),
    ),
    rows="clicks",
    key=("user",),
    fields=(
        Label("clicked"),
        Weight("importance"),
        Numeric("age"),
        Numeric("price"),
        Categorical("ad"),
        Categorical("site"),
        Categorical("city_id", "city"),
        Carried("city"),
    ),
)

# (ds, split) -> for each shard, the row counts of its row groups.
Places = Mapping[tuple[str, str], Sequence[Sequence[int]]]


def columns_of(row_id: npt.NDArray[np.int64], dataset: Dataset = CLICKS) -> pa.Table:
    """The stored columns of some rows."""
    columns = [_column(c, n, row_id, dataset) for n, c in enumerate(dataset.stored_columns())]
    return pa.table(columns, names=[c.name for c in dataset.stored_columns()])


def _column(
    column: StoredColumn, number: int, row_id: npt.NDArray[np.int64], dataset: Dataset
) -> pa.Array:
    if column.name == ROW_ID:
        return pa.array(row_id)
    if column.name == dataset.label.name:
        return pa.array((row_id % 2).astype(np.float32))
    if column.spark_type == "float":
        values = (row_id % 1000 + 1).astype(np.float32) / number
        missing = (row_id % 7 == 3) if column.nullable else None
        return pa.array(values, mask=missing)
    if column.spark_type == "int":
        return pa.array((row_id % (10 * number) + 1).astype(np.int32))
    return pa.array([f"{column.name}{i}" for i in row_id.tolist()])


def write_examples(
    root: Path,
    places: Places,
    *,
    dataset: Dataset = CLICKS,
    run: str = "etl-test",
    first_row: int = 0,
    tables: Mapping[tuple[str, str], pa.Table] | None = None,
    token: int = 1,
) -> Examples:
    """Writes and commits examples, in one commit that replaces the places' dates.

    Args:
        root: of the lake.
        places: the row groups to write.
        first_row: row id of the first row; ids go on from shard to shard.
        tables: rows of a (ds, split) in place of those that `columns_of` makes.
    """
    table = Lake(str(root), dataset.name).table("examples")
    files, shards = [], []
    for (ds, split), groups_of_shards in sorted(places.items()):
        given, used = (tables or {}).get((ds, split)), 0
        for number, groups in enumerate(groups_of_shards):
            rows = sum(groups)
            data = (
                columns_of(np.arange(first_row, first_row + rows), dataset)
                if given is None
                else given.slice(used, rows)
            )
            path = f"run={run}/ds={ds}/split={split}/shard={number}/part-{number}.parquet"
            size = _write(Path(table.url) / path, data, groups)
            files.append(NewFile(path, {"ds": ds, "split": split}, size, tuple(groups)))
            shards.append(_shard(files[-1], number, data))
            first_row, used = first_row + rows, used + rows
    write_manifest(table.url, run, shards)
    where = {"ds": sorted({ds for ds, _ in places}), "split": sorted({s for _, s in places})}
    info = {"run": run, "stage": "etl", "dataset": dataset.name, "declaration": dataset.digest}
    version = table.replace(
        files, dataset.examples_schema(), ("ds", "split"), where, info, f"etl/{run}", token
    )
    return Examples.open(table.url, version)


def _write(path: Path, rows: pa.Table, groups: Sequence[int]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Spark writes page checksums too.
    with pq.ParquetWriter(
        path, rows.schema, compression="zstd", write_page_checksum=True
    ) as writer:
        first = 0
        for count in groups:
            # write_table splits no slice of `count` rows, and writes empty row groups too.
            writer.write_table(rows.slice(first, count), row_group_size=max(count, 1))
            first += count
    return path.stat().st_size


def _shard(file: NewFile, number: int, rows: pa.Table) -> Shard:
    ids = rows[ROW_ID].to_numpy()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows.combine_chunks())
    content = hashlib.sha256(sink.getvalue()).digest()[:8]
    return Shard(
        ds=file.partition["ds"],
        split=file.partition["split"],
        number=number,
        path=file.path,
        bytes=file.bytes,
        row_group_rows=file.row_group_rows,
        digest=int.from_bytes(content),
        row_id_sum=int(xxhash64_of_numbers(ids).sum(dtype=np.uint64)),
    )
