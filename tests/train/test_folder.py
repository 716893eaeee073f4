"""Others' folders as streams: by Spark, by Arrow alone, by Petastorm; on disk and on S3."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType

from jobs.errors import ConfigError, DataRefused
from jobs.petastorm_arrow import (
    CompressedImageCodec,
    NdarrayCodec,
    ScalarCodec,
    Unischema,
    UnischemaField,
)
from jobs.train.batch import Batch
from jobs.train.fingerprint import check_fingerprint
from jobs.train.folder import Folder
from jobs.train.stream import Stream
from schemas.dataset import Dataset, Source
from schemas.field import (
    Categorical,
    CategoricalList,
    Label,
    Numeric,
    NumericList,
    Tensor,
)
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


def stream_of(folder: Folder, **changes: Any) -> Stream:
    settings = {"split": None, "batch_rows": 8, "streams": 4, "window_rows": 10, **changes}
    return Stream(folder, folder.dataset, **settings)


def rows_of(folder: Folder, **changes: Any) -> Batch:
    """All rows of an epoch, in order of their row ids; fails where one comes twice."""
    batches = list(stream_of(folder, **changes).epoch(0))
    names = ("dense", "sparse", "label", "weight", "row_id", "is_row", "position")
    whole = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
    tensors = {
        name: torch.cat([batch.tensors[name] for batch in batches]) for name in batches[0].tensors
    }
    order = whole["row_id"].argsort()
    rows = Batch(**{n: t[order] for n, t in whole.items()}, tensors={
        n: t[order] for n, t in tensors.items()
    })  # fmt: skip
    assert bool(rows.is_row.all())
    assert len(rows.row_id.unique()) == len(rows)
    return rows


def table(first: int, rows: int) -> pa.Table:
    ids = np.arange(first, first + rows)
    return pa.table(
        {
            "id": ids,
            "x": pa.array(ids / 4, mask=ids % 5 == 0),
            "n": pa.array(ids * 3, pa.int32()),
            "money": pa.array([Decimal(int(i)) / 8 for i in ids], pa.decimal128(12, 3)),
            "ad": pa.array(ids % 7 + 1),
            "clicked": ids % 2 == 1,
            "city": pa.array([f"c{i % 3}" for i in ids]).dictionary_encode(),
            "point": pa.FixedSizeListArray.from_arrays(np.repeat(ids / 2, 2), 2),
            "seen": pa.array(ids, pa.timestamp("us")),
        }
    )


ROLES: dict[str, Any] = {"label": "clicked", "sparse": ["ad"], "key": "id"}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """100 rows by Arrow alone: day=1 with 40 rows in groups of 15, day=2 in two files."""
    root = tmp_path / "plain"
    places = [("day=1", 0, 40), ("day=2", 40, 35), ("day=2", 75, 25)]
    for folder, first, rows in places:
        (root / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(table(first, rows), root / folder / f"{first}.parquet", row_group_size=15)
    (root / "_SUCCESS").touch()
    (root / "day=1" / ".0.parquet.crc").touch()
    return root


def check_plain(rows: Batch, ids: np.ndarray) -> None:
    assert rows.row_id.tolist() == ids.tolist()
    x = np.where(ids % 5 == 0, np.nan, ids / 4)
    wanted = np.stack([x, ids * 3.0, ids / 8], axis=1).astype(np.float32)
    np.testing.assert_array_equal(rows.dense.numpy(), wanted)
    assert rows.sparse[:, 0].tolist() == (ids % 7 + 1).tolist()
    assert rows.label.tolist() == (ids % 2).tolist()
    assert rows.tensors["point"].tolist() == [[i / 2, i / 2] for i in ids]


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
        (Source("others", ()),),
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


# What is kept of footers


def count_footers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose footers are read from now on."""
    opened: list[str] = []
    read_metadata = pq.read_metadata

    def counted(file: Any) -> Any:
        opened.append(Path(file.path).name)
        return read_metadata(file)

    monkeypatch.setattr(pq, "read_metadata", counted)
    return opened


