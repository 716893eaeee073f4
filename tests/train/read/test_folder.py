"""Others' folders as streams: by Spark, by Arrow alone, by Petastorm; on disk and on S3."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType

from jobs.base.errors import ConfigError, DataRefused
from jobs.petastorm_arrow import (
    CompressedImageCodec,
    NdarrayCodec,
    ScalarCodec,
    Unischema,
    UnischemaField,
)
from jobs.train.order.fingerprint import check_fingerprint
from jobs.train.read.folder import Folder
from schemas.dataset import Column, Dataset, Source
from schemas.field import (
    Categorical,
    CategoricalList,
    Label,
    Numeric,
    NumericList,
    Tensor,
)
from tests.builders.folders import ROLES, check_plain, rows_of, stream_of, table, write_plain
from tests.builders.s3 import S3

# After the hook, as a team's own code would.
from petastorm.etl.dataset_metadata import materialize_dataset  # isort: skip
from petastorm.unischema import dict_to_spark_row  # isort: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, where footers are kept."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_plain(tmp_path / "plain")


def test_a_folder_by_arrow_alone(plain: Path) -> None:
    folder = Folder.open(str(plain), **ROLES)

    assert [f.name for f in folder.dataset.numeric] == ["x", "n", "money"]
    check_plain(rows_of(folder), np.arange(100))
    check_plain(rows_of(folder, where={"day": 2}), np.arange(40, 100))
    assert stream_of(folder).fingerprint["rows"] == 100


def test_the_same_folder_on_s3(s3: S3, plain: Path, tmp_path: Path) -> None:
    folder = Folder.open(s3.upload(plain, f"{tmp_path.name}/plain"), **ROLES)

    check_plain(rows_of(folder), np.arange(100))
    check_fingerprint(stream_of(Folder.open(str(plain), **ROLES)).fingerprint,
                      stream_of(folder).fingerprint)  # fmt: skip


def test_any_number_of_ranks_takes_each_row_once(plain: Path) -> None:
    folder = Folder.open(str(plain), **ROLES)
    ids = [
        row
        for rank in range(3)
        for batch in stream_of(folder, rank=rank, size=3).epoch(1)
        for row in batch.row_id[batch.is_row].tolist()
    ]

    assert sorted(ids) == list(range(100))


def test_row_ids_without_a_key_are_those_of_file_and_place(plain: Path) -> None:
    folder = Folder.open(str(plain), label="clicked", dense=["x", "id"])
    rows = rows_of(folder)
    assert sorted(rows.dense[:, 1].tolist()) == list(range(100))

    again = rows_of(Folder.open(str(plain), label="clicked", dense=["id"]), seed=3, streams=2)
    assert again.row_id.tolist() == rows.row_id.tolist()
    assert again.dense[:, 0].tolist() == rows.dense[:, 1].tolist()


def test_a_text_key_is_hashed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"k": [f"k{i}" for i in range(30)], "x": range(30)}), tmp_path / "0")
    first = rows_of(Folder.open(str(tmp_path), key="k"))
    (tmp_path / "0").rename(tmp_path / "renamed")
    again = rows_of(Folder.open(str(tmp_path), key="k"))

    assert torch.equal(first.row_id, again.row_id)
    assert torch.isnan(first.label).all()


def test_partition_columns_and_own_names_can_be_inputs(plain: Path) -> None:
    for number, file in enumerate(sorted(plain.glob("*/*.parquet"))):
        rows = pq.read_table(file, partitioning=None)
        pq.write_table(rows.append_column("score", pa.repeat(float(number), len(rows))), file)

    folder = Folder.open(str(plain), label="score", dense=["x", "day"], key="id")

    rows = rows_of(folder)
    assert folder.dataset.label.name == "score_"
    assert rows.dense[:, 1].tolist() == [1.0] * 40 + [2.0] * 60
    assert rows.label.tolist() == [0.0] * 40 + [1.0] * 35 + [2.0] * 25


def test_a_declaration_may_be_given(plain: Path) -> None:
    declared = Dataset(
        "others",
        (Source("others", (Column("clicked", "double"),)),),
        "others",
        (),
        (Label("clicked"), Categorical("ad"), Numeric("x"), Tensor("point", shape=(2,))),
    )
    folder = Folder.open(str(plain), dataset=declared, key="id")

    rows = rows_of(folder)

    assert rows.dense.shape == (100, 1)
    assert rows.sparse[:, 0].tolist() == (np.arange(100) % 7 + 1).tolist()
    with pytest.raises(ConfigError, match="has price, which the files have not"):
        fields = (*declared.fields, Numeric("price"))
        Folder.open(str(plain), dataset=Dataset("o", declared.sources, "others", (), fields))


def test_a_folder_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.range(200).selectExpr(
        "id",
        "CAST(id AS DOUBLE) / 4 AS x",
        "CAST(id % 5 AS SHORT) AS ad",
        "id % 2 = 0 AS clicked",
        "concat('2026-01-0', id % 3 + 1) AS ds",
        "CASE WHEN id % 10 = 0 THEN 'test' ELSE 'train' END AS split",
    )
    rows.repartition(3).write.partitionBy("ds", "split").parquet(str(tmp_path / "spark"))
    folder = Folder.open(str(tmp_path / "spark"), label="clicked", sparse=["ad"], key="id")

    train = rows_of(folder, split="train", first_ds="2026-01-02")

    wanted = [i for i in range(200) if i % 10 and i % 3]
    assert train.row_id.tolist() == wanted
    assert train.dense[:, 0].tolist() == [i / 4 for i in wanted]
    assert train.sparse[:, 0].tolist() == [i % 5 for i in wanted]
    assert train.label.tolist() == [float(i % 2 == 0) for i in wanted]
    assert len(rows_of(folder, where={"split": ["test", "train"]})) == 200


PICTURES = Unischema(
    "Pictures",
    [
        UnischemaField("id", np.int64, (), ScalarCodec(LongType()), False),
        UnischemaField("digit", np.int32, (), None, False),
        UnischemaField("image", np.uint8, (6, 5, 3), CompressedImageCodec("png"), False),
        UnischemaField("matrix", np.float64, (2, 3), NdarrayCodec(), False),
        UnischemaField("ragged", np.float32, (None,), NdarrayCodec(), False),
    ],
)


def picture(number: int) -> np.ndarray:
    return (np.arange(90).reshape(6, 5, 3) * (number + 1) % 251).astype(np.uint8)


@pytest.fixture(scope="module")
def materialized(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 rows by Petastorm."""
    url = f"file://{tmp_path_factory.mktemp('petastorm')}/pictures"
    rows = [
        {"id": n, "digit": np.int32(n % 10), "image": picture(n),
         "matrix": np.arange(6.0).reshape(2, 3) * n, "ragged": np.ones(n % 4, np.float32)}
        for n in range(40)
    ]  # fmt: skip
    with materialize_dataset(spark, url, PICTURES, row_group_size_mb=1):
        encoded = [dict_to_spark_row(PICTURES, row) for row in rows]
        frame = spark.createDataFrame(encoded, PICTURES.as_spark_schema())
        frame.repartition(2).write.parquet(url)
    return url


