"""Petastorm runs on today's Arrow and NumPy, and nobody else sees the names it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType

from jobs.petastorm_arrow import (
    ConcurrentVentilator,
    EmptyResultError,
    NdarrayCodec,
    ScalarCodec,
    ThreadPool,
    Unischema,
    UnischemaField,
    WorkerBase,
    unischema,
)
from jobs.petastorm_legacy.dataset import ParquetDataset
from jobs.petastorm_legacy.files import LocalFileSystem
from jobs.petastorm_legacy.hook import FOLDER
from schemas.dataset import ROW_ID
from schemas.flights import FLIGHTS
from tests.builders.lakes import example_rows, examples_of, run_etl
from tests.builders.visits import VISITS, Raw, rows_of

# After the hook, as a team's own code would.
from petastorm import make_batch_reader, make_reader  # isort: skip
from petastorm.etl.dataset_metadata import materialize_dataset  # isort: skip
from petastorm.predicates import in_lambda  # isort: skip
from petastorm.pytorch import BatchedDataLoader  # isort: skip
from petastorm.unischema import dict_to_spark_row  # isort: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_others_modules_stay_as_they_are() -> None:
    done = python(
        "import subprocess, sys, types, numpy, pandas, pyarrow.dataset, pyarrow.parquet\n"
        "modules = [numpy, pyarrow, pyarrow.parquet, subprocess]\n"
        "before = [dict(vars(module)) for module in modules]\n"
        "import jobs.petastorm_arrow, petastorm.reader, petastorm.pytorch\n"
        "for module, names in zip(modules, before):\n"
        "    for name, value in vars(module).items():\n"
        "        assert isinstance(value, types.ModuleType) or value is names[name], name\n"
        "assert not {'filesystem', 'hdfs'} & set(vars(pyarrow))\n"
        "assert not {'pyarrow.filesystem', 'pyarrow.hdfs'} & set(sys.modules)\n"
        "assert sys.modules['pyarrow'] is pyarrow and sys.modules['numpy'] is numpy\n"
        "assert petastorm.unischema.np.unicode_ is numpy.str_\n"
        "assert petastorm.reader.pq.ParquetDataset is not pyarrow.parquet.ParquetDataset\n"
    )

    assert done.returncode == 0, done.stderr


def test_petastorm_made_to_work_by_others_first_is_refused() -> None:
    done = python(
        "import sys, types\n"
        "names = {'LocalFileSystem': type, 'HadoopFileSystem': type}\n"
        "for name in ('pyarrow.filesystem', 'pyarrow.hdfs'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    vars(sys.modules[name]).update(names)\n"
        "import petastorm, jobs.petastorm_arrow\n"
    )

    assert "petastorm was imported before jobs.petastorm_arrow" in done.stderr


def test_unischema_has_every_stored_column() -> None:
    schema = unischema(FLIGHTS)

    stored = FLIGHTS.stored_columns()
    assert list(schema.fields) == [column.name for column in stored]
    for column in stored:
        field = schema.fields[column.name]
        assert field.shape == column.shape
        assert field.nullable == column.nullable
    assert schema.fields["late"].numpy_dtype is np.float32
    assert schema.fields["origin"].numpy_dtype is np.str_


class Squares(WorkerBase):  # type: ignore[misc]
    def process(self, number: int) -> None:
        self.publish_func(number**2)


def test_pool_and_ventilator_give_every_result() -> None:
    pool = ThreadPool(2)
    items = [{"number": number} for number in range(50)]
    pool.start(Squares, ventilator=ConcurrentVentilator(pool.ventilate, items))

    found = [pool.get_results() for _ in items]

    assert sorted(found) == [number**2 for number in range(50)]
    with pytest.raises(EmptyResultError):
        pool.get_results()
    pool.stop()
    pool.join()


def frame(reader: Any, by: str = "id") -> pd.DataFrame:
    """All rows of a batch reader, in order of a column."""
    with reader:
        parts = [pd.DataFrame(batch._asdict()) for batch in reader]
    return pd.concat(parts).sort_values(by, ignore_index=True)


def test_what_the_etl_writes_opens_with_make_batch_reader(
    spark: SparkSession, tmp_path: Path
) -> None:
    raw = Raw(tmp_path).add(rows_of("2024-01-01", 90)).write()
    run_etl(raw, spark, ["2024-01-01"])
    examples = examples_of(raw)
    files = [f"file://{examples.url}/{shard.path}" for shard in examples.shards()]
    assert len(files) > 1

    found = frame(make_batch_reader(files, workers_count=2), ROW_ID)

    names = [column.name for column in VISITS.stored_columns()]
    wanted = example_rows(raw)[names]
    assert list(found) == names
    assert found[ROW_ID].is_unique
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)


ROWS = Unischema(
    "Rows",
    [
        UnischemaField("id", np.int64, (), ScalarCodec(LongType()), False),
        UnischemaField("matrix", np.float32, (2, 3), NdarrayCodec(), False),
    ],
)


@pytest.fixture(scope="module")
def materialized(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """60 rows that Spark's Python workers encoded."""
    url = f"file://{tmp_path_factory.mktemp('petastorm')}/rows"
    with materialize_dataset(spark, url, ROWS, row_group_size_mb=1):
        # Nothing of this module goes to the workers by name: they would import all of it.
        shape = np.arange(6, dtype=np.float32).reshape(2, 3)
        numbers = spark.sparkContext.parallelize(range(60), 2)
        rows = numbers.map(lambda n: dict_to_spark_row(ROWS, {"id": n, "matrix": shape * n}))
        spark.createDataFrame(rows, ROWS.as_spark_schema()).write.parquet(url)
    return url


