"""Encodings of text files: bytes to UTF-8, and lines that are not in their encoding."""

from __future__ import annotations

import codecs
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

# A byte that cannot be decoded is this one and its number.
_HALF = 0xDC00


def charset(encoding: str) -> str:
    """The encoding's one name."""
    return codecs.lookup(encoding).name.removesuffix("-sig")


def decoder(encoding: str) -> Any:
    """A function of bytes, and whether they are the last, to UTF-8.

    A byte that cannot be decoded becomes half of a pair of surrogates, which UTF-8 has not.
    """
    name = charset(encoding)
    if name == "utf-8":
        return lambda block, final: block
    codecs.register_error("millstream", _halved)
    decoder = codecs.getincrementaldecoder(encoding)("millstream")

    def decode(block: bytes, final: bool) -> bytes:
        if name == "ascii" and block.isascii():
            return block
        return decoder.decode(block, final).encode("utf-8", "surrogatepass")

    return decode


def _halved(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    bad = error.object[error.start : error.end]
    return "".join(chr(_HALF + byte) for byte in bad), error.end


def valid_texts(
    content: bytes, offsets: npt.NDArray[np.int32], recoded: bool
) -> tuple[pa.BinaryArray, Mask]:
    """The lines in valid UTF-8, and which of them are shown with escapes."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    texts = pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
    bad = np.zeros(len(texts), bool)
    if content.isascii():
        return texts, bad
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        places = _invalid(np.frombuffer(content, np.uint8))
        bad[np.searchsorted(offsets, places, side="right") - 1] = True
        shown = pa.array([_shown(line.as_py(), recoded) for line in texts.filter(pa.array(bad))])
        texts = pc.replace_with_mask(texts, pa.array(bad), shown.cast(pa.binary()))
    return texts, bad


def _invalid(content: Bytes) -> npt.NDArray[np.int64]:
    """Places where bytes are no UTF-8: a byte that may not stand there, or a part that lacks.

    Of a sequence its first byte says how many follow, each of them 0x80 to 0xBF; the second byte is
    limited further after four first bytes, so that each character has one spelling.
    """
    follows = (content & 0xC0) == 0x80
    wanted = np.zeros(len(content) + 3, bool)
    leads = content <= 0xF4
    for least, place in ((0xC2, 1), (0xE0, 2), (0xF0, 3)):
        leads &= content >= least
        wanted[place : place + len(content)] |= leads
        # A line that ends inside a sequence wants nothing of the next one.
        leads[:-place] &= content[place:] != ord("\n")
    bad = follows != wanted[: len(content)]
    bad |= (content == 0xC0) | (content == 0xC1) | (content > 0xF4)
    after, first = content[1:], content[:-1]
    for lead, low, high in (
        (0xE0, 0xA0, 0xBF),
        (0xED, 0x80, 0x9F),
        (0xF0, 0x90, 0xBF),
        (0xF4, 0x80, 0x8F),
    ):
        bad[1:] |= (first == lead) & ((after < low) | (after > high))
    return np.flatnonzero(bad)


def _shown(line: bytes, recoded: bool) -> str:
    r"""A line with `\xNN` for bytes that could not be decoded, its own backslashes doubled.

    Python's `text.encode().decode("unicode_escape").encode("latin-1")` gives a UTF-8 file's bytes
    back.

    Args:
        recoded: the file is of another encoding; what could be decoded is shown as it is.
    """
    line = line.replace(b"\\", b"\\\\")
    if not recoded:
        return line.decode("ascii", "backslashreplace")
    text = line.decode("utf-8", "surrogatepass")
    text = re.sub("[\udc00-\udcff]", lambda half: f"\\x{ord(half[0]) - _HALF:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode()