def test_footers_are_read_once_and_kept_outside_the_folder(
    plain: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path for path in plain.rglob("*"))
    opened = count_footers(monkeypatch)
    first = Folder.open(str(plain), **ROLES)
    assert sorted(opened) == ["0.parquet", "40.parquet", "75.parquet"]
    assert Folder.open(str(plain), **ROLES).files == first.files
    assert len(opened) == 3

    assert sorted(path for path in plain.rglob("*")) == before
    assert len(list(cache.rglob("*.json"))) == 1
    asked = f"{plain}/_footers.json"
    assert Folder.open(str(plain), footers_at=asked, **ROLES).files == first.files
    assert Path(asked).exists()

    pq.write_table(table(200, 5), plain / "day=1" / "0.parquet")
    changed = Folder.open(str(plain), **ROLES)
    assert opened[6:] == ["0.parquet"]
    assert [file.row_group_rows for file in changed.files] == [(5,), (15, 15, 5), (15, 10)]


def test_a_file_that_changes_after_the_look_is_refused(plain: Path) -> None:
    folder = Folder.open(str(plain), **ROLES)
    pq.write_table(
        table(500, 35), plain / "day=2" / "40.parquet", row_group_size=15, compression=None
    )

    with pytest.raises(DataRefused, match=r"day=2/40\.parquet: the file has \d+ bytes by now"):
        rows_of(folder)


def fingerprint(plain: Path, **changes: Any) -> dict[str, Any]:
    return stream_of(Folder.open(str(plain), **ROLES), **changes).fingerprint


def test_files_renamed_or_written_again_are_no_difference(plain: Path) -> None:
    before = fingerprint(plain)
    order = [b.row_id.tolist() for b in stream_of(Folder.open(str(plain), **ROLES)).epoch(0)]

    (plain / "day=2" / "40.parquet").rename(plain / "day=2" / "zz.parquet")
    pq.write_table(table(0, 40), plain / "day=1" / "0.parquet", row_group_size=15)

    check_fingerprint(before, fingerprint(plain))
    after = [b.row_id.tolist() for b in stream_of(Folder.open(str(plain), **ROLES)).epoch(0)]
    assert after == order


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (table(0, 39), "day=1 had 40 rows, has 39"),
        (table(1, 40), "day=1 has other rows"),
        (None, "day=1 is gone"),
    ],
)
def test_changed_rows_are_named_by_their_partition(
    plain: Path, rows: pa.Table | None, message: str
) -> None:
    before = fingerprint(plain)
    unrelated = fingerprint(plain, where={"day": ["2"]})
    file = plain / "day=1" / "0.parquet"
    if rows is None:
        file.unlink()
    else:
        pq.write_table(rows, file, row_group_size=15)

    with pytest.raises(DataRefused, match=message) as refused:
        check_fingerprint(before, fingerprint(plain))
    assert "day=2" not in str(refused.value)
    check_fingerprint(unrelated, fingerprint(plain, where={"day": ["2"]}))
    with pytest.raises(DataRefused, match="where was None, is"):
        check_fingerprint(before, unrelated)


# Refusals


def test_what_is_no_parquet_is_named(plain: Path) -> None:
    (plain / "day=1" / "notes.txt").write_text("hello")

    with pytest.raises(DataRefused, match=r"footer of day=1/notes\.txt in .* cannot be read"):
        Folder.open(str(plain), **ROLES)


def test_folders_that_cannot_be_read_as_one_are_refused(plain: Path, tmp_path: Path) -> None:
    pq.write_table(table(0, 1), plain / "stray.parquet")
    with pytest.raises(DataRefused, match=r"partitioned by day, stray\.parquet by nothing"):
        Folder.open(str(plain), **ROLES)

    (tmp_path / "empty").mkdir()
    with pytest.raises(DataRefused, match="no Parquet file"):
        Folder.open(str(tmp_path / "empty"))

    (plain / "_delta_log").mkdir()
    (plain / "_delta_log" / "0.json").touch()
    with pytest.raises(DataRefused, match="is a Delta table"):
        Folder.open(str(plain))


def test_columns_and_choices_that_are_not_there_are_named(plain: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column cost, tags in the folder's files"):
        Folder.open(str(plain), label="tags", dense=["cost"])
    folder = Folder.open(str(plain), **ROLES)
    with pytest.raises(ConfigError, match="names country, which partitions nothing"):
        stream_of(folder, where={"country": "DE"})
    with pytest.raises(ConfigError, match=r"names split, which.*\n.*here day"):
        stream_of(folder, split="train")


def test_texts_are_no_ids(plain: Path) -> None:
    folder = Folder.open(str(plain), label="clicked", sparse=["city"])

    with pytest.raises(DataRefused, match=r"column 'city' is string.*\n  expected: int32"):
        rows_of(folder)