def test_a_folder_by_petastorm_with_images(materialized: str) -> None:
    rows = rows_of(Folder.open(materialized, label="digit", key="id"))

    assert rows.row_id.tolist() == list(range(40))
    assert rows.label.tolist() == [n % 10 for n in range(40)]
    assert sorted(rows.tensors) == ["image", "matrix"]
    for number in range(40):
        np.testing.assert_array_equal(rows.tensors["image"][number].numpy(), picture(number))
        wanted = np.arange(6).reshape(2, 3) * number
        np.testing.assert_array_equal(rows.tensors["matrix"][number].numpy(), wanted)


def test_lists_of_any_length_are_named_with_their_longest(materialized: str) -> None:
    ragged = NumericList("ragged", max_length=3)

    rows = rows_of(Folder.open(materialized, label="digit", key="id", tensors=[ragged]))

    lengths = rows.tensors["ragged_length"]
    assert lengths.tolist() == [n % 4 for n in range(40)]
    assert rows.tensors["ragged"].sum(1).tolist() == lengths.tolist()


def test_lists_of_arrows(tmp_path: Path) -> None:
    pages = [[n % 5 + 2] * (n % 4) for n in range(30)]
    pq.write_table(pa.table({"id": range(30), "pages": pages}), tmp_path / "0.parquet")
    field = CategoricalList("pages", max_length=3)

    rows = rows_of(Folder.open(str(tmp_path), key="id", tensors=[field]))

    assert [row[row > 0].tolist() for row in rows.tensors["pages"]] == pages


class Evil:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


@pytest.mark.parametrize(
    "evil", [Evil(eval, "open('/tmp/x', 'w')"), Evil(os.system, "true"), Evil(np.memmap, "f")]
)
def test_a_pickle_that_does_more_than_describe_is_refused(plain: Path, evil: Evil) -> None:
    """Petastorm's own unpickler would have called `eval`."""
    stored = {b"dataset-toolkit.unischema.v1": pickle.dumps(evil, protocol=2)}
    pq.write_metadata(table(0, 1).schema.with_metadata(stored), plain / "_common_metadata")

    with pytest.raises(DataRefused, match="describes no column"):
        Folder.open(str(plain), **ROLES)


def _global(module: str, name: str) -> bytes:
    """A pickle of something by its name, which may have dots since protocol 4."""
    texts = (b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + b"".join(texts) + b"\x93."


@pytest.mark.parametrize(
    "stored",
    [
        _global("pyspark.sql.types", "ctypes._types.CodeType"),
        _global("pyspark.sql.types", "ctypes._types.FunctionType"),
        _global("pyspark.sql.types", "_FakeType"),
        _global("numpy", "core.records.recarray"),
        _global("petastorm.unischema", "Unischema.__init__"),
        pickle.dumps(5),
        pickle.dumps({"fields": {}}),
        b"\x80\x04",
        b"",
    ],
)
def test_what_is_no_description_is_refused(plain: Path, stored: bytes) -> None:
    metadata = {b"dataset-toolkit.unischema.v1": stored}
    pq.write_metadata(table(0, 1).schema.with_metadata(metadata), plain / "_common_metadata")

    with pytest.raises(DataRefused, match="the description of columns that Petastorm writes"):
        Folder.open(str(plain), **ROLES)
