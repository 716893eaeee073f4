"""Shards: one digest of the rows as a set, one of the rows in order."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.etl.write import shards
from jobs.etl.write.digests import Digests, read_back
from jobs.etl.write.layout import ShardLayout, sent_examples
from jobs.etl.write.shards import stage_shards
from jobs.lake.manifest import UINT64
from jobs.lake.tables import Table
from jobs.rows.base.groups import cut_rows
from jobs.settings.etl import EtlSettings
from schemas.stored import arrow_schema
from tests.builders.examples import CLICKS, columns_of

DAY = "2026-01-01"
SCHEMA = arrow_schema(CLICKS.stored_columns())
SMALL = EtlSettings(sources={}, row_group_rows=16)


def digests_of(folder: Path, rows: pa.Table, row_group_rows: int = 1_000) -> Digests:
    name = f"{hashlib.sha256(str(rows.to_pylist()).encode()).hexdigest()}-{row_group_rows}.parquet"
    pq.write_table(rows, folder / name, row_group_size=row_group_rows, write_page_checksum=True)
    size, groups, found = read_back(str(folder / name), SCHEMA)
    assert size == (folder / name).stat().st_size
    assert sum(groups) == found.rows == rows.num_rows
    return found


def test_the_order_of_rows_changes_one_digest_and_a_value_both(tmp_path: Path) -> None:
    rows = columns_of(np.arange(50))
    plain = digests_of(tmp_path, rows)
    turned = digests_of(tmp_path, rows.take(list(range(49, -1, -1))))
    other = digests_of(tmp_path, columns_of(np.arange(1, 51)))
    assert digests_of(tmp_path, rows, 7) == plain
    assert turned.digest == plain.digest and turned.order_digest != plain.order_digest
    assert other.digest != plain.digest and other.order_digest != plain.order_digest


def test_the_digests_are_those_that_spark_gives(tmp_path: Path, spark: SparkSession) -> None:
    """Examples of an older release have theirs from Spark."""
    rows = columns_of(np.arange(97))
    found = digests_of(tmp_path, rows, 10)
    frame = spark.createDataFrame(rows.to_pandas().replace({float("nan"): None}))
    typed = frame.select(*[F.col(c.name).cast(c.spark_type) for c in CLICKS.stored_columns()])
    nulls = [F.isnull(c.name) for c in CLICKS.stored_columns() if c.nullable]
    hashes = typed.select(F.xxhash64(*typed.columns, *nulls).alias("hash"), F.xxhash64("row_id"))
    collected = hashes.collect()
    assert found.digest == sum(row[0] for row in collected) % UINT64
    assert found.row_id_sum == sum(row[1] for row in collected) % UINT64


def test_a_flipped_byte_is_seen_by_the_pages_checksum(tmp_path: Path) -> None:
    rows = columns_of(np.arange(5_000))
    pq.write_table(rows, tmp_path / "x.parquet", write_page_checksum=True, use_dictionary=False)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt"):
        read_back(str(tmp_path / "x.parquet"), SCHEMA)


def test_cores_and_parcels_change_no_shard(tmp_path: Path, spark: SparkSession) -> None:
    rows = columns_of(np.arange(1_000))
    days = [f"2026-01-0{1 + n % 2}" for n in range(1_000)]
    splits = ["train" if n % 3 else "test" for n in range(1_000)]
    rows = rows.append_column("ds", pa.array(days)).append_column("split", pa.array(splits))
    counts = {(ds, split): 250 for ds in set(days) for split in ("train", "test")}
    layout = ShardLayout.of(dict(sorted(counts.items())), 60)
    found = []
    for tasks, order in ((1, range(1_000)), (5, range(999, -1, -1))):
        table = Table(str(tmp_path / str(tasks)))
        frame = spark.createDataFrame(rows.take(list(order)).to_pandas()).repartition(tasks)
        typed = [F.col(c.name).cast(c.spark_type) for c in CLICKS.stored_columns()]
        sent = sent_examples(frame.select(*typed, "ds", "split"), CLICKS, layout)
        shards_ = stage_shards(sent, CLICKS, table, "made", layout, SMALL)
        assert sum(shard.rows for shard in shards_) == 1_000
        contents = [Path(table.url, shard.path).read_bytes() for shard in shards_]
        found.append((shards_, contents))
    assert found[0] == found[1]


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_examples_are_compressed_as_asked(
    compression: str, tmp_path: Path, spark: SparkSession
) -> None:
    typed = [F.col(c.name).cast(c.spark_type) for c in CLICKS.stored_columns()]
    frame = spark.createDataFrame(columns_of(np.arange(100)).to_pandas()).select(
        *typed, F.lit("2026-01-01").alias("ds"), F.lit("train").alias("split")
    )
    layout, table = ShardLayout.of({("2026-01-01", "train"): 100}, 100), Table(str(tmp_path))
    sent = sent_examples(frame, CLICKS, layout)
    settings = SMALL.model_copy(update={"compression": compression})

    (shard,) = stage_shards(sent, CLICKS, table, "made", layout, settings)

    footer = pq.read_metadata(Path(table.url, shard.path))
    assert footer.row_group(0).column(0).compression == compression.upper()


def test_rows_come_in_order_from_parcels_in_any_order() -> None:
    rng = np.random.default_rng(5)
    ids = rng.integers(-(2**63), 2**63 - 1, 1000)
    # Two keys of one hash: their order is that of the keys, wherever they come from.
    ids[:7] = ids[7:14]
    table = pa.table({"row_id": ids, "key": [f"{n:04}" for n in rng.permutation(1000)]})
    expected = table.sort_by([("row_id", "ascending"), ("key", "ascending")])
    for count in (1, 2, 9):
        cuts = np.sort(rng.integers(0, 1000, count - 1))
        parts = [table.take(part) for part in np.split(rng.permutation(1000), cuts)]
        batches = [
            b for part in parts for b in part.sort_by("row_id").combine_chunks().to_batches()
        ]
        found = list(shards.ordered_tables(batches, ("key",), 64))
        assert [group.num_rows for group in found] == [64] * 15 + [40]
        assert pa.concat_tables(found).equals(expected)


def test_large_rows_end_a_row_group_before_its_bytes_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(7)
    images = [rng.bytes(size) for size in rng.integers(1, 1_000, 500)]
    table = pa.table({"row_id": rng.permutation(500), "image": pa.array(images, pa.binary())})
    monkeypatch.setattr(shards, "cut_rows", partial(cut_rows, most_bytes=10_000))
    found = []
    for count in (1, 7):
        parts = (table.slice(first, 500 // count + 1) for first in range(0, 500, 500 // count + 1))
        batches = [b for p in parts for b in p.sort_by("row_id").combine_chunks().to_batches()]
        found.append(list(shards.ordered_tables(batches, (), 64)))
    assert pa.concat_tables(found[0]).equals(table.sort_by("row_id"))
    assert all(group.nbytes <= 11_000 for group in found[0])
    # However the rows came.
    assert [g.num_rows for g in found[0]] == [g.num_rows for g in found[1]]
