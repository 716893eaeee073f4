"""xxhash64 by NumPy has the bits of Spark's, so that both give a row the same id and shard."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from jobs.base.xxhash import (
    Literal,
    hashes_as_numbers,
    is_hashed,
    xxhash64,
    xxhash64_of_numbers,
    xxhash64_of_pair,
    xxhash64_of_rows,
)
from jobs.rows.base.arrays import whole

# Of one to four bytes in UTF-8: NUL, the ends of each width, and letters that stand in real texts.
_BY_WIDTH = (
    "\0\t\n !09Aaz~\x7f",
    "\x80\xa0éßñжק\u07ff",
    "\u0800\u2028€日本\ufeff\uffff",
    "\U00010000😀🎈\U0010ffff",
)
_NUMBERS = (0, 1, -1, 42, 2**31, -(2**31), 2**63 - 1, -(2**63), 0x0123456789ABCDEF)
_NAMES = tuple("shard é日😀 of a run, and more of it"[:size] for size in range(35))
_LITERALS: tuple[Literal, ...] = (
    *(np.int32(7), np.int32(-1), np.int64(7), np.int64(-(2**63))),
    *("2013-01-01", "", "seven b", "a text é日😀 that is longer than a stripe of 32 bytes"),
)
_SEED = 42


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
    for i, name in enumerate(_NAMES):
        assert xxhash64_of_pair(given_numbers, name).tolist() == found[f"h{i}"].to_pylist(), name


def _numbers(random_: random.Random, count: int) -> dict[str, list[object]]:
    """Numbers of every type that is hashed as one, with the ends of each, by type."""
    found: dict[str, list[object]] = {}
    for bits in (8, 16, 32, 64):
        ends = [0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))]
        numbers = (random_.getrandbits(bits) - 2 ** (bits - 1) for _ in range(count - len(ends)))
        found[f"int{bits}"] = [*ends, *numbers]
    odd = [0.0, -0.0, float("nan"), -float("nan"), float("inf"), -float("inf"), 1e-45, 3.4e38]
    floats = [*odd, *(random_.gauss(0, 1e3) for _ in range(count - len(odd)))]
    return {**found, "float32": [*floats], "float64": [*floats]}


def _lists(random_: random.Random, elements: list[object], count: int) -> list[object]:
    """Lists of up to 9 elements and a few long ones, with nulls among the elements."""
    sizes = [*(random_.randint(0, 9) for _ in range(count - 4)), 0, 150, 300, 1]
    random_.shuffle(sizes)
    return [[random_.choice([None, *elements]) for _ in range(size)] for size in sizes]


def _columns() -> pa.Table:
    """A column of every type that Spark hashes as we do, and one of each with nulls."""
    count, random_ = 140, random.Random(3)
    values = _numbers(random_, count)
    types = {"float32": pa.float32(), "float64": pa.float64()}
    columns = {n: pa.array(v, types.get(n, n)) for n, v in values.items()}
    columns["bool"] = pa.array([random_.random() < 0.5 for _ in range(count)])
    columns["date32"] = columns["int16"].cast(pa.int32()).cast(pa.date32())
    columns["timestamp"] = columns["int32"].cast(pa.int64()).cast(pa.timestamp("us", "UTC"))
    texts: list[object] = ["", "é", *random_.sample(_texts(), count - 2)]
    columns["string"] = pa.array(texts, pa.string())
    raw = [random_.randbytes(random_.randint(0, 70)) for _ in range(count)]
    columns["binary"] = pa.array(raw, pa.binary())
    for kind, elements in (("float32", values["float32"]), ("int32", values["int32"])):
        lists = _lists(random_, elements, count)
        columns[f"list<{kind}>"] = pa.array(lists, pa.list_(columns[kind].type))
    columns["list<string>"] = pa.array(_lists(random_, texts, count), pa.list_(pa.string()))
    nulls = {}
    for name, column in columns.items():
        some = [None if random_.random() < 0.3 else x for x in column.to_pylist()]
        nulls[f"{name}?"] = pa.array(some, column.type)
    nulls["all null"] = pa.nulls(count, pa.string())
    return pa.table({**columns, **nulls})


_TABLE = _columns()
_OF_NUMBERS = [
    n for n, t in zip(_TABLE.column_names, _TABLE.schema.types, strict=True) if hashes_as_numbers(t)
]


def _lit(value: Literal) -> Column:
    if isinstance(value, str):
        return F.lit(value)
    return F.lit(int(value)).cast("int" if isinstance(value, np.int32) else "bigint")


def _chains() -> list[list[str | int]]:
    """Names of columns and numbers of literals, in each of many orders."""
    random_ = random.Random(4)
    names, literals = _TABLE.column_names, range(len(_LITERALS))
    chains: list[list[str | int]] = [[name] for name in names]
    chains += [[literal, name] for literal in literals for name in ("int32", "string?")]
    chains += [[name, literal] for literal in literals for name in ("int64?", "string")]
    chains += [[0, 4, 6, *names], [*names[::-1], 7], [*_OF_NUMBERS]]
    for _ in range(30):
        chain = random_.choices([*names, *literals], k=random_.randint(1, 5))
        chains.append([*chain, random_.choice(names)])
    return chains


_CHAINS = _chains()
Rows = tuple[dict[str, pa.Array], list[list[int]]]


@pytest.fixture(scope="module")
def chained(spark: SparkSession) -> Rows:
    """Columns, and the hashes of their rows by each of the chains."""
    hashes = [
        F.xxhash64(*(F.col(f"`{x}`") if isinstance(x, str) else _lit(_LITERALS[x]) for x in chain))
        for chain in _CHAINS
    ]
    rows = spark.createDataFrame(_TABLE).coalesce(1)
    found = rows.select("*", *(h.alias(f"h{i}") for i, h in enumerate(hashes))).toArrow()
    read = found.combine_chunks()
    columns = {name: read[name].chunk(0).cast(_TABLE[name].type) for name in _TABLE.column_names}
    return columns, [read[f"h{i}"].to_pylist() for i in range(len(hashes))]


def _of(chain: list[str | int], columns: dict[str, pa.Array]) -> list[int]:
    found = xxhash64_of_rows([columns[x] if isinstance(x, str) else _LITERALS[x] for x in chain])
    assert found.dtype == np.int64
    numbers: list[int] = found.tolist()
    return numbers


def test_rows_of_every_type_and_literals_have_sparks_hash(chained: Rows) -> None:
    columns, expected = chained
    assert all(is_hashed(column.type) for column in columns.values())
    assert sum(column.null_count > 0 for column in columns.values()) >= 15
    for chain, hashes in zip(_CHAINS, expected, strict=True):
        assert _of(chain, columns) == hashes, chain


@given(st.data())
def test_parts_of_columns_have_the_parts_hashes(chained: Rows, data: st.DataObject) -> None:
    columns, expected = chained
    number = data.draw(st.integers(0, len(_CHAINS) - 1))
    count = len(expected[number])
    start = data.draw(st.integers(0, count))
    size = data.draw(st.integers(0, count - start))
    part = {name: column.slice(start, size) for name, column in columns.items()}
    assert _of(_CHAINS[number], part) == expected[number][start : start + size]
    places = data.draw(st.lists(st.integers(0, count - 1), max_size=5))
    taken = {name: column.take(pa.array(places, pa.int64())) for name, column in columns.items()}
    assert _of(_CHAINS[number], taken) == [expected[number][place] for place in places]


def _dictionary(column: pa.Array, *, more: int, null: bool) -> pa.Array:
    """The column's values by places in a dictionary that has `more` values, and a null if so."""
    encoded = column.dictionary_encode()
    values = pa.concat_arrays([column.take(pa.array([0] * more, pa.int64())), encoded.dictionary])
    places = pc.add(encoded.indices, more)
    if null:
        values = pa.concat_arrays([values, pa.nulls(1, values.type)])
        places = places.fill_null(len(values) - 1)
    return pa.DictionaryArray.from_arrays(places, values)


