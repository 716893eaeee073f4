"""Pieces of raw files, and the rows in them: what one task reads, whatever other tasks read.

A piece is a range of bytes of a text file, a whole text file that cannot be cut, some row groups or
stripes, or some images. How files are cut changes no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise

import duckdb
import pyarrow as pa

from jobs.base.errors import DataRefused, MillstreamError
from jobs.rows.base.names import ROW_DS, ROW_FILE
from jobs.rows.read.columnar import ColumnarFile, columnar_rows, refuse_other_columns
from jobs.rows.read.delimited import delimited_rows, header_text, without_quotes
from jobs.rows.read.files import RawFile, refuse_changed, unreadable
from jobs.rows.read.images import image_rows
from jobs.rows.read.jsonlines import json_rows
from jobs.rows.read.lines import can_be_cut, read_lines
from schemas.source import Source

# Rows are judged so many at once: planning a statement takes as long as judging some thousands.
TABLE_ROWS = 131_072
# Or fewer, where they are long.
_TABLE_BYTES = 128 << 20
# Of a file's start, where its header is looked for first.
_HEAD_BYTES = 1 << 16
_THREADS = 16


@dataclass(frozen=True)
class Piece:
    """A part of a file.

    Attributes:
        start, end: bytes of a text file, or row groups; `end` None is the file's end.
        weight: bytes, about, for sharing pieces out among tasks.
        offset: of its first byte in the file, about, for finding the hosts that have it.
        lacks: declared columns of the label that the file is without.
    """

    file: RawFile
    start: int = 0
    end: int | None = None
    weight: int = 0
    offset: int = 0
    lacks: frozenset[str] = frozenset()


def cut(
    files: Sequence[RawFile], source: Source, piece_bytes: int, with_label: bool = True
) -> list[Piece]:
    """The pieces of some files, in order.

    Args:
        with_label: False in scoring: a file may be without columns that are `of_label`.

    Raises:
        DataRefused: a file cannot be read, or its header or schema is not the declared one.
    """
    pieces = partial(_pieces, source=source, piece_bytes=piece_bytes, with_label=with_label)
    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(pieces, files))
    return [piece for own in found for piece in own]


def _pieces(file: RawFile, source: Source, piece_bytes: int, with_label: bool) -> list[Piece]:
    optional = frozenset(c.name for c in source.columns if c.of_label and not with_label)
    if source.format == "images":
        return [Piece(file, weight=file.size_bytes + 4096)]
    try:
        if source.format in ("parquet", "orc"):
            return _of_groups(file, source, piece_bytes, optional)
        head, lacks = _checked_header(file, source, optional)
    except MillstreamError:
        raise
    except (OSError, EOFError, pa.ArrowException) as error:
        raise unreadable(file.path, error) from error
    if not can_be_cut(file.path, source) or file.size_bytes <= piece_bytes:
        return [Piece(file, weight=file.size_bytes, lacks=lacks)]
    ends = _ends(file.size_bytes, piece_bytes, file.block_bytes)
    # The header belongs to the first piece, whatever comments stand before it.
    ends = [0, *(end for end in ends[1:-1] if end >= head), file.size_bytes]
    count = len(ends) - 1
    # Files may grow; the last piece ends where the file does, which is then refused.
    return [
        Piece(file, start, end if n + 1 < count else None, end - start, start, lacks)
        for n, (start, end) in enumerate(pairwise(ends))
    ]


def _ends(size: int, piece_bytes: int, block_bytes: int) -> list[int]:
    """Where pieces of a file end, from 0 to its size: where its blocks do, if it has any.

    So a piece is read from one block, or from whole ones.
    """
    if not block_bytes:
        count = -(-size // piece_bytes)
        return [size * n // count for n in range(count + 1)]
    of_a_block = -(-block_bytes // piece_bytes)
    blocks = max(1, piece_bytes // block_bytes)
    # Not rounded before all is added up, so that every block's end is one.
    count = -(-size * of_a_block // (blocks * block_bytes))
    return [*(n * blocks * block_bytes // of_a_block for n in range(count)), size]


def _of_groups(
    file: RawFile, source: Source, piece_bytes: int, optional: frozenset[str]
) -> list[Piece]:
    with ColumnarFile(file.path, source) as opened:
        lacks = refuse_other_columns(file.path, opened.schema, source, optional)
        groups = opened.groups
    count = max(1, min(groups, -(-file.size_bytes // piece_bytes)))
    ends = [groups * n // count for n in range(count + 1)]
    weight = file.size_bytes // count
    return [
        Piece(file, a, b, weight, n * weight, lacks)
        for n, (a, b) in enumerate(pairwise(ends))
        if a < b
    ]


def _checked_header(
    file: RawFile, source: Source, optional: frozenset[str]
) -> tuple[int, frozenset[str]]:
    """Refuses a file whose first line is not the declared header, naming what differs.

    Returns:
        A number of bytes from the start that hold the header, and which of the optional columns it
        is without.
    """
    if source.format != "csv" or not source.header:
        return 0, frozenset()
    cuttable = can_be_cut(file.path, source)
    head = _HEAD_BYTES if cuttable else max(_HEAD_BYTES, file.size_bytes)
    while True:
        lines = next(read_lines(file.path, source, 0, head if cuttable else None), None)
        if lines is not None or head >= file.size_bytes:
            break
        head *= 16
    if lines is None:
        raise DataRefused(
            f"{file.path} is empty: it has no header",
            f"a file that begins with {header_text(source)}",
            "land the file again, or take it away; a file with a header and no rows is accepted",
        )
    return head, _lacking(lines.bare()[0].as_py(), file.path, source, optional)


def _lacking(line: str, path: str, source: Source, optional: frozenset[str]) -> frozenset[str]:
    """Which of the optional columns a header is without."""
    first, between = without_quotes(line, source), source.delimiter
    # Names, too, may hold the delimiter.
    held = between + first + between
    headers = dict(zip(source.column_names, source.header_names, strict=True))
    absent = [name for name, text in headers.items() if between + text + between not in held]
    lacks = optional.intersection(absent)
    if first == header_text(source.without(lacks)):
        return lacks
    missing = [headers[name] for name in absent if name not in optional]
    for text in source.header_names:
        held = held.replace(between + text + between, between)
    unknown = held.split(between)[1:-1]
    raise DataRefused(
        f"{path}: the header of source {source.name!r} differs: "
        f"missing {', '.join(missing) or 'none'}; unknown {', '.join(unknown) or 'none'}"
        + ("" if missing or unknown else "; the order differs"),
        header_text(source),
        "correct the file, or the source's columns in the declaration",
    )


def shares(pieces: Sequence[Piece], tasks: int) -> list[list[Piece]]:
    """The pieces in order, in lists of about equal weight."""
    total = sum(piece.weight + 1 for piece in pieces)
    found: list[list[Piece]] = [[] for _ in range(max(1, min(tasks, len(pieces))))]
    done = 0
    for piece in pieces:
        middle = done + (piece.weight + 1) / 2
        found[min(len(found) - 1, int(middle * len(found) / total))].append(piece)
        done += piece.weight + 1
    return [share for share in found if share]


def read_rows(pieces: Sequence[Piece], source: Source) -> Iterator[pa.Table]:
    """The rows of some pieces, in tables of about `TABLE_ROWS`.

    Returns:
        Tables with the declared columns (as texts, or as a Parquet file has them), `__text`,
        `__file`, `__ds` and the marks of reading.

    Raises:
        DataRefused: a file is torn, or is another than when it was listed.
    """
    held: list[pa.Table] = []
    rows = size = 0
    for table in _tables(pieces, source):
        if held and (held[0].schema != table.schema or rows >= TABLE_ROWS or size >= _TABLE_BYTES):
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
        held.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
    if held:
        yield pa.concat_tables(held)


def _tables(pieces: Sequence[Piece], source: Source) -> Iterator[pa.Table]:
    for piece in pieces:
        try:
            refuse_changed(piece.file)
            for table in _of_piece(piece, source):
                if table.num_rows:
                    yield _placed(table, piece.file)
            refuse_changed(piece.file)
        except (OSError, EOFError, UnicodeError, pa.ArrowException, duckdb.Error) as error:
            raise unreadable(piece.file.path, error) from error


def _of_piece(piece: Piece, source: Source) -> Iterator[pa.Table]:
    """The rows of a piece, null in columns that its file is without."""
    for table in _parsed(piece, source.without(piece.lacks)):
        for name in sorted(piece.lacks):
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        yield table


def _parsed(piece: Piece, source: Source) -> Iterator[pa.Table]:
    if source.format == "images":
        yield image_rows([piece.file], source)
    elif source.format in ("parquet", "orc"):
        with ColumnarFile(piece.file.path, source) as opened:
            for group in range(piece.start, opened.groups if piece.end is None else piece.end):
                yield columnar_rows(opened.read(group), source)
    else:
        parsed = json_rows if source.format == "json" else delimited_rows
        blocks = read_lines(piece.file.path, source, piece.start, piece.end)
        if source.header and source.format == "csv" and not piece.start:
            # The first line is the header, which was compared when the file was cut.
            for lines in islice(blocks, 1):
                yield parsed(lines.without_first(), source)
        for lines in blocks:
            yield parsed(lines, source)


def _placed(table: pa.Table, file: RawFile) -> pa.Table:
    """With the file and the date that each row comes from."""
    for name, text in ((ROW_FILE, file.path), (ROW_DS, file.ds)):
        column = pa.DictionaryArray.from_arrays(
            pa.repeat(pa.scalar(0, pa.int32()), table.num_rows), pa.array([text], pa.string())
        )
        table = table.append_column(name, column)
    return table
