"""Lines of JSON to a text a declared column: an object a line, values by their path.

DuckDB's parser says what is JSON, but for commas behind the last element, which it takes. It prints
-0, and a number that is no whole one, in its shortest form; where a text is declared, the number's
own spelling is taken instead (`1.50` stays `1.50`).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.rows.base.arrays import whole
from jobs.rows.base.duck import registered, shared_connection
from jobs.rows.base.names import ENCODING, MALFORMED, REPEATED_HEADER, ROW_TEXT, UNREAD, mark
from jobs.rows.read.lines import Lines
from schemas.source import Column, Source

# A number, and all that stands before it outside of it: strings are taken whole. The line gets a
# number at its end, so that every match begins where the one before ended, never inside a string.
_STRING = r'"(?:[^"\\]|\\.)*"'
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_BARE_NUMBER = rf'((?:[^"0-9-]|{_STRING})*)({_NUMBER})'
_END = "\x010"
_LAST_COMMA = r",[ \t\r\n]*[}\]]"
# Half of a pair of escapes is no character.
_SURROGATE = r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"


def json_rows(lines: Lines, source: Source) -> pa.Table:
    """A row a line [n]: a text a declared column, the line, and the marks of reading."""
    texts = lines.bare()
    sound, values, kinds = _extracted(_without_last_commas(texts), source)
    columns = {}
    for place, column in enumerate(source.columns):
        columns[column.name] = pc.list_element(values, place)
        if column.type.strip().lower() == "string":
            columns[column.name] = _spelled(columns[column.name], kinds, place, texts, source)
    miscoded = lines.miscoded | _half_characters(texts, sound)
    no = np.zeros(len(lines), bool)
    return pa.table(
        {
            **columns,
            ROW_TEXT: texts,
            mark(ENCODING): miscoded,
            mark(MALFORMED): ~sound & ~miscoded,
            mark(REPEATED_HEADER): no,
            UNREAD: ~sound,
        }
    )


def _without_last_commas(texts: pa.StringArray) -> pa.StringArray:
    """The lines; null for one with a comma behind the last element of a list or an object."""
    found = pc.match_substring_regex(texts, _LAST_COMMA)
    if not pc.any(found).as_py():
        return texts
    bare = pc.replace_substring_regex(texts, _STRING, '""')
    return pc.if_else(pc.match_substring_regex(bare, _LAST_COMMA), None, texts)


def _extracted(texts: pa.StringArray, source: Source) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """Which lines are one object [n]; values and their JSON types, a list a line [n]."""
    paths = ", ".join(_quoted(_path(column)) for column in source.columns)
    found = _asked(
        texts,
        "SELECT o IS NOT NULL AS sound, json_extract_string(o, [" + paths + "]) AS v, "
        "json_type(o, [" + paths + "]) AS t FROM (SELECT CASE WHEN json_valid(line) AND "
        "json_type(CASE WHEN json_valid(line) THEN line END) = 'OBJECT' THEN line END AS o "
        "FROM __lines)",
    )
    return np.asarray(found["sound"]), whole(found["v"]), whole(found["t"])


def _asked(texts: pa.StringArray, sql: str) -> pa.Table:
    with registered(shared_connection(), {"__lines": pa.table({"line": texts})}) as duck:
        return duck.sql(sql).to_arrow_table()


def _path(column: Column) -> str:
    names = (name.replace("\\", "\\\\").replace('"', '\\"') for name in column.place)
    return "$" + "".join(f'."{name}"' for name in names)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _spelled(
    values: pa.Array, kinds: pa.Array, place: int, texts: pa.StringArray, source: Source
) -> pa.Array:
    """A column's texts, numbers as the lines spell them."""
    kind = pc.list_element(kinds, place)
    # 0 itself has no sign to DuckDB, and -0 has one.
    minus_zero = pc.and_(pc.equal(kind, "BIGINT"), pc.equal(values, "0"))
    numbers = np.asarray(pc.fill_null(pc.or_(pc.equal(kind, "DOUBLE"), minus_zero), False))
    if not numbers.any():
        return values
    ended = pc.binary_join_element_wise(texts.filter(pa.array(numbers)), _END, "")
    quoted = pc.replace_substring_regex(ended, _BARE_NUMBER, r'\1"\2"')
    quoted = pc.replace_substring_regex(quoted, '\x01"0"$', "")
    _, spelled, _ = _extracted(quoted, source)
    return pc.replace_with_mask(values, pa.array(numbers), pc.list_element(spelled, place))


def _half_characters(texts: pa.StringArray, sound: np.ndarray) -> np.ndarray:
    """Lines that are no JSON for half of a pair of escapes alone."""
    found = np.zeros(len(texts), bool)
    places = np.flatnonzero(~sound)
    if len(places):
        bad = texts.take(pa.array(places))
        mended = pc.replace_substring_regex(bad, _SURROGATE, "?")
        changed = np.asarray(pc.not_equal(bad, mended))
        if changed.any():
            valid = _asked(mended, "SELECT json_valid(line) AS v FROM __lines")
            found[places] = changed & np.asarray(valid["v"])
    return found
