"""Text files to lines: decompressed, decoded to UTF-8, cut where lines end.

A file without compression, in an encoding whose line ends are bytes of their own, is read in byte
ranges: a range has the lines that begin in it. Any other file is read from its start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.errors import DataRefused
from jobs.rows.read.encodings import charset, decoder, valid_texts
from jobs.rows.read.multiline import ends_outside_quotes
from schemas.source import Source

Mask = npt.NDArray[np.bool_]

BYTE_ORDER_MARK = "\ufeff".encode()
# So much of a file is parsed at once; large enough that a statement's planning costs little.
BLOCK_BYTES = 16 << 20
# A line longer than this is taken for a file that is no text.
_LONGEST_BYTES = 256 << 20
_SUFFIXES = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".zstd": "zstd"}


@dataclass(frozen=True)
class Lines:
    """Lines of a file.

    Attributes:
        texts: each with its end, a line feed [n]; valid UTF-8.
        miscoded: whether a line was not in its encoding; it is shown with backslash escapes [n].
        block: all texts, one after the other; empty where they have yet to be put together.
    """

    texts: pa.BinaryArray
    miscoded: Mask
    block: bytes = b""

    def __len__(self) -> int:
        return len(self.texts)

    def filter(self, mask: Mask) -> Lines:
        if mask.all():
            return self
        return Lines(self.texts.filter(pa.array(mask)), self.miscoded[mask])

    def without_first(self) -> Lines:
        return Lines(self.texts.slice(1), self.miscoded[1:])

    @property
    def content(self) -> pa.Buffer:
        """All lines, one after the other."""
        offsets = np.frombuffer(self.texts.buffers()[1], np.int32)[self.texts.offset :]
        first, last = int(offsets[0]), int(offsets[len(self.texts)])
        return self.texts.buffers()[2].slice(first, last - first)

    def to_bytes(self) -> bytes:
        """The same, as Python searches it."""
        return self.block or self.content.to_pybytes()

    def bare(self) -> pa.StringArray:
        """The lines without their ends."""
        return pc.ascii_rtrim(self.texts.cast(pa.string()), "\n")


def compression_of(path: str) -> str | None:
    return next((codec for end, codec in _SUFFIXES.items() if path.lower().endswith(end)), None)


def can_be_cut(path: str, source: Source) -> bool:
    """Whether byte ranges of the file can be read by themselves."""
    plain = charset(source.encoding) in ("utf-8", "ascii", "iso8859-1")
    return plain and compression_of(path) is None and not source.multiline


def read_lines(
    path: str, source: Source, start: int = 0, end: int | None = None
) -> Iterator[Lines]:
    """The lines of a text file, or those that begin from byte `start` on and before byte `end`.

    Blank lines and comments are left out. A byte order mark at the start of a line is, too.

    Raises:
        DataRefused: a line, or a quoted value, has no end.
    """
    with _opened(path) as stream:
        for content in _whole_lines(_blocks(stream, start, end), source, path):
            lines = _lines(content, source)
            if len(lines):
                yield lines


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    with fsspec.open(path, "rb") as file:
        codec = compression_of(path)
        yield pa.input_stream(pa.PythonFile(file, "r"), compression=codec) if codec else file


def _blocks(stream: Any, start: int, end: int | None) -> Iterator[bytes]:
    """The bytes of the lines that begin in the range, and of no others."""
    if start:
        start = _first_start(stream, start, end)
        stream.seek(start)
    left = None if end is None else end - start
    while left is None or left > 0:
        block = stream.read(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))
        if not block:
            return
        yield bytes(block)
        left = None if left is None else left - len(block)
        last = block
    if end is not None and end > start and not last.endswith(b"\n"):
        for block in _growing(stream):
            found = block.find(b"\n")
            yield block if found < 0 else block[: found + 1]
            if found >= 0:
                return


def _first_start(stream: Any, start: int, end: int | None) -> int:
    """Where the first line begins that does so from `start` on; `end` or more if none before it."""
    # A line begins after a line's end; that of the byte before belongs to the range before.
    place = start - 1
    stream.seek(place)
    for block in _growing(stream):
        found = block.find(b"\n")
        if found >= 0:
            return place + found + 1
        place += len(block)
        if end is not None and place >= end:
            break
    return place


def _growing(stream: Any) -> Iterator[bytes]:
    """Small blocks first, since a line's end is mostly near."""
    size = 1 << 16
    while block := stream.read(size):
        yield bytes(block)
        size = min(2 * size, BLOCK_BYTES)


