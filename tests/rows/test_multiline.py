"""Quoted values that hold ends of lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.base.errors import DataRefused
from jobs.rows.base.names import ROW_TEXT
from jobs.rows.read.lines import read_lines
from tests.rows.engines import THINGS, marks_of, pairs, rows_of, write

MULTILINE = replace(THINGS, multiline=True)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quoted_line_breaks(end: str, tmp_path: Path) -> None:
    content = 'id,name\n1,"a\n""b"",\n\nc"\n2,z\n'.replace("\n", end)
    raw = rows_of(MULTILINE, tmp_path, content)
    assert pairs(raw) == [("1", 'a\n"b",\n\nc'), ("2", "z")]
    assert raw[ROW_TEXT].to_pylist() == ['1,"a\n""b"",\n\nc"', "2,z"]


def test_a_bare_quote_joins_no_lines_where_quoted_ones_may(tmp_path: Path) -> None:
    content = 'id,name\n1,5" pipe\n2,"a\n,b"\n3,"c"x\n4,z\n5,"\n6,y\n'
    raw = rows_of(MULTILINE, tmp_path, content)
    assert raw["name"].to_pylist() == ['5" pipe', "a\n,b", None, "z", None]
    assert marks_of(raw) == ["", "", "malformed", "", "malformed"]
    assert raw[ROW_TEXT][4].as_py() == '5,"\n6,y'


def test_escaped_quotes_among_quoted_line_breaks(tmp_path: Path) -> None:
    content = 'id,name\n1,"a\\"\n\\\\"\n2,"\\\\\\"\n"\n3,\\"\n4,z\n'
    raw = rows_of(replace(MULTILINE, escape="\\"), tmp_path, content)
    assert pairs(raw) == [("1", 'a"\n\\'), ("2", '\\"\n'), ("3", '\\"'), ("4", "z")]


def test_a_quote_that_never_closes_ends_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.rows.read.lines._LONGEST_BYTES", 2_000)
    monkeypatch.setattr("jobs.rows.read.lines.BLOCK_BYTES", 500)
    with pytest.raises(DataRefused, match=r"0\.csv has a line, or a quoted value, of more"):
        rows_of(MULTILINE, tmp_path, 'id,name\n1,"' + "a\n" * 4_000)


def test_lines_and_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, {"a": "a\r\n日\n\nb\rc\u2028d\r\n".encode("utf-16")}) / "a"
    for block in (1, 2, 3, 7):
        monkeypatch.setattr("jobs.rows.read.lines.BLOCK_BYTES", block)
        lines = read_lines(str(file), replace(THINGS, encoding="utf-16"))
        found = [line for some in lines for line in some.bare().to_pylist()]
        assert found == ["a", "日", "b", "c\u2028d"]