def _list_of_dictionary(column: pa.Array) -> pa.Array:
    values = column.values.dictionary_encode()
    return pa.ListArray.from_arrays(column.offsets, values, mask=column.is_null())


def _forms(column: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Other forms of the column, of the same values."""
    kind = column.type
    junk = column.take(pa.array([3, 2, 1, 0, 5], pa.int64()))
    yield "in the middle", pa.concat_arrays([junk, column, junk]).slice(5, len(column))
    if pa.types.is_list(kind):
        yield "large list", column.cast(pa.large_list(kind.value_type))
        yield "list of dictionary", _list_of_dictionary(column)
        return
    yield "dictionary", column.dictionary_encode()
    yield "dictionary with more", _dictionary(column, more=1, null=False)
    yield "dictionary with null", _dictionary(column, more=2, null=True)
    yield "large dictionary", _dictionary(column, more=300, null=False)
    if kind in (pa.string(), pa.binary()):
        large = pa.large_string() if kind == pa.string() else pa.large_binary()
        yield "large", column.cast(large)
        yield "large dictionary of large", _dictionary(column.cast(large), more=3, null=True)
        yield "large binary", column.cast(pa.large_binary())


def test_other_forms_of_the_values_have_the_same_hash(chained: Rows) -> None:
    columns, expected = chained
    # Alone, where all rows have one hash before, and after another column.
    plain = columns["int64"]
    for name, column in columns.items():
        alone = expected[_CHAINS.index([name])]
        after = xxhash64_of_rows([plain, column]).tolist()
        for form, other in _forms(column):
            assert is_hashed(other.type) and len(other) == len(column), (name, form)
            assert xxhash64_of_rows([other]).tolist() == alone, (name, form)
            assert xxhash64_of_rows([plain, other]).tolist() == after, (name, form)
            part = [plain.slice(11, 30), other.slice(11, 30)]
            assert xxhash64_of_rows(part).tolist() == after[11:41], (name, form)


@pytest.mark.parametrize("index", [pa.int8(), pa.uint8(), pa.int16(), pa.int64()])
def test_a_dictionary_has_places_of_any_type(index: pa.DataType) -> None:
    texts = pa.array([f"text {i}" for i in range(127)] + [None])
    column = texts.cast(pa.dictionary(index, pa.string()))
    assert len(column.dictionary) == 127
    assert xxhash64(column).tolist() == xxhash64(texts).tolist()
    assert xxhash64(texts).tolist()[-1] == _SEED


def test_what_stands_under_a_null_is_not_hashed() -> None:
    texts = pa.array(["some", "text", "more than 32 bytes of it, so that it has a stripe"])
    valid = pa.py_buffer(bytes([0b010]))
    hidden = pa.Array.from_buffers(pa.string(), 3, [valid, *texts.buffers()[1:]])
    assert hidden.to_pylist() == [None, "text", None]
    one = xxhash64(texts).tolist()[1]
    assert xxhash64(hidden).tolist() == [_SEED, one, _SEED]
    mask = pa.array([True, False, True])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), texts, mask=mask)
    assert xxhash64_of_rows([lists]).tolist() == [_SEED, one, _SEED]
    of_hidden = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), hidden)
    assert xxhash64_of_rows([of_hidden]).tolist() == [_SEED, one, _SEED]


@given(st.lists(st.text(max_size=9), max_size=9))
def test_texts_may_end_where_their_buffer_ends(texts: list[str]) -> None:
    column = pa.array(texts, pa.string())
    bare = b"".join(text.encode() for text in texts)
    ends = np.cumsum([0, *(len(text.encode()) for text in texts)]).astype(np.int32)
    buffers = [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(bare)]
    exact = pa.Array.from_buffers(pa.string(), len(texts), buffers)
    padded = pa.concat_arrays([column, pa.array(["and more after them"])]).slice(0, len(texts))
    assert xxhash64(exact).tolist() == xxhash64(padded).tolist()


@given(st.lists(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=5), max_size=8))
def test_a_list_has_the_hash_of_its_elements_as_columns(lists: list[list[str | None]]) -> None:
    found = xxhash64_of_rows([pa.array(lists, pa.list_(pa.string()))]).tolist()
    for own, value in zip(lists, found, strict=True):
        columns = [pa.array([element], pa.string()) for element in own]
        assert value == (xxhash64_of_rows(columns).tolist()[0] if own else _SEED)


@given(st.integers(0, 7), st.integers(0, len(_TABLE)), st.data())
def test_a_literal_is_a_column_of_it(number: int, count: int, data: st.DataObject) -> None:
    literal = _LITERALS[number]
    whole = pa.array([literal] * count, pa.string() if isinstance(literal, str) else None)
    if not count:
        whole = whole.cast(pa.string())
    names = data.draw(st.lists(st.sampled_from(_TABLE.column_names), min_size=1, max_size=3))
    columns = [_TABLE[name].chunk(0).slice(0, count) for name in names]
    place = data.draw(st.integers(0, len(columns)))
    by_literal = xxhash64_of_rows([*columns[:place], literal, *columns[place:]])
    by_column = xxhash64_of_rows([*columns[:place], whole, *columns[place:]])
    assert by_literal.tolist() == by_column.tolist()


def _many_texts(random_: random.Random) -> list[str]:
    """Texts of all lengths that lines of a log have, some of thousands and few of many more."""
    sizes = [random_.randint(0, 400) for _ in range(20_000)]
    for place in random_.sample(range(len(sizes)), 40):
        sizes[place] = random_.choice([4095, 4096, 4097, 5000, 9000, 20_001])
    return [
        "".join(random_.choices("abc é日😀", k=8)) * (size // 8) + "x" * (size % 8)
        for size in sizes
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_more_rows_than_are_hashed_at_a_time(spark: SparkSession, seed: int) -> None:
    random_ = random.Random(seed)
    texts = _many_texts(random_)
    lists = [texts[i : i + random_.choice([0, 1, 2, 3, 7])] for i in range(len(texts))]
    lists[777] = [text[:9] for text in texts[:300]]
    table = pa.table({"n": pa.array(range(len(texts))), "x": texts, "l": lists})
    hashes = {
        "n": F.xxhash64("n"),
        "x": F.xxhash64("x"),
        "nx": F.xxhash64("n", "x"),
        "l": F.xxhash64("l"),
        "xl": F.xxhash64("x", "l"),
    }
    rows = spark.createDataFrame(table).coalesce(1)
    found = rows.select("n", *(h.alias(f"h{name}") for name, h in hashes.items())).toArrow()
    assert found["n"].to_pylist() == table["n"].to_pylist()
    for name in hashes:
        columns = [table[column].combine_chunks() for column in name]
        assert np.array_equal(xxhash64_of_rows(columns), found[f"h{name}"].to_numpy()), name


def test_numbers_have_the_hash_of_their_column() -> None:
    numbers = np.array([*_NUMBERS, *range(10_000)], np.int64)
    found = xxhash64_of_numbers(numbers)
    assert found.dtype == np.uint64
    assert found.view(np.int64).tolist() == xxhash64_of_rows([pa.array(numbers)]).tolist()


@pytest.mark.parametrize("name", _TABLE.column_names)
def test_no_rows_have_no_hashes(name: str) -> None:
    kind = _TABLE.schema.field(name).type
    for none in (pa.array([], kind), pa.array([None], kind).slice(1), pa.array([None], kind)[:0]):
        assert xxhash64_of_rows([none]).tolist() == []
        assert xxhash64_of_rows(["a", none, none, np.int32(7)]).tolist() == []


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.binary(), pa.list_(pa.int32()), pa.decimal128(9, 2), pa.uint32()]
)
def test_other_types_are_not_hashed_as_numbers(kind: pa.DataType) -> None:
    assert not hashes_as_numbers(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.uint32(), pa.float16(), pa.decimal128(9, 2), pa.timestamp("ms"), pa.date64()),
        *(pa.list_(pa.list_(pa.int32())), pa.struct([("a", pa.int32())]), pa.null()),
        *(pa.list_(pa.uint8()), pa.dictionary(pa.int32(), pa.uint64()), pa.string_view()),
    ],
)
def test_types_that_spark_hashes_otherwise_are_refused(kind: pa.DataType) -> None:
    assert not is_hashed(kind)
    with pytest.raises(TypeError, match="no xxhash64"):
        xxhash64_of_rows([pa.array([], kind)])


@given(st.lists(st.lists(st.text(max_size=40), max_size=4), max_size=5), st.booleans())
def test_chunks_hash_as_one_column(chunks: list[list[str]], numbered: bool) -> None:
    column = pa.chunked_array(chunks, pa.string())
    before = [pa.array(np.arange(len(column)))] if numbered else ["a seed of all"]
    found = xxhash64_of_rows([*before, column])
    assert found.tolist() == xxhash64_of_rows([*before, whole(column)]).tolist()
