"""Where rows end whose quoted values may hold line ends."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from schemas.source import Source

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def ends_outside_quotes(content: bytes, source: Source) -> Ints:
    """The places of line feeds that end a row, in content that begins with one.

    A quote opens where a value begins with it. Mostly no other is there but those that close, and
    every second one opens; otherwise, and where comments hold quotes, quoted values are looked for
    one by one.
    """
    data = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    quotes = np.flatnonzero(data == ord(source.quote))
    if source.escape:
        quotes = quotes[~_escaped(data, quotes, ord(source.escape))]
    commented = _in_comments(data, ends, quotes, source)
    if not commented and _all_open(data, quotes[::2], source):
        inside = np.searchsorted(quotes, ends) % 2 == 1
        return np.asarray(ends[~inside])
    spans = np.array([found.span() for found in _skipped(source).finditer(content)]).reshape(-1, 2)
    if not len(spans):
        return ends
    # The value before an end, if any, has closed. A comment ends where its line does.
    before = np.searchsorted(spans[:, 0], ends, side="right") - 1
    inside = (before >= 0) & (ends < spans[before, 1])
    return np.asarray(ends[~inside])


def _escaped(data: Bytes, quotes: Ints, escape: int) -> npt.NDArray[np.bool_]:
    """Quotes behind an odd number of escapes."""
    others = np.where(data != escape, np.arange(len(data), dtype=np.int32), -1)
    last_other = np.concatenate([[-1], np.maximum.accumulate(others)])
    return np.asarray((quotes - 1 - last_other[quotes]) % 2 == 1)


def _all_open(data: Bytes, quotes: Ints, source: Source) -> bool:
    """Whether values begin with these quotes, or they are the second ones of two."""
    after = quotes[quotes > 0]
    good = np.isin(data[after - 1], [ord("\n"), ord(source.quote)])
    delimiter = np.frombuffer(source.delimiter.encode(), np.uint8)
    between = after >= len(delimiter)
    for place, byte in enumerate(delimiter[::-1]):
        between &= data[np.maximum(after - 1 - place, 0)] == byte
    return bool((good | between).all())


def _in_comments(data: Bytes, ends: Ints, quotes: Ints, source: Source) -> bool:
    """Whether lines that begin as comments do hold quotes."""
    if not source.comment or not len(ends):
        return False
    starts = np.concatenate([[0], ends[:-1] + 1])
    maybe = data[starts] == source.comment.encode()[0]
    before, after = (np.searchsorted(quotes, places[maybe]) for places in (starts, ends))
    return bool((before < after).any())


def _skipped(source: Source) -> re.Pattern[bytes]:
    """Comments, and quoted values, those that nothing closes up to the end."""
    quote, escape = re.escape(source.quote), re.escape(source.escape)
    inside = rf"[^{quote}]*(?:{quote}{quote}[^{quote}]*)*"
    if source.escape:
        inside = rf"[^{quote}{escape}]*(?:{escape}.[^{quote}{escape}]*)*"
    begins = rf"(?:\A|(?<=\n)|(?<={re.escape(source.delimiter)}))"
    comment = rf"(?:\A|(?<=\n)){re.escape(source.comment)}[^\n]*|" if source.comment else ""
    value = rf"{begins}{quote}{inside}(?:{quote}|\Z)"
    return re.compile((comment + value).encode(), re.DOTALL)