def _whole_lines(blocks: Iterator[bytes], source: Source, path: str) -> Iterator[bytes]:
    """Blocks that end where a line does, in UTF-8, line ends as single line feeds."""
    decode = decoder(source.encoding)
    half, unended, enough = b"", 0, 0
    # Put together once, where a line's end is found.
    rest: list[bytes] = []
    for block in blocks:
        decoded = half + decode(block, False)
        # A last \r may be half of a \r\n.
        half = b"\r" if decoded.endswith(b"\r") else b""
        content = _one_end(decoded[: len(decoded) - len(half)])
        if source.multiline:
            rest.append(content)
            unended += len(content)
            if unended < min(enough, _LONGEST_BYTES):
                continue
            content, rest, unended = _unmarked(b"".join(rest)), [], 0
        end = _last_end(content, source)
        unended = len(content) - end + (0 if end else unended)
        # A value without an end is looked through again when it has doubled.
        enough = 0 if end else 2 * unended
        if unended > _LONGEST_BYTES:
            raise DataRefused(
                f"{path} has a line, or a quoted value, of more than {_LONGEST_BYTES >> 20} MiB",
                "lines that end, and quotes that close",
                "correct the file; nothing was changed",
            )
        if end:
            # One copy of the block, and not one for each of the two cuts.
            yield b"".join((*rest, memoryview(content)[:end]))
            rest = []
        rest.append(content[end:])
    if content := b"".join((*rest, _one_end(half + decode(b"", True)))):
        yield content if content.endswith(b"\n") else content + b"\n"


def _last_end(content: bytes, source: Source) -> int:
    """Where the last whole line ends."""
    if not source.multiline or not source.quote:
        return content.rfind(b"\n") + 1
    ends = ends_outside_quotes(content, source)
    return int(ends[-1]) + 1 if len(ends) else 0


def _one_end(content: bytes) -> bytes:
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content


def _unmarked(content: bytes) -> bytes:
    """Lines without the byte order marks that they begin with."""
    if not content.isascii():
        while content.startswith(BYTE_ORDER_MARK):
            content = content[len(BYTE_ORDER_MARK) :]
        if b"\n" + BYTE_ORDER_MARK in content:
            content = re.sub(rb"\n(?:\xef\xbb\xbf)+", rb"\n", content)
    return content


def _lines(content: bytes, source: Source) -> Lines:
    """The lines of whole lines, without blank ones and comments."""
    content = _unmarked(content)
    data = np.frombuffer(content, np.uint8)
    if source.multiline and source.quote:
        ends = ends_outside_quotes(content, source)
        if not len(ends) or ends[-1] + 1 < len(data):
            # The file ends inside quotes.
            ends = np.append(ends, len(data) - 1)
    else:
        ends = np.flatnonzero(data == ord("\n"))
    offsets = np.concatenate([[0], ends + 1]).astype(np.int32)
    texts, miscoded = valid_texts(content, offsets, charset(source.encoding) != "utf-8")
    block = b"" if miscoded.any() else content
    return Lines(texts, miscoded, block).filter(_is_row(texts, source))


def _is_row(texts: pa.BinaryArray, source: Source) -> Mask:
    offsets = np.frombuffer(texts.buffers()[1], np.int32)
    first = np.frombuffer(texts.buffers()[2], np.uint8)[offsets[:-1]]
    kept = np.ones(len(texts), bool)
    maybe_blank = np.flatnonzero((first == ord("\n")) | (first == ord(" ")))
    if len(maybe_blank):
        trimmed = pc.ascii_trim(texts.take(pa.array(maybe_blank)).cast(pa.string()), " \n")
        kept[maybe_blank] = np.asarray(pc.binary_length(trimmed)) > 0
    if source.comment:
        kept &= ~np.asarray(pc.starts_with(texts, source.comment))
    return kept