@pytest.mark.parametrize("pool", ["thread", "process"])
def test_materialized_rows_come_back(materialized: str, pool: str) -> None:
    with make_reader(materialized, reader_pool_type=pool, workers_count=1) as reader:
        found = {int(row.id): row.matrix for row in reader}

    assert sorted(found) == list(range(60))
    for number, matrix in found.items():
        np.testing.assert_array_equal(matrix, np.arange(6).reshape(2, 3) * number)


def test_materialized_metadata_is_petastorms_own(materialized: str) -> None:
    path = materialized.removeprefix("file://")
    keys = pq.read_schema(f"{path}/_common_metadata").metadata

    assert b"jobs." not in keys[b"dataset-toolkit.unischema.v1"]
    assert b"dataset-toolkit.num_row_groups_per_file.v1" in keys


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """12 rows a partition, in row groups of 5: folders day=1, 2, 10, in each of them kind=a, b."""
    folder = tmp_path_factory.mktemp("partitioned")
    for number, (day, kind) in enumerate([(d, k) for d in (1, 2, 10) for k in "ab"]):
        inner = folder / f"day={day}" / f"kind={kind}"
        inner.mkdir(parents=True)
        ids = np.arange(12) + 12 * number
        pq.write_table(pa.table({"id": ids, "x": ids / 4}), inner / "0.parquet", row_group_size=5)
        (inner / "_SUCCESS").touch()
        (inner / ".0.parquet.crc").touch()
    return f"file://{folder}"


