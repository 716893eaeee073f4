"""A made-up data set, `photos`: a folder of JPEG files, with a CSV file of labels beside it.

The other fields follow from the number in a file's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from schemas.dataset import Column, Dataset, Join, Source
from schemas.field import Carried, CategoricalList, Image, Label, Numeric, Tensor
from tests.builders.visits import Raw

SHAPE = (6, 5, 3)
DAY = "2024-05-01"

_NUMBER = "coalesce(TRY_CAST(regexp_extract(file, '[0-9]+') AS INTEGER), 0)"

PHOTOS = Dataset(
    name="photos",
    sources=(
        Source(
            "photos",
            format="images",
            columns=(Column("file", "string"), Column("content", "binary")),
        ),
        Source("labels", columns=(Column("file", "string"), Column("kind", "int"))),
    ),
    rows="photos",
    ds=f"DATE'{DAY}'",
    key=("file",),
    joins=(Join("labels", on=(("file", "file"),)),),
    fields=(
        Label("kind", "labels.kind", task="multiclass", classes=3),
        Image("photo", "content", shape=SHAPE, format="jpeg"),
        Tensor("vector", f"list_transform(range(1, 7), lambda i: {_NUMBER} + i / 8)", (2, 3)),
        CategoricalList(
            "tag_ids", f"list_transform(range({_NUMBER} % 3 + 1), lambda i: i * 5)", max_length=3
        ),
        Numeric("rest", f"nullif({_NUMBER} % 5, 0)"),
        Carried("name", "file"),
    ),
)

# Without its tensor, which the cnn would take for a second image.
ALBUM = replace(PHOTOS, fields=tuple(f for f in PHOTOS.fields if f.name != "vector"))


def pixels(number: int, shape: tuple[int, ...] = SHAPE) -> npt.NDArray[np.uint8]:
    """Of the photo of that number, in colours red, green, blue."""
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def encoded(image: npt.NDArray[Any], extension: str = ".jpg") -> bytes:
    """As OpenCV writes it, whose channels are blue, green, red."""
    return bytes(cv2.imencode(extension, image[..., ::-1] if image.ndim == 3 else image)[1])


def write_photos(
    folder: Path,
    files: Mapping[str, bytes],
    labels: Mapping[str, object],
    declaration: str = "PHOTOS",
) -> Raw:
    """The files, their labels and the settings that read them."""
    raw = Raw(folder)
    (folder / "photos").mkdir(parents=True)
    for name, content in files.items():
        (folder / "photos" / name).write_bytes(content)
    lines = "".join(f"{name},{kind}\n" for name, kind in labels.items())
    (folder / "labels.csv").write_text(f"file,kind\n{lines}", encoding="utf-8")
    tree = {
        "schema": f"tests.builders.photos:{declaration}",
        "lake": "lake",
        "etl": {
            "sources": {"photos": "photos", "labels": "labels.csv"},
            "max_quarantined_fraction": 0.9,
        },
        "stream": {"streams": 4, "window_rows": 16},
        "train": {"model": "cnn", "batch_rows": 16, "epochs": 1, "hidden": [8], "workers": 1},
        "gate": {"rules": [{"metric": "accuracy", "min_value": 0.0}]},
    }
    raw.config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return raw
