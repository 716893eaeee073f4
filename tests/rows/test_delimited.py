"""What is read from delimited text; nothing is lost and nothing guessed."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.base.errors import DataRefused
from jobs.rows.base.names import ROW_TEXT
from schemas.dataset import Column, Dataset
from schemas.field import Carried, Categorical, Label, Numeric
from tests.rows.engines import (
    THINGS,
    files_of,
    judged,
    marks_of,
    pairs,
    raw_rows,
    reasons_of,
    rows_of,
    values_of,
    write,
)

TEXT = 'id,name\n1,café\n\n2,"say ""hi"", you"\n3,NA\n4,日本\n'
NAMES = [("1", "café"), ("2", 'say "hi", you'), ("3", None), ("4", "日本")]


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".GZ", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", zstd),
        (".zstd", zstd),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_compressed_text_is_the_text(
    suffix: str, compress: Callable[[bytes], bytes], encoding: str, tmp_path: Path
) -> None:
    content = compress(TEXT.replace("\n", "\r\n").encode(encoding))
    raw = rows_of(replace(THINGS, encoding=encoding), tmp_path, content, f"things.csv{suffix}")
    assert pairs(raw) == NAMES
    assert {*raw["__file"].to_pylist()} == {f"{tmp_path}/things.csv{suffix}"}
    assert raw[ROW_TEXT].to_pylist() == TEXT.replace("\n\n", "\n").splitlines()[1:]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8-sig", "utf-16-be"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    content = "id,name\n1,café\n".encode(encoding)
    assert pairs(rows_of(replace(THINGS, encoding=encoding), tmp_path, content)) == [("1", "café")]


def test_a_torn_file_is_refused_by_name(tmp_path: Path) -> None:
    whole = gzip.compress(b"id,name\n" + b"".join(b"%d,a\n" % n for n in range(9999)))
    with pytest.raises(DataRefused, match=r"0\.csv\.gz cannot be read"):
        rows_of(THINGS, tmp_path, whole[: len(whole) // 2], "0.csv.gz")


# Bytes that are no text


def test_bytes_that_are_no_text_are_refused_and_kept(tmp_path: Path) -> None:
    bad = b"2,caf\xe9 \\ \xe6\x97\xa5"
    raw = rows_of(THINGS, tmp_path, b"id,name\n1,fine\n" + bad + b"\n")
    assert marks_of(raw) == ["", "encoding"]
    assert raw[ROW_TEXT].to_pylist() == ["1,fine", r"2,caf\xe9 \\ \xe6\x97\xa5"]
    shown = raw[ROW_TEXT][1].as_py()
    assert shown.encode().decode("unicode_escape").encode("latin-1") == bad


@pytest.mark.parametrize(
    ("encoding", "content", "shown"),
    [
        ("cp1252", b"1,\x80uro\n2,a\\b\x81\n", "2,a\\\\b\\x81"),
        ("ascii", b"1,\\\n2,caf\xc3\xa9\n", r"2,caf\xc3\xa9"),
        ("shift-jis", b"1,a\n2,\x93\xfa\xfd\n", "2,日\\xfd"),
        # Half of a pair, and a byte too few at the end.
        (
            "utf-16-le",
            "1,a\n2,\u65e5".encode("utf-16-le") + b"\x3d\xd8\x0a\x00",
            "2,日\\x3d\\xd8",
        ),
        ("utf-8", b"1,a\n2,\xed\xa0\x80\xf5", r"2,\xed\xa0\x80\xf5"),
        # These are characters, if odd ones.
        ("utf-8", "1,\ufdd0zz\ufdd1\n2,\uffff\ufdd0".encode() + b"\xff", None),
    ],
)
def test_undecodable_bytes_of_other_encodings(
    encoding: str, content: bytes, shown: str | None, tmp_path: Path
) -> None:
    source = replace(THINGS, encoding=encoding, header=False)
    raw = rows_of(source, tmp_path, content)
    assert marks_of(raw) == ["", "encoding"]
    if shown is not None:
        assert raw[ROW_TEXT][1].as_py() == shown


def test_ascii_is_text_of_128_characters(tmp_path: Path) -> None:
    raw = rows_of(replace(THINGS, encoding="ascii"), tmp_path, "id,name\n1,a\n2,é\n")
    assert marks_of(raw) == ["", "encoding"]


# Headers, comments, blank lines


def test_headerless_tabs_without_quotes_and_comments(tmp_path: Path) -> None:
    source = replace(THINGS, delimiter="\t", header=False, quote="", comment="#")
    raw = rows_of(source, tmp_path, '\ufeff1\t"open\n# a comment\n2\ta "b"\n')
    assert pairs(raw) == [("1", '"open'), ("2", 'a "b"')]


def test_a_comment_may_stand_before_the_header(tmp_path: Path) -> None:
    content = '# made by hand\n"id","name"\n1,x\n'
    assert pairs(rows_of(replace(THINGS, comment="#"), tmp_path, content)) == [("1", "x")]
    with pytest.raises(DataRefused, match="missing id, name; unknown # made by hand"):
        rows_of(THINGS, tmp_path, content)


def test_comments_longer_than_a_piece_may_stand_before_the_header(tmp_path: Path) -> None:
    content = "# made by hand\n" * 9_000 + "id,name\n" + "1,x\n" * 9
    file = write(tmp_path, {"0.csv": content}) / "0.csv"
    raw = raw_rows(replace(THINGS, comment="#"), files_of(file), 500)
    assert pairs(raw) == [("1", "x")] * 9


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=r"0\.csv: the header .* missing name; unknown nome"):
        rows_of(THINGS, tmp_path, "id,nome\n1,x\n")
    with pytest.raises(DataRefused, match="the order differs"):
        rows_of(THINGS, tmp_path, "name,id\nx,1\n")


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file_beside_good_ones_is_refused_by_name(content: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.csv": TEXT, "b.csv": content})
    with pytest.raises(DataRefused, match=r"b\.csv is empty: it has no header"):
        raw_rows(THINGS, files_of(folder))
    # Without a header it is one without rows.
    files = files_of(write(tmp_path / "bare", {"a.csv": "1,a\n", "b.csv": content}))
    assert pairs(raw_rows(replace(THINGS, header=False), files)) == [("1", "a")]
    header = write(tmp_path / "none", {"a.csv": "id,name\n"})
    assert raw_rows(THINGS, files_of(header)).num_rows == 0


def test_a_header_in_the_middle_is_a_row_refused_by_name(tmp_path: Path) -> None:
    content = 'id,name\n1,a\nid,name\n"id",name\nid,NA\nid\nid,name,\n'
    found = judged(DATASET, write(tmp_path, {"0.csv": content}))
    assert values_of(found, "x") == [1]
    assert found.refused.to_pylist()[:2] == [
        {"reasons": ["repeated_header"], "raw": raw, "source_file": f"{tmp_path}/0.csv", "ds": ""}
        for raw in ("id,name", '"id",name')
    ]
    assert reasons_of(found) == {
        "id,name": ["repeated_header"],
        '"id",name': ["repeated_header"],
        "id,NA": ["unparsable:id"],
        "id": ["malformed", "unparsable:id"],
        "id,name,": ["malformed", "unparsable:id"],
    }


def test_a_header_with_the_name_of_null_is_known_again(tmp_path: Path) -> None:
    source = replace(THINGS, columns=(THINGS.columns[0], Column("name", "string", header="NA")))
    raw = rows_of(source, tmp_path, "id,NA\n1,a\nid,NA\n2,NA\n")
    assert marks_of(raw) == ["", "repeated_header", ""]


# Quotes

DATASET = Dataset(
    "things",
    (THINGS,),
    "things",
    (),
    (Label("y", "1"), Numeric("x", "id"), Categorical("name_id", "name"), Carried("name")),
)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ('""', None),
        ('"NA"', None),
        ('""""', '"'),
        ('"a""b"', 'a"b'),
        ('a"b', 'a"b'),
        ('a""', 'a""'),
        (' "a"', ' "a"'),
        ('"a,b"', "a,b"),
        ("a\\", "a\\"),
        ("\0", "\0"),
        ("a\0b", "a\0b"),
        ('"\0,"', "\0,"),
    ],
)
def test_quoted_values(cell: str, value: str | None, tmp_path: Path) -> None:
    raw = rows_of(THINGS, tmp_path, f"id,name\n1,{cell}\n2,z\n")
    assert pairs(raw) == [("1", value), ("2", "z")]


