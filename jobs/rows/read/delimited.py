"""Lines of delimited text to a text a declared column, by Arrow's parser.

A quote counts where a value begins with it; the value then ends with one, or the line is malformed.
So quotes can never join lines, and each line is judged by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from jobs.rows.base.names import ENCODING, MALFORMED, REPEATED_HEADER, ROW_TEXT, UNREAD, mark
from jobs.rows.read.lines import Lines, Mask
from jobs.rows.read.quotes import ArrowLines, arrow_lines, field_counts
from schemas.source import Source

_PARSED_BYTES = 4 << 20
# Lines of another number of fields than declared are parsed by it, up to so many more fields.
_SURPLUS_FIELDS = 1_000


def delimited_rows(lines: Lines, source: Source) -> pa.Table:
    """A row a line [n]: a text a declared column, the line, and the marks of reading.

    An empty value, and one that is the source's `null_value`, is null, quoted or not.
    """
    columns, malformed, unread = _parsed(lines, source)
    headers = _repeats_header(columns, source) & ~malformed
    marks = {
        mark(ENCODING): lines.miscoded,
        mark(MALFORMED): malformed,
        mark(REPEATED_HEADER): headers,
        UNREAD: unread | headers,
    }
    table = columns.append_column(ROW_TEXT, lines.bare())
    for name, found in marks.items():
        table = table.append_column(name, pa.array(found))
    return table


def header_text(source: Source) -> str:
    return source.delimiter.join(source.header_names)


def without_quotes(line: str, source: Source) -> str:
    """A header's line with its names bare."""
    return line.replace(source.quote, "") if source.quote else line


def _repeats_header(columns: pa.Table, source: Source) -> Mask:
    """Rows that are the header once more, as where files were put together."""
    found = np.zeros(columns.num_rows, bool)
    if not source.header:
        return found
    nulls = ("", source.null_value)
    found |= True
    for column, name in zip(columns.columns, source.header_names, strict=True):
        if not found.any():
            break
        same = column.is_null() if name in nulls else pc.fill_null(pc.equal(column, name), False)
        found &= np.asarray(same)
    return found


# Parsing


def _parsed(lines: Lines, source: Source) -> tuple[pa.Table, Mask, Mask]:
    """The columns of the lines [n]; which of them are malformed; which have no values."""
    content = lines.content
    ready = arrow_lines(lines.texts, lines.to_bytes(), source)
    if ready.texts is not lines.texts:
        content = _content(ready.texts)
    names = list(source.column_names)
    no = np.zeros(len(lines), bool)
    if len(lines) and not ready.unclosed.any():
        try:
            return _restored(_read(content, source, ready, names), ready), no, no
        except pa.ArrowInvalid:
            # A line has another number of values than columns are declared; which?
            pass
    counts = field_counts(ready, source)
    malformed = ready.unclosed | (counts != len(names))
    unread = ready.unclosed | (counts > len(names) + _SURPLUS_FIELDS)
    parts, order = [_nothing(source)], [np.zeros(0, np.int64)]
    for count in np.unique(counts[~unread]).tolist():
        same = np.flatnonzero((counts == count) & ~unread)
        own = [*names, *(f"__surplus_{n}" for n in range(count))][:count]
        found = _read(_content(ready.texts.take(pa.array(same))), source, ready, own)
        parts.append(_of_declared(found, source))
        order.append(same)
    return _restored(_ordered(parts, order, len(lines)), ready), malformed, unread


def _content(texts: pa.BinaryArray) -> pa.Buffer:
    return Lines(texts, np.zeros(0, bool)).content


def _read(content: pa.Buffer, source: Source, lines: ArrowLines, names: Sequence[str]) -> pa.Table:
    """Lines that have as many values as names.

    Raises:
        pa.ArrowInvalid: one has another number of them.
    """
    parsing = csv.ParseOptions(
        delimiter=lines.delimiter,
        quote_char=source.quote or False,
        newlines_in_values=source.multiline,
        ignore_empty_lines=False,
    )
    converting = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=list({"", lines.swapped(source.null_value)}),
        strings_can_be_null=True,
        check_utf8=False,
    )
    for block_bytes in (_PARSED_BYTES, content.size + 1):
        reading = csv.ReadOptions(use_threads=False, column_names=names, block_size=block_bytes)
        try:
            return csv.read_csv(pa.BufferReader(content), reading, parsing, converting)
        except pa.ArrowInvalid as error:
            # A line is longer than a block.
            if block_bytes > content.size or "straddling" not in str(error):
                raise
    raise AssertionError("unreachable")


def _of_declared(table: pa.Table, source: Source) -> pa.Table:
    """The declared columns: surplus ones left out, missing ones null."""
    nothing = pa.nulls(table.num_rows, pa.string())
    held = set(table.column_names)
    columns = [table[name] if name in held else nothing for name in source.column_names]
    return pa.table(columns, list(source.column_names))


def _ordered(parts: Sequence[pa.Table], order: Sequence[np.ndarray], count: int) -> pa.Table:
    """The rows of the parts in their places [count]; null where no part has one."""
    rows = np.concatenate(order)
    found = np.full(count, -1, np.int64)
    found[rows] = np.arange(len(rows))
    return pa.concat_tables(parts).take(pa.array(found, mask=found < 0))


def _restored(table: pa.Table, lines: ArrowLines) -> pa.Table:
    if not lines.swaps:
        return table
    return pa.table([lines.restored(c) for c in table.columns], table.column_names)


def _nothing(source: Source) -> pa.Table:
    names: Sequence[str] = source.column_names
    return pa.table([pa.array([], pa.string())] * len(names), list(names))
