"""Lines of JSON: what an object is, and which text a value has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.rows.base.names import ROW_TEXT
from schemas.dataset import Column, Dataset, Source
from schemas.field import Carried, Categorical, Label, Numeric
from tests.rows.engines import files_of, judged, raw_rows, reasons_of, values_of, write

NESTED = Source(
    "nested",
    format="json",
    columns=(
        Column("id", "bigint", nullable=False),
        Column("name", "string", path="user.name"),
        Column("city", "string", path="user.address.city"),
        Column("price", "double"),
        Column("flag", "boolean"),
    ),
)
DATASET = Dataset(
    "nested",
    (NESTED,),
    "nested",
    (),
    (
        Label("y", "1"),
        Numeric("id"),
        Carried("id_as_is", "id", type="bigint"),
        Carried("name"),
        Carried("city"),
        Carried("price", type="double"),
        Carried("flag", type="boolean"),
        Categorical("name_id", "name"),
    ),
)


def lines(folder: Path, *given: str) -> Path:
    return write(folder, {"a.json": "".join(line + "\n" for line in given)}) / "a.json"


def test_values_keep_their_text(tmp_path: Path) -> None:
    given = [
        '{"id": 1, "user": {"name": 1.50, "address": {"city": "B\\u00e9 1.5,"}}, "price": 2}',
        '{"price": 1.25, "id": "2", "user": {"name": "ann"}, "unknown": [1.5, {"a": -2E+5}]}',
        '{"id": 3, "user": {"name": 12345678901234567890.10}, "flag": true}',
        '{"id": 4, "user": null, "price": null, "flag": "no"}',
        '{"id": 5, "user": {"name": [1.50, "1.50"], "address": {"city": 1e400}}, "flag": 1}',
        '{"id": 6, "user": {"name": "", "address": {"city": -0.0}}}',
        '{"id": -0, "user": {"name": -0, "address": {"city": 0}}, "price": -0}',
        '{"id": 7, "user": {"name": true, "address": {"city": 1E5}}}',
        '{"id": 8, "user": {"name": 18446744073709551616, "address": {"city": "\\"1.50\\" 1.50"}}}',
    ]
    found = judged(DATASET, lines(tmp_path, *given))
    assert reasons_of(found) == {}
    assert values_of(found, "id_as_is", "name", "city", "price", "flag") == [
        (1, "1.50", "Bé 1.5,", 2.0, None),
        (2, "ann", None, 1.25, None),
        (3, "12345678901234567890.10", None, None, True),
        (4, None, None, None, False),
        (5, '[1.5,"1.50"]', "1e400", None, True),
        (6, "", "-0.0", None, None),
        (0, "-0", "0", 0.0, None),
        (7, "true", "1E5", None, None),
        (8, "18446744073709551616", '"1.50" 1.50', None, None),
    ]
    raw = raw_rows(NESTED, files_of(tmp_path))
    assert raw[ROW_TEXT].to_pylist() == given


HOSTILE = (
    ('{"id": 1}{"id": 2}', "malformed"),
    ('{"id": 1}, {"id": 2}', "malformed"),
    ('{"id": 1}] {"id": 2}', "malformed"),
    ('{"id": 1} junk', "malformed"),
    ('{"id": 1} // note', "malformed"),
    ('{"id": 1,}', "malformed"),
    ('{"id": 1, "user": {"name": [1, \t]}}', "malformed"),
    ('{"id": 1, "user": {"name": ",}", "address": ",]"}}', ""),
    ('{"id": 1, "user": {"name": "\\",}"}}', ""),
    ('{"id": 1, "user": {"name": "\\\\",}}', "malformed"),
    ('{"id": 1, "user": {"name": "\\ud83d",}}', "encoding"),
    ('[{"id": 1}]', "malformed"),
    ("{'id': 1}", "malformed"),
    ('{"id": 1, "price": 1.5', "malformed"),
    ('{"id": 1, "price": 01.5}', "malformed"),
    ('{"id": 1, "price": +1.5}', "malformed"),
    ("null", "malformed"),
    ("{}", "null:id"),
    ('{"id": 1, "price": NaN}', "unparsable:price"),
    ('{"id": 1, "price": -Infinity}', "unparsable:price"),
    ('{"id": 1, "user": {"name": NaN}}', ""),
    ('{"id": 1, "price": "NaN"}', "unparsable:price"),
    ('{"id": 1, "price": 1e999}', "unparsable:price"),
    ('{"id": 1, "price": ""}', "unparsable:price"),
    ('{"id": 1, "price": true}', "unparsable:price"),
    ('{"id": 1, "price": [1]}', "unparsable:price"),
    ('{"id": true}', "unparsable:id"),
    ('{"id": 1.0}', "unparsable:id"),
    ('{"id": 1e2}', "unparsable:id"),
    ('{"id": 9223372036854775808}', "unparsable:id"),
    ('{"id": 1, "user": {"name": "\\ud83d\\ude00"}}', ""),
    ('{"id": 1, "user": {"name": "\\\\ud83d"}}', ""),
    ('{"id": 1, "user": {"name": "\\ud83d"}}', "encoding"),
    ('{"id": 1, "user": {"name": "\\ude00"}}', "encoding"),
    ('{"id": 1, "user": {"name": "\\ud83d"}', "malformed"),
    ('{"id": 1, "user": {"name": "' + '\\n"'.join(["x"] * 3) + '"}}', "malformed"),
    ('{"id": 1, "price": 1.5, "user": {"name": "' + "\\n" * 100_000 + '"}}', ""),
    ('{"id": 1, "user": {"name": ' + "[" * 500 + "]" * 500 + "}}", ""),
    ('{"id": 1, "user": {"name": "a\0b"}}', "malformed"),
    ('{"id": 1, "user": {"name": "a\tb"}}', "malformed"),
)


@pytest.mark.parametrize(("line", "reason"), HOSTILE)
def test_hostile_lines(line: str, reason: str, tmp_path: Path) -> None:
    # Beside lines of all kinds, since numbers are looked at where a line has one.
    others = ['{"id": 7, "user": {"name": 1.50}}', '{"id": "x"}']
    found = judged(DATASET, lines(tmp_path, others[0], line, others[1]))
    expected: dict[str, Any] = {others[1]: ["unparsable:id"]}
    if reason:
        expected[line] = [reason]
    assert reasons_of(found) == expected
    assert values_of(found, "name")[0] == "1.50"


def test_of_a_key_that_stands_twice_the_first_value_counts(tmp_path: Path) -> None:
    found = judged(
        DATASET,
        lines(
            tmp_path,
            '{"id": 1, "id": 2, "user": {"name": "a", "name": "b"}}',
            '{"id": 1, "user": {"name": 1.50, "name": 2.50}, "user": 3}',
        ),
    )
    assert values_of(found, "id_as_is", "name") == [(1, "a"), (1, "1.50")]


def test_an_escaped_zero_is_a_character(tmp_path: Path) -> None:
    found = judged(DATASET, lines(tmp_path, '{"id": 1, "user": {"name": "a\\u0000b"}}'))
    assert values_of(found, "name") == ["a\0b"]


def test_names_that_need_quotes(tmp_path: Path) -> None:
    columns = (Column("a.b", "string"), Column('say "x"', "string"), Column("$", "string"))
    source = Source("odd", format="json", columns=columns)
    line = json.dumps({"a.b": "1", 'say "x"': "2", "$": "3", "a": {"b": "4"}})
    raw = raw_rows(source, files_of(lines(tmp_path, line)))
    assert [raw[column.name].to_pylist() for column in columns] == [["1"], ["2"], ["3"]]


@pytest.mark.parametrize("content", ["", "\n", " \n\n"])
def test_an_empty_file_has_no_rows(content: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.json": content, "b.json": '{"id": 1}\n'})
    assert raw_rows(NESTED, files_of(folder)).num_rows == 1


def test_other_encodings(tmp_path: Path) -> None:
    content = '{"id": 1, "user": {"name": "é"}}\n'.encode("utf-16")
    write(tmp_path, {"a.json": content})
    source = Source("nested", NESTED.columns, format="json", encoding="utf-16")
    raw = raw_rows(source, files_of(tmp_path))
    assert raw["name"].to_pylist() == ["é"]
    assert isinstance(raw, pa.Table)
