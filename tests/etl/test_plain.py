"""Plain lines: what Arrow finds valid Spark's expressions do too, with the same bits; whichever way
a line takes, the rows are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.etl.judge import Judging
from jobs.etl.names import DS, RAW, REASONS, SOURCE_FILE, SPLIT
from jobs.etl.plain import PlainLane, plain_lane
from jobs.etl.split import split_of
from jobs.etl.validate import checked_rows, survey
from jobs.lake.lake import Lake
from jobs.settings.etl import SplitSettings
from schemas.dataset import ROW_ID, Column, Dataset, Join, Source
from schemas.field import (
    Carried,
    Categorical,
    CategoricalList,
    Cyclic,
    Field,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Timestamp,
    Weight,
)
from schemas.hashed import Bucketized, Hashed
from schemas.text import Lower
from tests.builders.hostile import (
    ALL_TYPES,
    BARE,
    CLICKS,
    OF_LABEL,
    ONE_COLUMN,
    RULED_TEXTS,
    RULES,
    Hostile,
    ruled,
    write_files,
)

DATES = ("2026-01-01", "2026-01-02")
# Arrow parses so much at a time; more of it shows what lies across.
_BLOCK_BYTES = 1 << 20
_BOM = "\ufeff".encode()
Mask = npt.NDArray[np.bool_]
Rows = Counter[tuple[Any, ...]]


@dataclass(frozen=True)
class Judged:
    """Lines of a declaration in files of two dates, and what Spark's expressions make of them.

    Attributes:
        rows: all rows with their split, texts as bytes.
    """

    hostile: Hostile
    judging: Judging
    rows: pa.Table

    @cached_property
    def lane(self) -> PlainLane:
        lane = plain_lane(self.hostile.dataset, self.judging.with_label)
        assert lane is not None
        return lane

    @cached_property
    def known(self) -> dict[bytes, int]:
        """A row of each line that is UTF-8: where a lane may judge it."""
        lines = self.rows[RAW].to_pylist()
        places = {line: place for place, line in reversed([*enumerate(lines)])}
        return {line: place for line, place in sorted(places.items()) if _is_utf8(line)}

    @cached_property
    def texts(self) -> pa.StringArray:
        return pa.array([line.decode() for line in self.known], pa.string())

    @cached_property
    def truth(self) -> pa.Table:
        """What Spark makes of each of `texts`."""
        return self.rows.take(pa.array(self.known.values())).combine_chunks()

    @cached_property
    def refused(self) -> Mask:
        return np.asarray(pc.list_value_length(self.truth[REASONS])) > 0

    def places(self, lines: Iterable[bytes]) -> list[int]:
        """Of those of the lines that Spark read as one, and that are UTF-8."""
        by_line = {line: place for place, line in enumerate(self.known)}
        # A byte order mark is none of the text.
        found = (by_line.get(line, by_line.get(line.removeprefix(_BOM))) for line in lines)
        return [place for place in found if place is not None]

    def plain(self, places: Sequence[int]) -> npt.NDArray[np.int64]:
        """Those of the lines that the lane, given these, calls plain; they must be as for Spark."""
        values, odd = self.lane(self.texts.take(pa.array(places, pa.int64())))
        assert odd.shape == (len(places),) and odd.dtype == bool
        assert {name: value.type for name, value in values.items()} == self.lane.types
        plain = np.array(places, np.int64)[~odd]
        assert [self._shown(place) for place in plain[self.refused[plain]]] == []
        for name, found in values.items():
            expected = _exact(self.truth[name].take(pa.array(plain)))
            got = _exact(found)
            if not got.equals(expected):
                pairs = zip(plain, got.to_pylist(), expected.to_pylist(), strict=True)
                wrong = [(self._shown(place), a, b) for place, a, b in pairs if a != b]
                assert (name, wrong[:5]) == (name, [])
        return plain

    def _shown(self, place: int) -> tuple[str, list[bytes]]:
        return self.texts[place].as_py()[:500], self.truth[REASONS][place].as_py()


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _exact(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Values that are equal only where their bits are."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_floating(array.type):
        null = np.asarray(array.is_null())
        return pa.array(array.fill_null(0).to_numpy().view(np.int32), mask=null)
    return array.cast(pa.binary()) if pa.types.is_string(array.type) else array


def _collected(rows: DataFrame) -> pa.Table:
    """The rows, with texts as bytes, since Arrow takes no text that is no UTF-8."""
    kinds = {f.name: f.dataType.simpleString() for f in rows.schema}
    as_bytes = {"string": "binary", "array<string>": "array<binary>"}
    columns = [F.col(name).cast(as_bytes.get(kind, kind)) for name, kind in kinds.items()]
    return rows.select(*[c.alias(name) for c, name in zip(columns, kinds, strict=True)]).toArrow()


def _counted(table: pa.Table, dataset: Dataset) -> Rows:
    names = [DS, ROW_ID, RAW, SOURCE_FILE, SPLIT, *(f.name for f in dataset.fields)]
    assert {*table.column_names} == {*names, REASONS}
    columns = [_exact(table[name]).to_pylist() for name in names]
    reasons = [tuple(found) for found in table[REASONS].to_pylist()]
    return Counter(zip(*columns, reasons, strict=True))


def _files(hostile: Hostile) -> dict[str, list[list[bytes]]]:
    """Three files: sound lines and hostile ones, some of each once more in the same file, in
    another and on another date."""
    sound, hostiles = hostile.sound_lines(300), hostile.hostile_lines(1000)
    again = [*sound[:60], *hostiles[::15]]
    # Parsers skip a byte order mark where it stands first of all that they get.
    marked = _BOM * 2 + sound[0]
    return {
        DATES[0]: [[*hostiles[::2], *sound[:200], *again], [*sound[200:], *hostiles[1::2]]],
        DATES[1]: [[marked, *again[::2], *again[::3], b"\xff", *again[::5]]],
    }


CASES = {
    "clicks": (CLICKS, True),
    "all_types": (ALL_TYPES, True),
    "all_types_scored": (replace(ALL_TYPES, columns=(0, 3, 16, 18), types=(18,)), False),
    "bare": (BARE, True),
    "one_column": (ONE_COLUMN, True),
}


@pytest.fixture(scope="module", params=CASES)
def judged(
    request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Judged:
    hostile, with_label = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    for ds, files in _files(hostile).items():
        write_files(folder / f"day_{ds}", hostile, files)
    sources = {hostile.dataset.rows: f"{folder}/day_{{ds}}/*.txt"}
    found = survey(spark, hostile.dataset, sources, DATES)
    split = split_of(hostile.dataset, SplitSettings())
    args = (spark, hostile.dataset, sources, DATES)
    rows = checked_rows(*args, with_label, found).withColumn(SPLIT, split)
    return Judged(hostile, Judging(*args, found, split, with_label), _collected(rows))


def test_plain_lines_have_the_values_that_spark_gives_and_no_reasons(judged: Judged) -> None:
    assert judged.refused.sum() > 100
    plain = judged.plain(range(len(judged.texts)))
    # And it is worth it: no line that is as lines are is odd, whatever stands beside it.
    sound = judged.places(judged.hostile.sound_lines(300))
    assert len(sound) == 300 and not judged.refused[sound].any()
    assert {*sound} <= {*plain.tolist()}
    assert judged.plain(sound).tolist() == sound


def test_a_line_alone_is_judged_as_strictly(judged: Judged) -> None:
    # Numbers are read more freely where none of the lines has a text for one.
    hostile = judged.hostile
    misshapen = [*hostile.misshapen(0)]
    telling = [line for column in hostile.types for line in hostile.with_telling(column)]
    places = judged.places([*telling, *misshapen])
    alone = [place for place in places if len(judged.plain([place]))]
    assert len(places) > 150 and alone
    # As free as alone are they together, in many blocks, with lines between that are no rows.
    mark, fields = hostile.source.delimiter.encode(), len(hostile.source.columns)
    no_rows = judged.places(line for line in misshapen if line.count(mark) + 1 != fields)
    several = {*alone, *no_rows}
    times = 3 * _BLOCK_BYTES // sum(len(judged.texts[place].as_py()) for place in several) + 2
    many = np.random.default_rng(1).permutation([*several] * times)
    plain = Counter(judged.plain(many.tolist()).tolist())
    assert plain == Counter(dict.fromkeys(alone, times))


@pytest.mark.parametrize("label", ["", "NA", "abc", "1e400", " ", "NaN", "日本"])
def test_in_scoring_a_line_is_plain_whatever_its_label(label: str) -> None:
    lines = [line.decode().rpartition(",")[0] for line in ALL_TYPES.sound_lines(20)]
    lane = plain_lane(ALL_TYPES.dataset, with_label=False)
    assert lane is not None
    values, odd = lane(pa.array([f"{line},{label}" for line in lines]))
    assert not odd.any()
    assert values["target"].null_count == len(lines)


@settings(max_examples=60)
@given(st.data())
def test_neighbours_and_places_change_no_value(judged: Judged, data: st.DataObject) -> None:
    some = st.integers(0, len(judged.texts) - 1)
    places = data.draw(st.lists(some, max_size=8))
    plain = judged.plain(places)
    start = data.draw(st.integers(0, len(places)))
    # A slice of the lines, which Arrow keeps with all that it is a slice of.
    lines = judged.texts.take(pa.array(places, pa.int64()))
    values, odd = judged.lane(lines.slice(start))
    again, odd_again = judged.lane(pa.array(lines.slice(start).to_pylist(), pa.string()))
    assert odd.tolist() == odd_again.tolist()
    assert all(_exact(values[name]).equals(_exact(again[name])) for name in values)
    assert len(plain) <= len(places)


def test_the_rows_kept_are_those_that_spark_judges(judged: Judged, tmp_path: Path) -> None:
    dataset = judged.hostile.dataset
    kept = judged.judging.kept(Lake(str(tmp_path), dataset.name), "run")
    assert any(file.path.startswith("plain") for file in kept.files)
    assert any(file.path.startswith("judged") for file in kept.files)
    found = _counted(_collected(kept.rows()), dataset)
    expected = _counted(_as_kept(judged.rows), dataset)
    assert [*(found - expected)][:3] == [*(expected - found)][:3] == []
    repeated = judged.judging.found.repeated
    assert repeated is not None and len(repeated) > 50


def _as_kept(rows: pa.Table) -> pa.Table:
    """Of valid rows the split, of refused ones the text."""
    valid = pc.equal(pc.list_value_length(rows[REASONS]), 0)
    none = pa.scalar(None, rows[RAW].type)
    for name, where in ((SPLIT, valid), (RAW, pc.invert(valid))):
        place = rows.column_names.index(name)
        rows = rows.set_column(place, name, pc.if_else(where, rows[name], none))
    return rows


# Rules of columns, one at a time


@pytest.mark.parametrize(("columns", "with_label"), [(RULES, True), (OF_LABEL, False)])
def test_a_rule_means_what_it_means_to_spark(
    columns: Sequence[Column], with_label: bool, spark: SparkSession, tmp_path: Path
) -> None:
    # Spark judges all columns at once: each line has a text in one, and nulls in the others.
    dataset = ruled(columns)
    cells = [(i, text) for i in range(len(columns)) for text in RULED_TEXTS]
    lines = [["1", f"{i}/{j}"] + [""] * len(columns) for j, (i, _) in enumerate(cells)]
    for line, (i, text) in zip(lines, cells, strict=True):
        line[2 + i] = f'"{text}"' if "," in text else text
    (tmp_path / DATES[0]).mkdir()
    (tmp_path / DATES[0] / "0.csv").write_text("\n".join(map(",".join, lines)), encoding="utf-8")
    sources = {dataset.rows: f"{tmp_path}/{{ds}}/*.csv"}
    found = survey(spark, dataset, sources, DATES[:1])
    rows = _collected(checked_rows(spark, dataset, sources, DATES[:1], with_label, found))
    truth = {row["any"].decode(): row for row in rows.to_pylist()}
    assert any(row[REASONS] for row in truth.values()) or not with_label
    lanes = [plain_lane(ruled([column]), with_label) for column in columns]
    assert any(lanes)
    for i, (column, lane) in enumerate(zip(columns, lanes, strict=True)):
        if lane is None:
            continue
        own = [(j, text) for j, (k, text) in enumerate(cells) if k == i and "," not in text]
        for some in (own, *([one] for one in own)):
            texts = [f"1,{i}/{j},{text}" for j, text in some]
            values, odd = lane(pa.array(texts, pa.string()))
            plain = [f"{i}/{j}" for (j, _), strange in zip(some, odd, strict=True) if not strange]
            name = f"x_{column.name}"
            assert [truth[line] for line in plain if truth[line][REASONS]] == []
            expected = pa.array([truth[line][name] for line in plain], _binary(values[name].type))
            assert _exact(values[name]).equals(_exact(expected)), (column, texts[:3])


def _binary(type_: pa.DataType) -> pa.DataType:
    return pa.binary() if pa.types.is_string(type_) else type_


# Declarations that need Spark's expressions

_COLUMNS = (
    Column("y", "int", of_label=True),
    Column("a", "string", pattern="^[a-z]{2}$"),
    Column("b", "string"),
    Column("x", "double", min=0),
)
_FIELDS: tuple[Field, ...] = (
    Label("y"),
    Categorical("a_id", "a"),
    Numeric("x"),
    Carried("text", "b"),
)


def _declared(columns: Sequence[Column] = (), fields: Sequence[Field] = (), **more: Any) -> Dataset:
    source = Source("some", columns=(*_COLUMNS, *columns), **more.pop("layout", {}))
    sources = (source, *more.pop("parents", ()))
    label = () if any(isinstance(f, Label) for f in fields) else _FIELDS[:1]
    given_key = more.pop("key", ())
    return Dataset("some", sources, "some", given_key, (*label, *_FIELDS[1:], *fields), **more)


@pytest.mark.parametrize(
    "dataset",
    [
        _declared(key=("b",)),
        _declared(entity=("b",)),
        _declared(ds="b"),
        _declared(
            parents=(Source("parent", columns=(Column("k", "string"),)),),
            joins=(Join("parent", on=(("b", "k"),)),),
        ),
        _declared(layout={"format": "json"}),
        _declared(layout={"format": "parquet"}),
        _declared(layout={"delimiter": "||"}),
        _declared(layout={"delimiter": "é"}),
        _declared([Column("t", "timestamp")]),
        _declared([Column("t", "date")]),
        _declared([Column("t", "boolean")]),
        _declared([Column("t", "string", min=1)]),
        _declared([Column("t", "int", pattern="^[0-9]{2}$")]),
        _declared([Column("t", "string", pattern="^[a-z]+$")]),
        _declared([Column("t", "string", pattern="^(?i)[a-z]{2}$")]),
        _declared([Column("t", "string", pattern="[a-z]{2}")]),
        _declared(fields=[Categorical("c", "b"), Categorical("ac", crossed=("a_id", "c"))]),
        _declared(fields=[Categorical("c", "b", transforms=(Lower(),))]),
        _declared(fields=[Categorical("c", "x")]),
        _declared(fields=[Categorical("c", "upper(b)")]),
        _declared(fields=[Hashed("c", "b")]),
        _declared(fields=[Bucketized("c", "x", boundaries=(1.0,))]),
        _declared(fields=[Numeric("n", "x + 1")]),
        _declared(fields=[Numeric("n", "b")]),
        _declared(fields=[Numeric("n", "x", (Cyclic(24, "sin"),))]),
        _declared(fields=[Timestamp("t", "b")]),
        _declared(fields=[Carried("c", "x")]),
        _declared(fields=[Carried("c", "b", type="int")]),
        _declared(fields=[Weight("w", "x * 2")]),
        _declared(fields=[Label("l", "x", task="multiclass", classes=3)]),
        _declared(fields=[Label("l", "CAST(b AS FLOAT)")]),
        _declared(fields=[CategoricalList("c", "split(b, ' ')", max_length=3)]),
        _declared(fields=[NumericList("c", "array(x)", max_length=3)]),
        _declared(fields=[Tensor("c", "array(x)", shape=(1,))]),
    ],
)
@pytest.mark.parametrize("with_label", [True, False])
def test_rows_that_need_expressions_have_no_lane(dataset: Dataset, with_label: bool) -> None:
    assert plain_lane(_declared(), with_label) is not None
    assert plain_lane(dataset, with_label) is None


@pytest.mark.parametrize(
    "column",
    [
        Column("null", "double"),
        Column("true", "double"),
        Column("x", "int", allowed=(0.5, 1.0)),  # type: ignore[arg-type]
    ],
)
def test_what_spark_reads_as_something_else_has_no_lane(column: Column) -> None:
    source = Source("rows", columns=(Column("y", "int"), column), header=False)
    fields = (Label("label", "y"), Numeric("v", column.name))
    dataset = Dataset("odd_names", (source,), "rows", (), fields)
    assert plain_lane(dataset, with_label=True) is None
