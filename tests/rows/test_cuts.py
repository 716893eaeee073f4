"""How files are cut, in which order they come and how much is read at a time changes no row."""

from __future__ import annotations

import bz2
import gzip
import io
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.rows.base.names import ROW_TEXT
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.identity import Split
from jobs.rows.read.lines import _blocks
from schemas.dataset import Column, Dataset, Source
from schemas.field import Carried, Categorical, Label, Numeric
from tests.builders.hostile_declarations import ALL_TYPES
from tests.rows.engines import (
    WHOLE,
    files_of,
    judged_files,
    marks_of,
    raw_rows,
    reasons_of,
    write,
)
from tests.rows.oracle import rows_of

THINGS = Source(
    "things",
    columns=(Column("id", "bigint"), Column("name", "string")),
    null_value="NA",
    comment="#",
)
LINES = replace(THINGS, header=False)
QUOTED = replace(LINES, multiline=True)
JSON = Source("things", format="json", columns=THINGS.columns)
DECLARED = Dataset(
    "things",
    (LINES,),
    "things",
    (),
    (Label("y", "id"), Numeric("id"), Categorical("name_id", "name"), Carried("name")),
)
# Hypothesis makes hundreds, which go with the process.
_FOLDERS = tempfile.TemporaryDirectory(prefix="millstream-cuts-")
_PARTS = ("\n", "\r\n", "\r", ",", '"', '""', "1", "22", "a", "é", "日本", "\ufeff", "#", " ", "NA")
_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
_CONTENT = st.lists(st.sampled_from([*_PARTS, "\0", "x" * 40, "\u2028", '\n1,"']), max_size=40)
_BYTES = st.tuples(_CONTENT, st.lists(st.sampled_from([b"\xff", b"\xc3", b"", b""]), max_size=3))


def seen(source: Source, file: Path, piece_bytes: int) -> list[tuple[Any, ...]]:
    raw = raw_rows(source, files_of(file), piece_bytes)
    if not raw.num_rows:
        return []
    columns = [raw[name].to_pylist() for name in (*source.column_names, ROW_TEXT)]
    return list(zip(*columns, marks_of(raw), strict=True))


def seen_in_small_reads(source: Source, file: Path, piece: int, block: int) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.rows.read.lines.BLOCK_BYTES", block)
        patch.setattr("jobs.rows.read.pieces._HEAD_BYTES", 3)
        return seen(source, file, piece)


def file_of(content: bytes, name: str = "some.csv") -> Path:
    return write(Path(tempfile.mkdtemp(dir=_FOLDERS.name)), {name: content}) / name


@settings(max_examples=80)
@given(content=_BYTES, piece=st.integers(1, 50), block=st.integers(1, 64))
@pytest.mark.parametrize("header", [True, False])
def test_any_cut_gives_the_rows_of_the_whole_file(
    header: bool, content: tuple[list[str], list[bytes]], piece: int, block: int
) -> None:
    source = replace(THINGS, header=header)
    data = "".join(content[0]).encode().join([b"", *content[1], b""])
    file = file_of((b"\n# made\n \nid,name\n" if header else b"") + data)
    whole = seen(source, file, WHOLE)
    assert seen_in_small_reads(source, file, piece, block) == whole
    by_hand = rows_of(file.read_bytes(), replace(DECLARED, sources=(source,)))
    assert [row[2] for row in whole] == [row.raw for row in by_hand]
    of_reading = ("encoding", "malformed", "repeated_header")
    assert [row[3] for row in whole] == [
        ",".join(reason for reason in of_reading if reason in row.reasons) for row in by_hand
    ]


def rows_by_hand(text: str) -> list[str]:
    """Texts of the rows of quoted, commented lines, read a character at a time."""
    rows, at = [], 0
    while at < len(text):
        start, quoted, begins = at, False, True
        comment = text[at] == "#"
        while at < len(text) and (quoted or text[at] != "\n"):
            if text[at] == '"' and not comment:
                if not quoted:
                    quoted = begins
                elif text[at + 1 : at + 2] == '"':
                    at += 1
                else:
                    quoted = False
            begins = text[at] == ","
            at += 1
        row = text[start:at]
        rows += [row] if row.strip(" \n") and not comment else []
        at += 1
    return rows