def expected_rows() -> pd.DataFrame:
    ids = np.arange(72)
    days = np.array([1, 2, 10])[ids // 24]
    return pd.DataFrame(
        {"id": ids, "x": ids / 4, "day": days, "kind": np.array(["a", "b"])[ids // 12 % 2]}
    )


def test_partitions_are_columns(partitioned: str) -> None:
    found = frame(make_batch_reader(partitioned, workers_count=2))[["id", "x", "day", "kind"]]

    assert found["day"].tolist() == expected_rows()["day"].tolist()
    assert found["kind"].tolist() == expected_rows()["kind"].tolist()
    assert found["x"].tolist() == expected_rows()["x"].tolist()


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ([("day", ">", 1)], "day > 1"),
        ([("kind", "=", "b"), ("day", "!=", 2)], "kind == 'b' and day != 2"),
        ([[("day", "in", {1, 2}), ("kind", "=", "a")], [("day", "==", 10)]],
         "day <= 2 and kind == 'a' or day == 10"),
    ],
)  # fmt: skip
def test_filters_choose_partitions(partitioned: str, filters: Any, wanted: str) -> None:
    found = frame(make_batch_reader(partitioned, workers_count=1, filters=filters))

    assert found["id"].tolist() == expected_rows().query(wanted)["id"].tolist()


def test_predicates_and_the_disk_cache(partitioned: str, tmp_path: Path) -> None:
    even = in_lambda(["id"], lambda ids: ids % 2 == 0)
    found = frame(make_batch_reader(partitioned, workers_count=1, predicate=even))
    assert found["id"].tolist() == list(range(0, 72, 2))

    options = {"cache_location": str(tmp_path), "cache_size_limit": 10**9}
    for _ in range(2):
        reader = make_batch_reader(
            partitioned,
            reader_pool_type="dummy",
            cache_type="local-disk",
            cache_row_size_estimate=100,
            **options,
        )
        assert len(frame(reader)) == 72


def test_torch_loader_gives_every_row(partitioned: str) -> None:
    reader = make_batch_reader(partitioned, schema_fields=["id", "x"], workers_count=1)

    with BatchedDataLoader(reader, batch_size=16, shuffling_queue_capacity=40) as loader:
        batches = list(loader)

    ids = np.concatenate([batch["id"].numpy() for batch in batches])
    assert sorted(ids.tolist()) == list(range(72))
    np.testing.assert_array_equal(np.concatenate([b["x"].numpy() for b in batches]), ids / 4)


def test_any_store_of_fsspec_is_read(partitioned: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(partitioned.removeprefix("file://"), "/bucket/rows", recursive=True)

    found = frame(make_batch_reader("memory://bucket/rows", workers_count=2))
    assert found["id"].tolist() == list(range(72))

    # Spark writes without fsspec's knowing: what was listed before is listed again.
    memory.rm("/bucket/rows/day=10", recursive=True)
    assert len(frame(make_batch_reader("memory://bucket/rows", workers_count=1))) == 48


def test_arrows_own_file_systems_are_read(partitioned: str) -> None:
    local = pa.fs.LocalFileSystem()

    found = frame(make_batch_reader(partitioned, workers_count=1, filesystem=local))

    assert found["id"].tolist() == list(range(72))


def test_folders_that_are_no_partitions_are_refused_at_any_depth(tmp_path: Path) -> None:
    inner = tmp_path / "day=1" / "surplus"
    inner.mkdir(parents=True)
    pq.write_table(pa.table({"id": [1]}), inner / "0.parquet")
    with pytest.raises(ValueError, match="did not appear to be a partition: surplus"):
        ParquetDataset(str(tmp_path))

    pq.write_table(pa.table({"id": [1]}), tmp_path / "day=1" / "0.parquet")
    with pytest.raises(ValueError, match="files in an intermediate directory"):
        ParquetDataset(str(tmp_path))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    class Torn(LocalFileSystem):
        def walk(self, path: str) -> Iterator[tuple[str, list[str], list[str]]]:
            return iter(()) if path.endswith("day=1") else super().walk(path)

    (tmp_path / "day=1").mkdir()
    with pytest.raises(OSError, match=r"Cannot list the folder .*day=1"):
        ParquetDataset(str(tmp_path), filesystem=Torn())


def test_filters_that_cannot_choose_are_named(partitioned: str) -> None:
    path = partitioned.removeprefix("file://")
    with pytest.raises(ValueError, match="list of files"):
        ParquetDataset(f"{path}/day=1/kind=a/0.parquet", filters=[("day", "=", 1)])
    with pytest.warns(UserWarning, match=r"\['id'\] have no effect"):
        ParquetDataset(path, filters=[("id", "=", 1)])
    with pytest.raises(ValueError, match="not a valid operator"):
        ParquetDataset(path, filters=[("day", "~", 1)])


def test_files_of_other_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "1.parquet")

    assert len(ParquetDataset(str(tmp_path), validate_schema=False).pieces) == 2
    with pytest.raises(ValueError, match=r"1\.parquet"):
        ParquetDataset(str(tmp_path))


def test_a_script_that_knows_nothing_of_the_hook_runs() -> None:
    code = "from petastorm import make_reader; import sys; print(len(sys.modules) > 100)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": FOLDER},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
