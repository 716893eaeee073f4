"""Folders of images: every file is an example as it is, or in quarantine with the reason."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused
from jobs.etl.judge.counts import DateCounts
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.petastorm_arrow import codec_columns
from jobs.train.read.stream import Stream
from tests.builders.lakes import run_etl
from tests.builders.photos import DAY, PHOTOS, SHAPE, encoded, pixels, write_photos

# After the hook, as a team's own code would.
from petastorm import make_batch_reader, make_reader  # isort: skip


def claiming(jpeg: bytes, size: int) -> bytes:
    """A JPEG whose header says that it is `size` high and wide."""
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + size.to_bytes(2, "big") * 2 + jpeg[place + 4 :]


SOUND = {f"{number:03}.jpg": encoded(pixels(number)) for number in range(40)}
POISON = {
    "cut.jpg": (encoded(pixels(100))[:-20], "image:photo"),
    "empty.jpg": (b"", "image:photo"),
    "text.jpg": (b"no image at all", "image:photo"),
    "grey.jpg": (encoded(pixels(101, SHAPE[:2])), "shape:photo"),
    "large.jpg": (encoded(pixels(102, (7, 5, 3))), "shape:photo"),
    "png.jpg": (encoded(pixels(103), ".png"), "format:photo"),
    # A header that claims 2^30 pixels, which nobody may decode.
    "bomb.jpg": (claiming(encoded(pixels(106)), 1 << 15), "shape:photo"),
    "class.jpg": (encoded(pixels(104)), "no_class:kind"),
    "unlabelled.jpg": (encoded(pixels(105)), "label_absent"),
}


@dataclass(frozen=True)
class Made:
    """Examples of the sound files, and the counts."""

    lake: Lake
    examples: Examples
    counts: DateCounts

    @property
    def folder(self) -> str:
        return f"file://{self.examples.url}/run={self.examples.shards()[0].run}"

    @property
    def files(self) -> list[str]:
        return [f"file://{self.examples.url}/{shard.path}" for shard in self.examples.shards()]


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Made:
    files = {**SOUND, **{name: content for name, (content, _) in POISON.items()}}
    labels = {name: number % 3 for number, name in enumerate(files) if name != "unlabelled.jpg"}
    folder = tmp_path_factory.mktemp("photos")
    raw = write_photos(folder, files, {**labels, "class.jpg": 3})
    # Several shards, and row groups, of each split.
    result = run_etl(raw, spark, [DAY], "etl.shard_rows=20", "etl.row_group_rows=6")
    lake = Lake(str(raw.lake), "photos")
    return Made(lake, Examples.open(lake.table("examples").url), result.counts[DAY])


def test_each_file_is_an_example_or_in_quarantine_with_its_reason(made: Made) -> None:
    assert (made.counts.raw, made.counts.valid) == (len(SOUND) + len(POISON), len(SOUND))
    refused = made.lake.table("quarantine").read_arrow().to_pylist()
    found = {row["source_file"].rsplit("/", 1)[1]: row for row in refused}
    assert {name: row["reasons"] for name, row in found.items()} == {
        name: [reason] for name, (_, reason) in POISON.items()
    }
    digest = hashlib.sha256(POISON["cut.jpg"][0]).hexdigest()
    assert found["cut.jpg"]["raw"] == f"sha256:{digest}"


def expected(name: str) -> dict[str, np.ndarray]:
    """What a file's tensors are. JPEG loses a little: its pixels are what OpenCV makes of it."""
    number = int(name.split(".")[0])
    image = cv2.imdecode(np.frombuffer(SOUND[name], np.uint8), cv2.IMREAD_UNCHANGED)
    return {
        "photo": image[..., ::-1],
        "vector": np.arange(1, 7, dtype=np.float32).reshape(2, 3) / 8 + number,
        "rest": np.float32(number % 5 or np.nan),
    }


