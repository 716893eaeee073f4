"""Folders of images: one row a file, and what makes a file's bytes no image of a field.

Bytes are decoded once, by OpenCV as Petastorm's codec does it, and only where the file's own header
has the declared shape: a small file may claim more pixels than a machine can hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import cv2
import fsspec
import numpy as np
import pyarrow as pa

from jobs.rows.base.names import ENCODING, MALFORMED, REPEATED_HEADER, ROW_TEXT, UNREAD, mark
from jobs.rows.read.files import RawFile
from schemas.field import Image
from schemas.source import Source

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_SIGNATURES = {"png": _PNG, "jpeg": _JPEG}
# What files of other formats begin with: BMP, GIF, TIFF, WebP and the like.
_OTHERS = (b"BM", b"GIF8", b"II*\0", b"MM\0*", b"RIFF", b"P5\n", b"P6\n")
# Markers of JPEG that begin a frame, and hold its height and width.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_rows(files: Sequence[RawFile], source: Source) -> pa.Table:
    """A row a file [n]: its declared columns, the digest of its bytes in place of a text, marks."""
    contents = [_content(file.path) for file in files]
    names = [file.path.rsplit("/", 2) for file in files]
    values = {
        "file": pa.array([parts[-1] for parts in names], pa.string()),
        "folder": pa.array([parts[-2] if len(parts) > 1 else None for parts in names], pa.string()),
        "content": pa.array(contents, pa.binary()),
    }
    digests = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents]
    no = np.zeros(len(files), bool)
    marks = [mark(reason) for reason in (ENCODING, MALFORMED, REPEATED_HEADER)]
    columns = {name: values[name] for name in source.column_names}
    return pa.table({**columns, ROW_TEXT: digests, **dict.fromkeys([*marks, UNREAD], no)})


def _content(path: str) -> bytes:
    with fsspec.open(path, "rb") as file:
        found: bytes = file.read()
        return found


def image_reasons(contents: pa.ChunkedArray, field: Image) -> list[str | None]:
    """The reason against each image, None for a sound one.

    `image` for what cannot be decoded, `format` for another format than declared, `depth` for more
    than 8 bits a channel, which would be cut off, and `shape` for another height, width or number
    of channels.
    """
    return [_reason(content.as_py(), field) for content in contents]


def _reason(content: bytes | None, field: Image) -> str | None:
    content = content or b""
    of_format = content.startswith(_SIGNATURES[field.format])
    size = _claimed_size(content)
    if size is None:
        other = not of_format and content.startswith(_OTHERS)
        return f"{'format' if other else 'image'}:{field.name}"
    if size != field.shape[:2]:
        # Whatever else is wrong with it, it is not decoded.
        return f"{'shape' if of_format else 'format'}:{field.name}"
    image = decoded(content)
    if image is None:
        return f"image:{field.name}"
    if not of_format:
        return f"format:{field.name}"
    if image.dtype != np.uint8:
        return f"depth:{field.name}"
    return None if image.shape == field.shape else f"shape:{field.name}"


def decoded(content: bytes | None) -> np.ndarray | None:
    if not content:
        return None
    try:
        image: np.ndarray | None = cv2.imdecode(
            np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED
        )
    except cv2.error:
        # It claims more pixels than OpenCV takes.
        return None
    return image


def _claimed_size(content: bytes) -> tuple[int, int] | None:
    """Height and width that a PNG's or a JPEG's header names; None without such a header."""
    if content.startswith(_PNG) and content[12:16] == b"IHDR" and len(content) >= 24:
        return int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")
    if content.startswith(_JPEG):
        return next(_frames(content), None)
    return None


def _frames(content: bytes) -> Iterator[tuple[int, int]]:
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in _FRAMES:
            height = int.from_bytes(content[place + 5 : place + 7], "big")
            yield height, int.from_bytes(content[place + 7 : place + 9], "big")
            return
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
