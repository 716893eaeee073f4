"""xxhash64 by NumPy has the bits of Spark's, so that both give a text the same id and shard."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.base.xxhash import hashes_as_numbers, xxhash64, xxhash64_of_pair, xxhash64_of_rows

# Of one to four bytes in UTF-8: NUL, the ends of each width, and letters that stand in real texts.
_BY_WIDTH = (
    "\0\t\n !09Aaz~\x7f",
    "\x80\xa0éßñжק\u07ff",
    "\u0800\u2028€日本\ufeff\uffff",
    "\U00010000😀🎈\U0010ffff",
)
_NUMBERS = (0, 1, -1, 42, 2**31, -(2**31), 2**63 - 1, -(2**63), 0x0123456789ABCDEF)
_NAMES = tuple("shard é日😀 of a run, and more of it"[:size] for size in range(22))


def _text(random_: random.Random, size: int, widths: int) -> str:
    """A text of `size` bytes in characters of at most `widths`."""
    text = ""
    while size:
        width = random_.randint(1, min(widths, size))
        text += random_.choice(_BY_WIDTH[width - 1])
        size -= width
    return text


def _texts() -> list[str]:
    """Every number of bytes that takes another way through the hash, and some beyond."""
    random_ = random.Random(1)
    sizes = [*range(101), 127, 128, 129, 1000, 4099]
    texts = [_text(random_, size, widths) for size in sizes for widths in (1, 2, 3, 4)]
    texts += ["\0" * size for size in range(101)]
    random_.shuffle(texts)
    return texts


@pytest.fixture(scope="module")
def hashed(spark: SparkSession) -> tuple[pa.StringArray, list[int]]:
    """Texts and their hashes by Spark."""
    rows = spark.createDataFrame(pa.table({"x": pa.array(_texts(), pa.string())}))
    found = rows.select("x", F.xxhash64("x").alias("hash")).toArrow()
    texts = found["x"].combine_chunks()
    assert {len(text.encode()) for text in texts.to_pylist()} >= set(range(101))
    return texts, found["hash"].to_pylist()


def test_texts_of_every_length_have_sparks_hash(hashed: tuple[pa.StringArray, list[int]]) -> None:
    texts, expected = hashed
    found = xxhash64(texts)
    assert found.dtype == np.int64
    wrong = [t for t, a, b in zip(texts.to_pylist(), found, expected, strict=True) if a != b]
    assert wrong == []


@given(st.data())
def test_a_part_of_an_array_has_the_parts_hashes(
    hashed: tuple[pa.StringArray, list[int]], data: st.DataObject
) -> None:
    texts, expected = hashed
    start = data.draw(st.integers(0, len(texts)))
    size = min(data.draw(st.integers(0, 60)), len(texts) - start)
    part = texts.slice(start, size)
    assert xxhash64(part).tolist() == expected[start : start + size]
    # A part of a part, and one whose texts were brought together anew.
    assert xxhash64(part.slice(1)).tolist() == expected[start + 1 : start + size]
    places = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=5))
    taken = texts.take(pa.array(places, pa.int64()))
    assert xxhash64(taken).tolist() == [expected[place] for place in places]


def test_no_texts_and_texts_without_bytes(hashed: tuple[pa.StringArray, list[int]]) -> None:
    texts, expected = hashed
    empty = expected[texts.to_pylist().index("")]
    for none in (pa.array([], pa.string()), texts.slice(len(texts)), texts.slice(5, 0)):
        assert xxhash64(none).tolist() == []
    assert xxhash64(pa.array([""] * 3)).tolist() == [empty] * 3


def test_a_number_with_a_text_has_sparks_hash_of_both(spark: SparkSession) -> None:
    random_ = random.Random(2)
    numbers = [*_NUMBERS, *(random_.getrandbits(64) - 2**63 for _ in range(40))]
    rows = spark.createDataFrame(pa.table({"n": pa.array(numbers, pa.int64())}))
    hashes = [F.xxhash64("n", F.lit(name)).alias(f"h{i}") for i, name in enumerate(_NAMES)]
    found = rows.select("n", *hashes).toArrow()
    given_numbers = found["n"].to_numpy()
    names = [name for name in _NAMES if len(name.encode()) < 32]
    assert max(len(name.encode()) for name in names) > 24
    for i, name in enumerate(names):
        assert xxhash64_of_pair(given_numbers, name).tolist() == found[f"h{i}"].to_pylist(), name


def _numbers() -> pa.Table:
    """Columns of every type that is hashed as a number, with the ends of each and with nulls."""
    random_ = random.Random(3)
    columns = {}
    for bits in (8, 16, 32, 64):
        ends = [0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))]
        values = [*ends, *(random_.getrandbits(bits) - 2 ** (bits - 1) for _ in range(30))]
        columns[f"i{bits}"] = pa.array(values, pa.int64()).cast(f"int{bits}")
    odd = [0.0, -0.0, float("nan"), -float("nan"), float("inf"), -float("inf"), 1e-45, 3.4e38]
    floats = [*odd, *(random_.gauss(0, 1e3) for _ in range(27))]
    columns |= {"f32": pa.array(floats, pa.float32()), "f64": pa.array(floats, pa.float64())}
    columns["bool"] = pa.array([value > 0 for value in floats])
    columns["day"] = columns["i16"].cast(pa.int32()).cast(pa.date32())
    columns["at"] = columns["i32"].cast(pa.int64()).cast(pa.timestamp("us", "UTC"))
    some = [
        [None if random_.random() < 0.3 else x for x in c.to_pylist()] for c in columns.values()
    ]
    nulls = {
        f"{name}_": pa.array(x, columns[name].type) for name, x in zip(columns, some, strict=True)
    }
    return pa.table({**columns, **nulls})


def test_rows_of_numbers_have_sparks_hash(spark: SparkSession) -> None:
    table = _numbers()
    names, rows = table.column_names, spark.createDataFrame(table)
    assert all(hashes_as_numbers(kind) for kind in table.schema.types)
    found = rows.select(
        "*", F.xxhash64(*names).alias("all"), *[F.xxhash64(n).alias(f"h_{n}") for n in names]
    )
    read = found.toArrow().combine_chunks()
    columns = [read[name].chunk(0) for name in names]
    assert xxhash64_of_rows(columns).tolist() == read["all"].to_pylist()
    for name, column in zip(names, columns, strict=True):
        assert xxhash64_of_rows([column]).tolist() == read[f"h_{name}"].to_pylist(), name
        part = column.slice(7, 20)
        assert xxhash64_of_rows([part]).tolist() == read[f"h_{name}"].to_pylist()[7:27], name


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.binary(), pa.list_(pa.int32()), pa.decimal128(9, 2), pa.uint32()]
)
def test_other_types_are_not_hashed_as_numbers(kind: pa.DataType) -> None:
    assert not hashes_as_numbers(kind)
