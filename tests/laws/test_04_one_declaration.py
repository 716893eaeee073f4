"""Law 4: Spark's schema, the Unischema, the files and the tensors are those of the declaration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.petastorm_arrow import unischema
from jobs.train.read.stream import Stream
from schemas.dataset import ROW_ID
from schemas.field import NULL_ID
from tests.builders.lakes import example_rows, examples_of, run_etl
from tests.builders.visits import VISITS, Raw, rows_of

DS = "2024-01-01"
_ARROW_OF_SPARK = {"bigint": "int64", "int": "int32", "float": "float", "string": "string"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    lines = [*rows_of(DS, 120), f"{DS},9,NA,NA,NA,1"]
    raw = Raw(tmp_path_factory.mktemp("declared")).add(lines).write()
    run_etl(raw, spark, [DS])
    return raw


def test_the_files_hold_the_declared_columns(raw: Raw) -> None:
    examples = examples_of(raw)
    declared = [(c.name, _ARROW_OF_SPARK[c.spark_type]) for c in VISITS.stored_columns()]
    for shard in examples.shards():
        with Path(examples.url, shard.path).open("rb") as file:
            schema = pq.read_schema(file)
        assert [(f.name, str(f.type)) for f in schema] == declared


def test_petastorm_sees_the_declared_columns() -> None:
    fields = unischema(VISITS).fields
    for column in VISITS.stored_columns():
        assert fields[column.name].shape == column.shape
        assert fields[column.name].nullable == column.nullable
        if column.numpy_dtype != "str":
            assert np.dtype(fields[column.name].numpy_dtype) == np.dtype(column.numpy_dtype)


def test_the_tensors_have_the_declared_sizes_and_values(raw: Raw) -> None:
    sizes, rows = VISITS.input_sizes(), example_rows(raw).set_index(ROW_ID)
    stream = Stream(examples_of(raw), VISITS, split="train", batch_rows=32, streams=8)
    seen = 0
    for batch in stream.epoch(0):
        assert batch.dense.shape == (len(batch), sizes.num_dense)
        assert batch.sparse.shape == (len(batch), sizes.num_sparse)
        real = batch[: batch.rows]
        stored = rows.loc[real.row_id.numpy()]
        np.testing.assert_array_equal(real.dense, stored[[f.name for f in VISITS.numeric]])
        np.testing.assert_array_equal(real.sparse, stored[[f.name for f in VISITS.categorical]])
        np.testing.assert_array_equal(real.label, stored[VISITS.label.name])
        seen += batch.rows
    assert seen == stream.rows == (rows["split"] == "train").sum()


def test_a_missing_value_is_null_in_files_and_has_its_own_id(raw: Raw) -> None:
    rows = example_rows(raw)
    (missing,) = rows[rows["visit"] == 9].to_dict("records")
    assert np.isnan([missing[f.name] for f in VISITS.numeric]).all()
    assert {missing[f.name] for f in VISITS.categorical} == {NULL_ID}
    assert missing["shop"] is None
