"""Folders of images: every file is an example as it is, or in quarantine with the reason."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.lake import Examples, Lake
from jobs.train.stream import Stream
from schemas.dataset import Column, Dataset, DeclarationError, Source
from schemas.field import Image, Label
from tests.builders.lakes import run_etl
from tests.builders.photos import DAY, PHOTOS, SHAPE, encoded, pixels, write_photos

SOUND = {f"{number:03}.jpg": encoded(pixels(number)) for number in range(40)}
RGBA = np.concatenate([pixels(1), pixels(1)[..., :1]], axis=2)
POISON = {
    "cut.jpg": (encoded(pixels(100))[:-20], "image:photo"),
    "empty.jpg": (b"", "image:photo"),
    "text.jpg": (b"no image at all", "image:photo"),
    "grey.jpg": (encoded(pixels(101, SHAPE[:2])), "shape:photo"),
    "large.jpg": (encoded(pixels(102, (7, 5, 3))), "shape:photo"),
    "png.jpg": (encoded(pixels(103), ".png"), "format:photo"),
    "class.jpg": (encoded(pixels(104)), "no_class:kind"),
    "unlabelled.jpg": (encoded(pixels(105)), "label_absent"),
}


def test_each_file_is_an_example_or_in_quarantine_with_its_reason(
    spark: SparkSession, tmp_path: Path
) -> None:
    files = {**SOUND, **{name: content for name, (content, _) in POISON.items()}}
    labels = {name: number % 3 for number, name in enumerate(files) if name != "unlabelled.jpg"}
    raw = write_photos(tmp_path, files, {**labels, "class.jpg": 3})

    result = run_etl(raw, spark, [DAY])

    tally = result.tallies[DAY]
    assert (tally.raw, sum(tally.splits.values())) == (len(files), len(SOUND))
    lake = Lake(str(raw.lake), "photos")
    refused = lake.table("quarantine").read_arrow().to_pylist()
    found = {row["source_file"].rsplit("/", 1)[1]: row for row in refused}
    assert {name: row["reasons"] for name, row in found.items()} == {
        name: [reason] for name, (_, reason) in POISON.items()
    }
    digest = hashlib.sha256(POISON["cut.jpg"][0]).hexdigest()
    assert found["cut.jpg"]["raw"] == f"sha256:{digest}"

    examples = Examples.open(lake.table("examples").url)
    seen = 0
    for split in ("train", "val", "test"):
        stream = Stream(examples, PHOTOS, split=split, batch_rows=8, streams=4)
        for batch in stream.epoch(0):
            rows = batch.is_row
            for photo, label in zip(batch.tensors["photo"][rows], batch.label[rows], strict=True):
                # JPEG loses a little, the same in every decoder: what OpenCV makes of the file.
                assert photo.numpy().tobytes() in _decoded(int(label))
                seen += 1
    assert seen == len(SOUND)


def _decoded(label: int) -> set[bytes]:
    import cv2

    images = (SOUND[name] for number, name in enumerate(SOUND) if number % 3 == label)
    return {
        cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1].tobytes()
        for image in images
    }


def test_more_than_8_bits_or_another_number_of_channels_are_no_image_of_the_field() -> None:
    from jobs.etl.images import problem_of

    problem = problem_of(Image("photo", shape=SHAPE, format="png"))

    assert problem(encoded(pixels(1), ".png")) is None
    assert problem(encoded(pixels(1).astype(np.uint16) * 257, ".png")) == "depth:photo"
    assert problem(encoded(RGBA[..., [3, 2, 1, 0]], ".png")) == "shape:photo"
    assert problem(None) == "image:photo"


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
