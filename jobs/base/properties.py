"""Spark's properties files, which are Java's: read as spark-submit reads them."""

from __future__ import annotations

import re

_BLANK = " \t\f"
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
# The name ends at the first of these that no backslash stands before.
_NAME = re.compile(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


def read_properties(text: str) -> dict[str, str]:
    """Names and values: separated by `=`, `:` or blanks; the last one of a name counts.

    `#` and `!` start a comment, a backslash at the end continues a line. Spark takes blanks off a
    value's end, and leaves names that do not begin with `spark.`.
    """
    properties = {}
    for line in _lines(text):
        name, value = _NAME.fullmatch(line).groups()  # type: ignore[union-attr]
        if name.startswith("spark."):
            properties[_unescaped(name)] = _unescaped(value).strip()
    return properties


def _lines(text: str) -> list[str]:
    """Lines with their continuations, without comments and empty ones."""
    lines = []
    held = ""
    for line in re.split(r"\r\n|\n|\r", text):
        part = line.lstrip(_BLANK)
        if not held and part.startswith(("#", "!")):
            continue
        if (len(part) - len(part.rstrip("\\"))) % 2:
            held += part[:-1]
            continue
        if held + part:
            lines.append(held + part)
        held = ""
    return [*lines, held] if held else lines


def _unescaped(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPED.get(code, code)

    return _ESCAPE.sub(character, text)