def test_the_stream_gives_every_value(made: Made) -> None:
    names = {row["row_id"]: row for row in _stored(made)}
    seen = 0
    for split in ("train", "val", "test"):
        stream = Stream(made.examples, PHOTOS, split=split, batch_rows=8, streams=4)
        for batch in stream.epoch(0):
            for row in range(batch.rows):
                stored = names[int(batch.row_id[row])]
                wanted = expected(stored["name"])
                np.testing.assert_array_equal(batch.tensors["photo"][row], wanted["photo"])
                np.testing.assert_array_equal(batch.tensors["vector"][row], wanted["vector"])
                np.testing.assert_array_equal(batch.dense[row, 0], wanted["rest"])
                length = int(batch.tensors["tag_ids_length"][row])
                assert batch.tensors["tag_ids"][row, :length].tolist() == stored["tag_ids"]
                seen += 1
    assert seen == len(SOUND)


def test_petastorm_reads_every_value_of_a_runs_folder(made: Made) -> None:
    with make_reader(made.folder, num_epochs=1, workers_count=2) as reader:
        rows = list(reader)

    stored = {row["name"]: row for row in _stored(made)}
    assert {row.name for row in rows} == SOUND.keys() and len(rows) == len(SOUND)
    for row in rows:
        wanted, own = expected(row.name), stored[row.name]
        np.testing.assert_array_equal(row.photo, wanted["photo"])
        assert row.photo.dtype == np.uint8
        np.testing.assert_array_equal(row.vector, wanted["vector"].reshape(-1))
        np.testing.assert_array_equal(row.rest, wanted["rest"])
        assert row.tag_ids.tolist() == own["tag_ids"]
        assert (row.kind, row.row_id, row.file) == (own["kind"], own["row_id"], own["file"])
        assert (row.ds, row.split) == (DAY, own["split"])


def test_petastorm_reads_every_value_of_a_versions_files(made: Made) -> None:
    found = {}
    # Its batches hold no lists of several lengths.
    fields = [c.name for c in PHOTOS.stored_columns() if None not in c.shape]
    with make_batch_reader(
        made.files, schema_fields=fields, num_epochs=1, workers_count=2
    ) as reader:
        for batch in reader:
            for row in range(len(batch.row_id)):
                found[batch.name[row]] = {name: getattr(batch, name)[row] for name in batch._fields}

    stored = {row["name"]: row for row in _stored(made)}
    assert found.keys() == SOUND.keys()
    for name, row in found.items():
        assert bytes(row["photo"]) == SOUND[name]
        for column, value in stored[name].items():
            if column in fields:
                wanted = np.nan if value is None else value
                np.testing.assert_array_equal(row[column], wanted, err_msg=column)


def test_the_folders_pickle_holds_what_describes_columns_and_no_more(made: Made) -> None:
    path = Path(made.folder.removeprefix("file://"), "_common_metadata")

    columns = codec_columns(pq.read_metadata(path).metadata)

    assert {name: (c.shape, c.format) for name, c in columns.items()} == {"photo": (SHAPE, "jpeg")}


def test_a_corrupt_image_in_a_shard_is_named_with_its_place(made: Made, tmp_path: Path) -> None:
    shard = made.examples.shards("train")[0]
    copy = tmp_path / "examples"
    shutil.copytree(made.examples.url, copy)
    with (copy / shard.path).open("rb") as file:
        rows = pq.read_table(file)
    photos = rows["photo"].to_pylist()
    photos[7] = photos[7][:-30]
    rows = rows.set_column(rows.column_names.index("photo"), "photo", pa.array(photos))
    pq.write_table(rows, copy / shard.path, row_group_size=6, write_page_checksum=True)
    stream = Stream(Examples.open(str(copy)), PHOTOS, split="train", batch_rows=8, streams=4)

    with pytest.raises(DataRefused) as refused:
        list(stream.epoch(0))

    message = str(refused.value)
    assert f"row group 1 of shard {copy}/{shard.path}" in message
    assert "an image of 'photo' cannot be decoded" in message and "are no image" in message


def _stored(made: Made) -> list[dict[str, Any]]:
    rows = []
    for shard in made.examples.shards():
        with Path(made.examples.url, shard.path).open("rb") as file:
            rows += [{**row, "split": shard.split} for row in pq.read_table(file).to_pylist()]
    return rows