@pytest.mark.parametrize("null", ["\0", "N\0", "||", "\x1f"])
@pytest.mark.parametrize("delimiter", [",", "||"])
def test_null_values_of_odd_characters(null: str, delimiter: str, tmp_path: Path) -> None:
    source = replace(THINGS, null_value=null, delimiter=delimiter)
    # Of all that could stand for others, nothing is free.
    taken = "".join(map(chr, {*range(1, 32)} - {9, 10, 13}))
    lines = [("id", "name"), ("1", f'"{null}"'), ("2", "N"), ("3", taken)]
    raw = rows_of(source, tmp_path, "".join(delimiter.join(line) + "\n" for line in lines))
    assert pairs(raw) == [("1", None), ("2", "N"), ("3", taken)]


@pytest.mark.parametrize("cell", ['"abc"x', '"abc', '"', '"""', '"a" ', '"a"b"', '"a\\"b"'])
def test_a_quote_that_does_not_close_as_it_must_is_malformed_and_joins_no_lines(
    cell: str, tmp_path: Path
) -> None:
    found = judged(DATASET, write(tmp_path, {"0.csv": f"id,name\n1,{cell}\n2,z\n3,{cell}\n"}))
    assert values_of(found, "x", "name") == [(2, "z")]
    assert reasons_of(found) == {f"1,{cell}": ["malformed"], f"3,{cell}": ["malformed"]}


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (r'"a\"b"', 'a"b'),
        (r'"a\\"', "a\\"),
        (r'"a\\\"b"', 'a\\"b'),
        (r'"a\nb\\n"', r"a\nb\n"),
        (r'"\"", ', None),
        (r"a\"b\\", r"a\"b\\"),
        (r'"a""b"', None),
        (r'"a\"', None),
    ],
)
def test_a_backslash_before_a_quote_or_itself_inside_quotes(
    cell: str, value: str | None, tmp_path: Path
) -> None:
    source = replace(THINGS, escape="\\")
    raw = rows_of(source, tmp_path, f"id,name\n1,{cell}\n2,z\\\\\n")
    if value is None:
        assert marks_of(raw) == ["malformed", ""]
    else:
        assert pairs(raw)[0] == ("1", value)
    assert raw["name"][1].as_py() == "z\\\\"


