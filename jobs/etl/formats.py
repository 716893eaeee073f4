"""Lines to one text a declared column: delimited text, and JSON lines.

Every column is parsed, as text, whatever a query selects of them: so an unparsable value can be
named by its column, and what counts as malformed never depends on the query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.base.errors import DataRefused
from jobs.etl.files import first_lines
from jobs.etl.lines import BYTE_ORDER_MARK, MISCODED, charset, decoded_blocks, needs_decoding
from jobs.etl.names import RAW, text_column
from schemas.source import Source

MALFORMED = "__malformed"
_CORRUPT = "__corrupt"
# Univocity fails a task, not a row, at a line with more than 20,480 fields.
_MAX_FIELDS = 20_000
_ROWS, _END = "__rows", "__end"


def data_lines(lines: DataFrame, source: Source) -> DataFrame:
    """`lines` of delimited text without headers and comments."""
    if source.header:
        lines = lines.where(~_is_header(source))
    if source.comment:
        lines = lines.where(~F.col(RAW).startswith(source.comment))
    return lines


def parsed_csv(lines: DataFrame, source: Source) -> DataFrame:
    """`lines` with a text a declared column, and `__malformed`, not null where fields are not as
    many as declared."""
    schema = ", ".join(f"`{text_column(name)}` STRING" for name in source.column_names)
    options = {
        "sep": source.delimiter,
        "nullValue": source.null_value,
        "quote": source.quote,
        "escape": source.escape or "\\",
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": _CORRUPT,
    }
    fields = F.from_csv(_parsable(source), f"{schema}, {_CORRUPT} STRING", options)
    # A generator, so that the optimizer can neither copy the parse into every expression over
    # its columns nor push a filter, with a copy, below it.
    parsed = lines.select(*lines.columns, F.inline(F.array(fields)))
    return parsed.withColumnRenamed(_CORRUPT, MALFORMED)


def _parsable(source: Source) -> SparkColumn:
    """The line; of one that may have absurdly many fields, the first of them, still too many."""
    first = F.substring_index(F.col(RAW), source.delimiter, _MAX_FIELDS)
    return F.when(F.octet_length(RAW) < _MAX_FIELDS, F.col(RAW)).otherwise(first)


def header_line(source: Source) -> str:
    return source.delimiter.join(source.header_names)


def _is_header(source: Source) -> SparkColumn:
    """The header, where its names may be quoted; tells most rows from it by their start."""
    raw, first = F.col(RAW), source.header_names[0]
    starts = raw.startswith(first) | raw.startswith(f'"{first}"')
    return starts & (F.replace(raw, F.lit('"'), F.lit("")) == header_line(source))


def check_header(spark: SparkSession, source: Source, file: str) -> None:
    """Refuses a file whose first line is not the declared header, naming what differs."""
    expected, found = header_line(source), _first_line(spark, source, file)
    if found == expected:
        return
    names = found.split(source.delimiter)
    missing = [name for name in source.header_names if name not in names]
    unknown = [name for name in names if name not in source.header_names]
    raise DataRefused(
        f"{file}: the header of source {source.name!r} differs: "
        f"missing {', '.join(missing) or 'none'}; unknown {', '.join(unknown) or 'none'}"
        + ("" if missing or unknown else "; the order differs"),
        expected,
        "correct the file, or the source's columns in the declaration",
    )


def _first_line(spark: SparkSession, source: Source, file: str) -> str:
    """The first line that is neither blank nor a comment, without quotes."""
    lines: Iterator[str]
    if needs_decoding(source.encoding):
        lines = (line for block in decoded_blocks(file, source.encoding) for line in block)
    else:
        lines = first_lines(spark, file, charset(source.encoding))
    for line in lines:
        text = line.removeprefix(BYTE_ORDER_MARK)
        if text.strip() and not (source.comment and text.startswith(source.comment)):
            return text.replace('"', "")
    return ""


def parsed_json(lines: DataFrame, source: Source) -> DataFrame:
    """`lines` with a text a declared column, and `__malformed`, not null where the line is not
    one JSON object.

    Spark's parser stops after the first value and would take the first of two objects on a line.
    So the line is parsed as an array's first element, before a second one that must follow it.
    """
    options = {"mode": "PERMISSIVE", "allowSingleQuotes": "false"}
    text = F.concat(F.lit("["), _exact_numbers(), F.lit(f',{{"{_END}":"1"}}]'))
    pair = F.from_json(text, f"array<{_json_schema(source)}>", options)
    # A generator for the reason given for csv.
    rows = lines.select(*lines.columns, F.inline(F.array(F.struct(pair.alias(_ROWS)))))
    row = F.col(_ROWS)[0]
    sound = (F.size(_ROWS) == 2) & row.isNotNull() & F.col(_ROWS)[1][_END].isNotNull()
    values = {text_column(c.name): _inside(row, c.place) for c in source.columns}
    escapes = F.col(RAW).contains("\\u") & F.col(RAW).rlike(_LONE_SURROGATE)
    return rows.withColumn(MISCODED, F.col(MISCODED) | escapes).select(
        *lines.columns,
        *[value.alias(name) for name, value in values.items()],
        F.when(sound, F.lit(None)).otherwise(F.lit("json")).alias(MALFORMED),
    )


# Half of a pair of escapes is no character; Java would read it as a question mark. An escape is
# one whose backslash is not itself escaped.
_ESCAPE = r"(?<!\\)(?:\\\\)*+\\u[dD]"
_HIGH = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LONE_SURROGATE = (
    rf"{_ESCAPE}[89abAB][0-9a-fA-F]{{2}}(?!\\u[dD][c-fC-F])|(?<!{_HIGH}){_ESCAPE}[c-fC-F]"
)

# A number outside of strings: what comes before it is taken whole, strings included, and \G holds
# each match to the end of the one before, so that no match starts inside a string. The quantifiers
# are possessive: no backtracking, and no recursion on long strings.
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+"
_BARE_NUMBER = rf'\G((?:[^"0-9-]++|{_STRING})*+)({_NUMBER})'


def _exact_numbers() -> SparkColumn:
    """The line with its numbers as strings where one is no plain whole number.

    from_json would give 1.50 as 1.5, and 1e400 as Infinity.
    """
    fraction = F.col(RAW).rlike(r"[0-9][.eE][0-9+-]")
    return F.when(fraction, F.regexp_replace(RAW, _BARE_NUMBER, '$1"$2"')).otherwise(F.col(RAW))


def _json_schema(source: Source) -> str:
    """The declared paths as one nested DDL type, all leaves texts."""
    tree: dict[str, Any] = {_END: {}}
    for column in source.columns:
        inner = tree
        for name in column.place:
            inner = inner.setdefault(name, {})
    return _ddl(tree)


def _ddl(tree: dict[str, Any]) -> str:
    if not tree:
        return "string"
    return f"struct<{', '.join(f'`{name}`: {_ddl(inner)}' for name, inner in tree.items())}>"


def _inside(value: SparkColumn, place: tuple[str, ...]) -> SparkColumn:
    for name in place:
        value = value[name]
    return value
