"""Petastorm's own readers on S3 and HDFS: pools, caches, what chooses rows, file lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType, StringType

from jobs.petastorm_arrow import NdarrayCodec, ScalarCodec, Unischema, UnischemaField
from tests.builders.hdfs import Hdfs
from tests.builders.s3 import S3

# After the hook, as a team's own code would.
from petastorm import make_batch_reader, make_reader  # isort: skip
from petastorm.etl.dataset_metadata import materialize_dataset  # isort: skip
from petastorm.etl.rowgroup_indexers import SingleFieldIndexer  # isort: skip
from petastorm.etl.rowgroup_indexing import build_rowgroup_index  # isort: skip
from petastorm.predicates import in_lambda, in_set  # isort: skip
from petastorm.pytorch import DataLoader  # isort: skip
from petastorm.selectors import SingleIndexSelector  # isort: skip
from petastorm.unischema import dict_to_spark_row  # isort: skip

ROWS = Unischema(
    "Rows",
    [
        UnischemaField("id", np.int64, (), ScalarCodec(LongType()), False),
        UnischemaField("kind", np.str_, (), ScalarCodec(StringType()), False),
        UnischemaField("matrix", np.float32, (2, 3), NdarrayCodec(), False),
    ],
)


@pytest.fixture(params=["s3", pytest.param("hdfs", marks=pytest.mark.slow)])
def far(request: pytest.FixtureRequest) -> S3 | Hdfs:
    server: S3 | Hdfs = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="module")
def indexed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 rows by Petastorm, kinds a and b in files of their own, with an index of kinds."""
    folder = tmp_path_factory.mktemp("petastorm") / "rows"
    url = f"file://{folder}"
    shape = np.arange(6, dtype=np.float32).reshape(2, 3)
    rows = [{"id": n, "kind": "ab"[n // 20], "matrix": shape * n} for n in range(40)]
    with materialize_dataset(spark, url, ROWS, row_group_size_mb=1):
        encoded = [dict_to_spark_row(ROWS, row) for row in rows]
        frame = spark.createDataFrame(encoded, ROWS.as_spark_schema())
        frame.coalesce(1).write.option("maxRecordsPerFile", 20).parquet(url)
    build_rowgroup_index(url, spark.sparkContext, [SingleFieldIndexer("by_kind", "kind")])
    return folder


@pytest.fixture
def rows(far: S3 | Hdfs, indexed: Path, tmp_path: Path) -> str:
    return far.upload(indexed, f"{tmp_path.name}/rows")


def read(url: str, **options: Any) -> dict[int, np.ndarray]:
    with make_reader(url, **{"workers_count": 2, **options}) as reader:
        return {int(row.id): row.matrix for row in reader}


@pytest.mark.parametrize("pool", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_rows_come_back_through_both_pools(rows: str, pool: str) -> None:
    found = read(rows, reader_pool_type=pool, workers_count=1)

    assert sorted(found) == list(range(40))
    for number, matrix in found.items():
        np.testing.assert_array_equal(matrix, np.arange(6).reshape(2, 3) * number)


def test_predicates_and_selectors_choose(rows: str) -> None:
    assert sorted(read(rows, predicate=in_set({3, 30}, "id"))) == [3, 30]
    only_b = SingleIndexSelector("by_kind", ["b"])
    assert sorted(read(rows, rowgroup_selector=only_b)) == list(range(20, 40))


def test_the_disk_cache_keeps_what_was_read(rows: str, tmp_path: Path) -> None:
    cache = {
        "cache_type": "local-disk",
        "cache_location": str(tmp_path / "cache"),
        "cache_size_limit": 10**9,
        "cache_row_size_estimate": 100,
    }
    assert sorted(read(rows, **cache)) == list(range(40))

    fs, path = fsspec.core.url_to_fs(rows)
    first, second = sorted(file for file in fs.find(path) if file.endswith(".parquet"))
    fs.copy(first, second)

    assert sorted(read(rows)) == list(range(20))
    assert sorted(read(rows, **cache)) == list(range(40))


def test_the_torch_loader_gives_every_row(rows: str) -> None:
    reader = make_reader(rows, schema_fields=["id", "matrix"], workers_count=2)

    with DataLoader(reader, batch_size=16, shuffling_queue_capacity=30) as loader:
        batches = list(loader)

    assert sorted(int(i) for batch in batches for i in batch["id"]) == list(range(40))


@pytest.fixture
def tables(far: S3 | Hdfs, tmp_path: Path) -> str:
    """12 rows a partition, in row groups of 5: day=1, day=2."""
    for day in (1, 2):
        folder = tmp_path / "tables" / f"day={day}"
        folder.mkdir(parents=True)
        ids = np.arange(12) + 12 * (day - 1)
        pq.write_table(pa.table({"id": ids, "x": ids / 4}), folder / "0.parquet", row_group_size=5)
    return far.upload(tmp_path / "tables", f"{tmp_path.name}/tables")


def frame(urls: str | list[str], **options: Any) -> pd.DataFrame:
    with make_batch_reader(urls, **{"workers_count": 2, **options}) as reader:
        parts = [pd.DataFrame(batch._asdict()) for batch in reader]
    return pd.concat(parts).sort_values("id", ignore_index=True)


@pytest.mark.parametrize("pool", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_tables_of_a_partitioned_folder(tables: str, pool: str) -> None:
    found = frame(tables, reader_pool_type=pool, workers_count=1)

    assert found["id"].tolist() == list(range(24))
    assert found["x"].tolist() == [n / 4 for n in range(24)]
    assert found["day"].tolist() == [1] * 12 + [2] * 12


def test_filters_and_lists_of_files(tables: str) -> None:
    assert frame(tables, filters=[("day", "=", 2)])["id"].tolist() == list(range(12, 24))
    files = [f"{tables}/day={day}/0.parquet" for day in (1, 2)]
    assert frame(files)["id"].tolist() == list(range(24))
    assert frame(files[1:], predicate=in_lambda(["id"], lambda ids: ids == 13))["id"].tolist() == [
        13
    ]