@settings(max_examples=40)
@given(
    names=st.lists(st.text("ab,'\"|^\\ é\n", min_size=1), min_size=1, max_size=5),
    escaped=st.booleans(),
    multiline=st.booleans(),
)
@pytest.mark.parametrize("quote", ['"', "'", "^"])
def test_what_any_quote_holds_is_read_back(
    quote: str, names: list[str], escaped: bool, multiline: bool
) -> None:
    source = replace(THINGS, quote=quote, multiline=multiline)
    if escaped:
        source = replace(source, escape="\\")
    if not multiline:
        names = [name.replace("\n", "") or "a" for name in names]
    inside = [name.replace("\\", "\\\\") if escaped else name for name in names]
    inside = [name.replace(quote, "\\" * escaped + quote * (2 - escaped)) for name in inside]
    lines = [f"{n},{quote}{name}{quote}\n" for n, name in enumerate(inside)]
    with TemporaryDirectory() as folder:
        raw = rows_of(source, Path(folder), "id,name\n" + "".join(lines))
    assert pairs(raw) == [(str(n), name) for n, name in enumerate(names)]


def test_without_quotes_an_escape_is_a_character(tmp_path: Path) -> None:
    raw = rows_of(replace(THINGS, escape="\\", quote=""), tmp_path, 'id,name\n1,\\"a\\\\b\n')
    assert pairs(raw) == [("1", '\\"a\\\\b')]