@settings(max_examples=300)
@given(
    content=st.lists(
        st.sampled_from(["\n", ",", '"', "#", '#"', "a", '\n1,"', '"\n']), max_size=20
    ),
    block=st.integers(1, 64),
    marked=st.booleans(),
)
def test_comments_open_no_quotes(content: list[str], block: int, marked: bool) -> None:
    text = "".join(content)
    file = file_of(("\ufeff" * marked + text).encode())
    whole = seen(QUOTED, file, WHOLE)
    assert [row[2] for row in whole] == [row.rstrip("\n") for row in rows_by_hand(text)]
    assert seen_in_small_reads(QUOTED, file, 1, block) == whole


@settings(max_examples=50)
@given(content=_CONTENT, block=st.integers(1, 64))
def test_quoted_line_breaks_do_not_depend_on_blocks(content: list[str], block: int) -> None:
    file = file_of("".join(content).encode())
    assert seen_in_small_reads(QUOTED, file, 1, block) == seen(QUOTED, file, WHOLE)


@settings(max_examples=50)
@given(
    content=_CONTENT,
    encoding=st.sampled_from(
        ["latin-1", "utf-16", "utf-16-be", "cp1252", "shift-jis", "ascii", "utf-8-sig"]
    ),
    piece=st.integers(1, 50),
    block=st.integers(1, 64),
)
def test_encodings_do_not_depend_on_cuts(
    content: list[str], encoding: str, piece: int, block: int
) -> None:
    source = replace(LINES, encoding=encoding)
    file = file_of("".join(content).encode(encoding, "ignore") + b"\x81,\xff")
    whole = seen(source, file, WHOLE)
    assert seen_in_small_reads(source, file, piece, block) == whole
    text = "".join(content).encode(encoding, "ignore").decode(encoding)
    as_utf8 = file_of(text.encode())
    if not encoding.startswith("utf-16"):
        # All but the last line, which ends in what is no text.
        assert whole[:-1] == seen(LINES, as_utf8, WHOLE)[: len(whole) - 1]


@settings(max_examples=50)
@given(
    lines=st.lists(
        st.sampled_from(
            [
                '{"id": 1, "name": "a"}',
                '{"id": 2, "name": "日本\\n"}',
                '{"id": 1.50, "name": 1.50}',
                '{"name": "\\ud83d"}',
                '{"id": 1}{"id": 2}',
                "",
                " ",
                "{",
                "\ufeff{}",
            ]
        ),
        max_size=12,
    ),
    end=_ENDS,
    piece=st.integers(1, 50),
    block=st.integers(1, 64),
)
def test_json_lines_do_not_depend_on_cuts(
    lines: list[str], end: str, piece: int, block: int
) -> None:
    file = file_of(end.join(lines).encode(), "some.json")
    whole = seen(JSON, file, WHOLE)
    assert len(whole) == sum(bool(line.strip()) for line in lines)
    assert seen_in_small_reads(JSON, file, piece, block) == whole


class Counted(io.BytesIO):
    """A file that knows what was read of it."""

    reads = bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.reads, self.bytes_read = self.reads + 1, self.bytes_read + len(found)
        return found


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_pieces_together_read_a_file_a_few_times_at_most(end: bytes) -> None:
    stream = Counted((b"x" * 99 + end) * 40_000)
    size, step = len(stream.getvalue()), 100_000
    starts = range(0, size, step)
    ends = [*starts[1:], None]
    blocks = [b"".join(_blocks(stream, *bounds)) for bounds in zip(starts, ends, strict=True)]
    assert b"".join(blocks) == stream.getvalue()
    assert stream.bytes_read < 4 * size


