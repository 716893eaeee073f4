"""Images: what makes a file's bytes none of a field, found without decoding what it claims."""

from __future__ import annotations

import hashlib
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from jobs.rows.read import images
from jobs.rows.read.images import image_reasons
from schemas.dataset import Column, Dataset, DeclarationError, Source
from schemas.field import Image, Label
from tests.builders.photos import SHAPE, encoded, pixels
from tests.rows.engines import files_of, judged, raw_rows, values_of, write

PHOTO = Image("photo", "content", shape=SHAPE, format="jpeg")
PNG = Image("photo", "content", shape=SHAPE)
RGBA = np.concatenate([pixels(1), pixels(1)[..., :1]], axis=2)
SOURCE = Source(
    "photos",
    format="images",
    columns=(Column("file", "string"), Column("folder", "string"), Column("content", "binary")),
)
PHOTOS = Dataset(
    "photos",
    (SOURCE,),
    "photos",
    ("file",),
    (Label("kind", "TRY_CAST(folder AS INT)", task="multiclass", classes=3), PHOTO),
)


def reasons(content: bytes | None, f: Image = PHOTO) -> str | None:
    (found,) = image_reasons(pa.array([content], pa.binary()), f)
    return found


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rows + chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    """A JPEG whose frame claims 65,535 x 65,535 pixels."""
    content = bytearray(encoded(pixels(1)))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    return bytes(content)


CASES = {
    "sound.jpg": (encoded(pixels(0)), PHOTO, None),
    "cut.jpg": (encoded(pixels(100))[:-20], PHOTO, "image:photo"),
    "empty.jpg": (b"", PHOTO, "image:photo"),
    "text.jpg": (b"no image at all", PHOTO, "image:photo"),
    "grey.jpg": (encoded(pixels(101, SHAPE[:2])), PHOTO, "shape:photo"),
    "large.jpg": (encoded(pixels(102, (7, 5, 3))), PHOTO, "shape:photo"),
    "png.jpg": (encoded(pixels(103), ".png"), PHOTO, "format:photo"),
    "bomb.jpg": (jpeg_bomb(), PHOTO, "shape:photo"),
    "bomb.png": (bomb(1 << 15, 1 << 15), PNG, "shape:photo"),
    "widest.png": (bomb((1 << 31) - 1, (1 << 31) - 1), PNG, "shape:photo"),
    "other_bomb.png": (bomb(1 << 15, 1 << 15), PHOTO, "format:photo"),
    "head.png": (bomb(5, 6)[:24], PNG, "image:photo"),
    "sound.png": (encoded(pixels(1), ".png"), PNG, None),
    "deep.png": (encoded(pixels(1).astype(np.uint16) * 257, ".png"), PNG, "depth:photo"),
    "rgba.png": (encoded(RGBA[..., [3, 2, 1, 0]], ".png"), PNG, "shape:photo"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_reason_against_an_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, f, reason = CASES[name]
    if "bomb" in name or "widest" in name:
        monkeypatch.setattr(images, "decoded", lambda _: pytest.fail("decoded"))
    started = time.monotonic()
    assert reasons(content, f) == reason
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("extension", [".bmp", ".tiff", ".webp"])
def test_formats_whose_headers_are_not_known(extension: str) -> None:
    assert reasons(encoded(pixels(1), extension)) == "format:photo"


def test_what_claims_an_unknown_number_of_pixels_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = bytearray(encoded(pixels(1), ".bmp"))
    content[18:26] = struct.pack("<ii", 1 << 15, 1 << 15)
    monkeypatch.setattr(images, "decoded", lambda _: pytest.fail("decoded"))
    assert reasons(bytes(content)) == "format:photo"
    assert reasons(None) == "image:photo"
    # Where a decoder may look further for a frame than we do.
    head, frame = CASES["bomb.jpg"][0].split(b"\xff\xc0", 1)
    assert reasons(head + b"garbage\xff\xc0" + frame) == "image:photo"


def test_a_file_is_a_row(tmp_path: Path) -> None:
    files = {
        "0/a.jpg": CASES["sound.jpg"][0],
        "1/b.jpg": CASES["bomb.jpg"][0],
        "7/c.jpg": CASES["sound.jpg"][0],
        "x/d.jpg": CASES["cut.jpg"][0],
        "_x/hidden.jpg": b"",
        ".y/hidden.jpg": b"",
    }
    found = judged(PHOTOS, write(tmp_path, files))
    assert values_of(found, "file", "kind") == [("a.jpg", 0)]
    assert values_of(found, "photo") == [files["0/a.jpg"]]
    digest = hashlib.sha256(files["1/b.jpg"]).hexdigest()
    got = {row["source_file"].rsplit("/", 1)[1]: row for row in found.refused.to_pylist()}
    assert {name: row["reasons"] for name, row in got.items()} == {
        "b.jpg": ["shape:photo"],
        "c.jpg": ["no_class:kind"],
        "d.jpg": ["label_absent", "image:photo"],
    }
    assert got["b.jpg"]["raw"] == f"sha256:{digest}"
    scored = judged(PHOTOS, tmp_path, with_label=False)
    assert values_of(scored, "file", "kind") == [("a.jpg", None), ("c.jpg", None)]


def test_large_images_are_not_gathered_by_the_thousand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.rows.read.pieces import cut, read_rows

    monkeypatch.setattr("jobs.rows.read.pieces._TABLE_BYTES", 5_000)
    files = files_of(write(tmp_path, {f"{n}.jpg": bytes(1_000) for n in range(40)}))
    tables = list(read_rows(cut(files, SOURCE, 1), SOURCE))
    assert sum(table.num_rows for table in tables) == 40
    assert max(table.num_rows for table in tables) < 10
    assert raw_rows(SOURCE, files).num_rows == 40


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (Column("content", "string"), "photos.content has type 'string'; it is 'binary'"),
        (Column("width", "int"), "photos.width is none of a folder of images"),
    ],
)
def test_a_folder_of_images_has_its_own_columns(column: Column, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Dataset(
            name="photos",
            sources=(Source("photos", (Column("file", "string"), column), format="images"),),
            rows="photos",
            key=("file",),
            fields=(Label("file"), Image("photo", "content", shape=SHAPE)),
        )


def test_classes_belong_to_a_multiclass_label() -> None:
    for task, classes in (("multiclass", 1), ("binary", 2)):
        with pytest.raises(ValueError, match=f"task is '{task}' and classes {classes}"):
            Label("kind", task=task, classes=classes)  # type: ignore[arg-type]


def test_what_opencv_decodes_is_what_is_checked() -> None:
    decoded: Any = images.decoded(CASES["sound.jpg"][0])
    expected = cv2.imdecode(np.frombuffer(CASES["sound.jpg"][0], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, expected)
    assert images.decoded(None) is None