# Delimiters of several characters


@pytest.mark.parametrize("delimiter", ["||", "é", "::|", "\x1f\x1e", "\\t"])
def test_delimiters_of_several_characters(delimiter: str, tmp_path: Path) -> None:
    source = replace(THINGS, delimiter=delimiter, header=False)
    lines = {
        "1{}a": ("1", "a"),
        '2{}"x{}y"': ("2", f"x{delimiter}y"),
        "3{}\x1f": ("3", "\x1f"),
        "4{}a\x01\x02\x1d|": ("4", "a\x01\x02\x1d|"),
        "5{}\0|": ("5", "\0|"),
    }
    content = "\n".join(line.replace("{}", delimiter) for line in lines)
    raw = rows_of(source, tmp_path, content)
    assert pairs(raw) == list(lines.values())
    bad = f'1{delimiter}"x\n2{delimiter}a{delimiter}b\n3{delimiter}"x"y\n'
    assert marks_of(rows_of(source, tmp_path, bad)) == ["malformed"] * 3


def test_a_text_with_every_byte_that_might_stand_for_a_delimiter(tmp_path: Path) -> None:
    every = "".join(map(chr, range(32))).replace("\n", "").replace("\r", "") + "\ufdd01\ufdd1"
    content = f"1||{every}\n2||a\n3||a||b\n4||{every}||\n"
    raw = rows_of(replace(THINGS, delimiter="||", header=False), tmp_path, content)
    assert raw["name"].to_pylist() == [every, "a", "a", every]
    assert marks_of(raw) == ["", "", "malformed", "malformed"]


# Numbers of fields


@pytest.mark.parametrize("fields", [3, 1001, 1003, 25_000])
def test_lines_of_many_fields_are_malformed_whatever_stands_beside_them(
    fields: int, tmp_path: Path
) -> None:
    lines = ["1,a", ",".join(["5"] * fields), "x", "2,b"] * 40
    found = judged(DATASET, write(tmp_path, {"0.csv": "\n".join(["id,name", *lines])}))
    assert values_of(found, "x", "name") == [(1, "a"), (2, "b")] * 40
    assert reasons_of(found) == {lines[1]: ["malformed"], "x": ["malformed", "unparsable:id"]}
    assert found.refused.num_rows == 80


def test_lines_of_other_numbers_of_fields_over_many_blocks(tmp_path: Path) -> None:
    # Some 12 MiB, which the parser takes in several blocks.
    lines = [f"{n},{'x' * 200},{n}" if n % 997 == 0 else f"{n},{'y' * 200}" for n in range(60_000)]
    raw = rows_of(THINGS, tmp_path, "\n".join(["id,name", *lines]))
    assert raw["id"].to_pylist() == [str(n) for n in range(60_000)]
    wrong = [place for place, mark in enumerate(marks_of(raw)) if mark == "malformed"]
    assert wrong == [*range(0, 60_000, 997)]


def test_a_zero_among_many_values_hides_no_delimiter(tmp_path: Path) -> None:
    # Where values are long on the average Arrow looks for delimiters in many bytes at once.
    lines = [f"{n},{'x' * 2000}" if n % 2 else f"{n},a\0b" for n in range(400)]
    raw = rows_of(THINGS, tmp_path, "\n".join(["id,name", *lines]))
    assert not any(marks_of(raw))
    assert [f"{a},{b}" for a, b in pairs(raw)] == lines
