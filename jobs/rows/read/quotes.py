"""Lines of delimited text made such that Arrow parses them: one byte between values, quotes closed
and doubled inside quotes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.rows.read.lines import Mask
from schemas.source import Source

# One of these stands for a delimiter of several bytes while lines are parsed.
_STANDINS = [bytes([byte]) for byte in (*range(0x1F, 0x0D, -1), 0x0C, 0x0B, *range(1, 9))]


@dataclass(frozen=True)
class ArrowLines:
    """Lines [n] as Arrow takes them.

    Attributes:
        delimiter: of one byte.
        unclosed: lines with a quoted value that does not end as one must; not to be parsed [n].
        swaps: what was put in the place of what, in turn.
    """

    texts: pa.BinaryArray
    delimiter: str
    unclosed: Mask
    swaps: tuple[tuple[str, str], ...] = ()

    def swapped(self, text: str) -> str:
        """A text as the lines have it."""
        for instead, own in self.swaps:
            text = text.replace(own, instead)
        return text

    def restored(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """Values with the texts that they had."""
        for instead, text in reversed(self.swaps):
            values = pc.replace_substring(values, instead, text)
        return values


def arrow_lines(texts: pa.BinaryArray, content: bytes, source: Source) -> ArrowLines:
    """Args: texts: lines with their ends [n]; content: the same, one after the other."""
    delimiter, swaps = source.delimiter, []
    if b"\0" in content:
        # Arrow's search for delimiters, where it takes many bytes at a time, ends at a zero.
        swaps.append((_absent(content), "\0"))
    if len(delimiter.encode()) > 1:
        delimiter, swapped = _standin(content, source)
        swaps += [*swapped, (delimiter, source.delimiter)]
    for instead, text in swaps:
        texts = pc.replace_substring(texts, text.encode(), instead.encode())
    unclosed = np.zeros(len(texts), bool)
    if source.quote and source.quote.encode() in content:
        quoted = np.asarray(pc.match_substring(texts, source.quote.encode()))
        some = texts.filter(pa.array(quoted)).cast(pa.string())
        closed = _patterns(source, delimiter).closed
        unclosed[quoted] = ~np.asarray(pc.match_substring_regex(some, closed))
        if source.escape and source.escape.encode() in content:
            texts = _doubled(texts, quoted & ~unclosed, source, delimiter)
    return ArrowLines(texts, delimiter, unclosed, tuple(swaps))


def _standin(content: bytes, source: Source) -> tuple[str, list[tuple[str, str]]]:
    """A byte that is not in the content, or one that is put out of the way."""
    special = (source.quote + source.escape).encode()
    known = [mark for mark in _STANDINS if mark not in special]
    free = next((mark for mark in known if mark not in content), None)
    if free is not None:
        return free.decode(), []
    return known[0].decode(), [(_absent(content, "1"), known[0].decode())]


def _absent(content: bytes, kind: str = "0") -> str:
    """A text that is not in the content, nor does it come to be where it is put in."""
    middle = kind
    while (found := f"\ufdd0{middle}\ufdd1").encode() in content:
        middle += kind
    return found


def field_counts(lines: ArrowLines, source: Source) -> np.ndarray:
    """The number of values of each line [n]; of an unclosed one it says nothing."""
    texts = lines.texts.cast(pa.string())
    counts = np.array(pc.count_substring(texts, lines.delimiter))
    if source.quote:
        quoted = np.asarray(pc.match_substring(texts, source.quote))
        if quoted.any():
            inside = _patterns(source, lines.delimiter).quoted
            bare = pc.replace_substring_regex(texts.filter(pa.array(quoted)), inside, r"\1")
            counts[quoted] = np.asarray(pc.count_substring(bare, lines.delimiter))
    return counts + 1


@dataclass(frozen=True)
class _Patterns:
    """Regular expressions: a line whose quotes all close, with its end; a quoted value of such."""

    closed: str
    quoted: str


@cache
def _patterns(source: Source, delimiter: str) -> _Patterns:
    quote, between = re.escape(source.quote), re.escape(delimiter)
    end = "" if source.multiline else r"\n"
    doubled = f"(?:[^{quote}{end}]|{quote}{quote})*"
    inside = doubled
    if source.escape:
        escape = re.escape(source.escape)
        after = r"[^\n]" if end else "(?s:.)"
        inside = f"(?:[^{quote}{escape}{end}]|{escape}{after})*"
    bare = f"[^{quote}{between}\\n][^{between}\\n]*"
    value = f"(?:{quote}{inside}{quote}|{bare}|)"
    return _Patterns(f"^{value}(?:{between}{value})*\\n$", f"(^|{between}){quote}{doubled}{quote}")


def _doubled(texts: pa.BinaryArray, where: Mask, source: Source, delimiter: str) -> pa.BinaryArray:
    """Escaped quotes doubled, and escaped escapes bare: in quoted values alone."""
    where = where & np.asarray(pc.match_substring(texts, source.escape.encode()))
    quote, escape = re.escape(source.quote), re.escape(source.escape)
    between = re.escape(delimiter)
    value = re.compile(
        f"((?:^|{between}){quote})((?:[^{quote}{escape}]|{escape}.)*)(?={quote})", re.DOTALL
    )
    pair = re.compile(f"{escape}([{quote}{escape}])")

    def mended(found: re.Match[str]) -> str:
        inside = pair.sub(lambda m: m[1] * 2 if m[1] == source.quote else m[1], found[2])
        return found[1] + inside

    odd = texts.filter(pa.array(where)).cast(pa.string()).to_pylist()
    lines = pa.array([value.sub(mended, line) for line in odd], pa.string())
    return pc.replace_with_mask(texts, pa.array(where), lines.cast(pa.binary()))