def test_what_a_line_takes_past_its_piece_is_read_in_growing_blocks() -> None:
    reads = []
    for mib in (2, 8):
        stream = Counted(b"1\n" + b"y" * (mib << 20) + b"\n2\n")
        assert sum(map(len, _blocks(stream, 0, 9))) == (mib << 20) + 3
        assert stream.bytes_read < 2 * len(stream.getvalue()) + (1 << 16)
        reads.append(stream.reads)
    assert reads[1] - reads[0] <= 2


def is_text(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


_ODD = [
    b"\x80",
    b"\xbf",
    b"\xc1",
    b"\xc3",
    b"\xe0",
    b"\xe9",
    b"\xed\xa0",
    b"\xf0\x9f",
    b"\xf4",
    b"\xff",
]
_ODD_LINES = st.lists(
    st.lists(
        st.sampled_from([*_ODD, b"\xa9", b"tea", "é日🎈".encode()])
        | st.binary(min_size=1, max_size=3),
        max_size=5,
    ).map(lambda parts: b"1," + b"".join(parts).replace(b"\n", b"").replace(b"\r", b"")),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300)
@given(lines=_ODD_LINES, piece=st.integers(1, 50), block=st.integers(1, 64))
def test_a_line_is_miscoded_where_it_alone_is_no_text(
    lines: list[bytes], piece: int, block: int
) -> None:
    file = file_of(b"\n".join(lines))
    expected = ["encoding" * (not is_text(line)) for line in lines]
    source = replace(LINES, quote="")
    for found in (seen(source, file, WHOLE), seen_in_small_reads(source, file, piece, block)):
        assert ["encoding" * ("encoding" in row[3]) for row in found] == expected


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstd), (".zstd", zstd)],
)
def test_files_of_several_compressed_parts_are_read_to_their_end(
    suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    parts = [b"".join(b"%d,a\n" % n for n in range(start, start + 999)) for start in (0, 5000)]
    file = write(tmp_path, {f"a.csv{suffix}": b"".join(map(compress, parts))}) / f"a.csv{suffix}"
    plain = write(tmp_path, {"b.csv": b"".join(parts)}) / "b.csv"
    assert seen(LINES, file, 10) == seen(LINES, plain, WHOLE)
    assert seen_in_small_reads(LINES, file, 10, 7) == seen(LINES, plain, WHOLE)


@settings(max_examples=20)
@given(data=st.data())
def test_what_is_judged_does_not_depend_on_cuts_and_order(data: st.DataObject) -> None:
    hostile = ALL_TYPES
    lines = [*hostile.sound_lines(6), *hostile.hostile_lines(20)[:6], *hostile.misshapen(1)]
    lines = [line for line in lines if b"\n" not in line and b"\r" not in line]
    drawn = data.draw(st.lists(st.sampled_from(lines), min_size=1, max_size=25))
    split = Split(7, {"train": 0.5, "test": 0.5})
    engine = Engine(hostile.dataset, ("",), split=split)

    def content(some: list[bytes]) -> bytes:
        end = data.draw(_ENDS).encode()
        last = end * data.draw(st.integers(0, 1))
        return end.join([hostile.line(hostile.source.header_names), *some]) + last

    together = judged_files(engine, files_of(file_of(content(drawn))))
    shuffled = data.draw(st.permutations(drawn))
    cut = data.draw(st.integers(0, len(drawn)))
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS.name))
    write(folder, {"0": content(shuffled[:cut]), "1": content(shuffled[cut:])})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.rows.read.pieces._HEAD_BYTES", 3)
        patch.setattr("jobs.rows.read.pieces.TABLE_ROWS", data.draw(st.integers(1, 5)))
        files = data.draw(st.permutations(files_of(folder)))
        apart = judged_files(engine, files, data.draw(st.integers(1, 500)))
    assert reasons_of(apart) == reasons_of(together)
    assert apart.refused.num_rows == together.refused.num_rows
    rows = [
        Counter(tuple(map(str, row.values())) for row in one.valid.to_pylist())
        for one in (apart, together)
    ]
    assert rows[0] == rows[1]
