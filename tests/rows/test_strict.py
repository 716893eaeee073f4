"""What a text is as a value of a type is said by the text alone, whatever stands beside it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.base.errors import ConfigError
from jobs.rows.base.duck import connection, registered
from jobs.rows.judge.casts import cast
from jobs.rows.judge.expressions import refuse_bad_expressions
from jobs.rows.judge.strict import strict
from schemas.dataset import Column
from schemas.field import Carried
from tests.rows.engines import ONE, declared, judged, reasons_of, values_of, write


def texts_of(alphabet: str, most: int) -> list[str]:
    """All texts of some characters."""
    lengths = range(1, most + 1)
    return ["".join(t) for n in lengths for t in itertools.product(alphabet, repeat=n)]


@pytest.mark.parametrize(
    ("type_", "alphabet", "most"),
    [
        ("double", "1+-.eE ", 5),
        ("float", "1+-.eE ", 4),
        ("int", "1+-.eE ", 4),
        ("bigint", "10+- ", 5),
        ("double", "10_xn", 4),
        ("boolean", "tTnNo01 ", 4),
    ],
)
def test_a_text_has_one_value(type_: str, alphabet: str, most: int) -> None:
    texts = texts_of(alphabet, most)
    alone = pa.chunked_array([chunk for text in texts for chunk in strict_of([text], type_).chunks])
    beside = strict_of([*texts, "abc"], type_).slice(0, len(texts))
    found = pa.table({"text": texts, "alone": alone, "beside": beside})
    sql = (
        f"SELECT text, {cast('alone', type_, False)} a, {cast('beside', type_, False)} b FROM found"
    )
    with connection(512) as duck, registered(duck, {"found": found}):
        rows = duck.sql(sql).fetchall()
    assert [row for row in rows if row[1] != row[2]] == []
    assert {a is None for _, a, _ in rows} == {True, False}


def strict_of(texts: list[str], type_: str) -> pa.ChunkedArray:
    return strict(pa.chunked_array([texts], pa.string()), type_)


@pytest.mark.parametrize("beside", ["2", "abc"])
@pytest.mark.parametrize("day", ["2024-01-01", "2024-01-02"])
def test_two_signs_are_no_number_beside_any_other(beside: str, day: str, tmp_path: Path) -> None:
    dataset = declared(
        Column("d", "date"), Column("x", "double"), ds="d", fields=(ONE, Carried("x"))
    )
    lines = "".join(f"2024-01-01,{text}\n" for text in ("+-1", "1e+2", "+1"))
    found = judged(dataset, write(tmp_path, {"0.csv": f"{lines}{day},{beside}\n"}), "2024-01-01")
    assert reasons_of(found).pop("2024-01-01,+-1") == ["unparsable:x"]
    assert values_of(found, "x")[:2] == ["100.0", "1.0"]


MIDNIGHT = "2024-01-01T00:00:00+02:00"


@pytest.mark.parametrize(
    ("type_", "allowed", "good", "bad"),
    [
        ("timestamp", (MIDNIGHT,), [MIDNIGHT, "2023-12-31 22:00"], ["2024-01-01"]),
        ("date", ("2024-1-1",), ["2024-01-01"], ["2024-01-02"]),
        ("boolean", (True,), ["yes", "1"], ["no"]),
        ("boolean", (" Yes",), ["yes", "1"], ["no"]),
        ("int", (1, "+2", " 3"), ["1", "2", "03"], ["4"]),
        ("float", (0.1,), ["0.1", ".10"], ["0.2"]),
        ("string", (1, " a"), ["1", " a"], ["01", "a"]),
    ],
)
def test_allowed_values_are_read_as_the_columns_own(
    type_: str, allowed: tuple[Any, ...], good: list[str], bad: list[str], tmp_path: Path
) -> None:
    dataset = declared(Column("v", type_, allowed=allowed), Column("n", "int"), fields=(ONE,))
    refuse_bad_expressions(dataset)
    lines = "".join(f"{text},1\n" for text in (*good, *bad))
    found = judged(dataset, write(tmp_path, {"0.csv": lines}))
    assert reasons_of(found) == {f"{text},1": ["not_allowed:v"] for text in bad}


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("int", 1.5),
        ("int", "1_0"),
        ("tinyint", 300),
        ("date", "today"),
        ("double", "nan"),
        ("timestamp", "2024-01-01T00:00:00+25:00"),
    ],
)
def test_allowed_values_of_no_such_type_are_refused(type_: str, value: Any) -> None:
    dataset = declared(Column("v", type_, allowed=(value,)), fields=(ONE,))
    with pytest.raises(ConfigError, match=f"column 'v' has {re.escape(repr(value))} among"):
        refuse_bad_expressions(dataset)
