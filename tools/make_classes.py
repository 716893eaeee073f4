"""Makes the archive of Spark's classes: see `jobs.base.classes`.

    python -m tools.make_classes

Java writes what a small job needed when its JVM ends, in about 15 s, 160 MB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyspark import SparkContext
from pyspark.sql import SparkSession

from jobs.base import quiet
from jobs.base.classes import FILE, OPTIONS
from jobs.base.spark import session
from jobs.base.workers import in_workers
from jobs.etl.parcels import PARCELS, exchanged


def make(file: Path = FILE) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made, properties = Path(folder, file.name), Path(folder, "spark.conf")
        properties.write_text(
            f"{OPTIONS} -XX:ArchiveClassesAtExit={made} -Xlog:disable\nspark.ui.enabled false\n"
        )
        spark = session("millstream classes", str(properties))
        _small_job(spark, folder)
        gateway = SparkContext._gateway
        spark.stop()
        gateway.proc.stdin.close()
        gateway.proc.wait()
        made.replace(file)


def _small_job(spark: SparkSession, folder: str) -> None:
    shared = spark.sparkContext.broadcast([1])
    sent = in_workers(spark.range(0, 4, 1, 4), _parcels, PARCELS)
    found = in_workers(exchanged(sent, 2), _passed_on, PARCELS)
    found.write.parquet(f"{folder}/rows")
    assert spark.read.parquet(f"{folder}/rows").toArrow().num_rows == 4
    assert spark.sparkContext.parallelize([1, 2], 2).map(lambda n: n in shared.value).count() == 2


def _parcels(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        numbers = batch.column(0).cast(pa.int32())
        contents = pa.array([b"content"] * len(numbers), pa.binary())
        yield pa.RecordBatch.from_arrays([numbers, contents], ["part", "content"])


def _passed_on(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from batches


if __name__ == "__main__":
    quiet.start_log()
    make()
