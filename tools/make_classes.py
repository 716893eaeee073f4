"""Makes the archive of Spark's classes: see `jobs.base.jvm`.

    python -m tools.make_classes

Java writes what a small job needed when its JVM ends, in about 15 s, 160 MB.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from pyspark import SparkContext
from pyspark.sql import SparkSession

from jobs.base import quiet
from jobs.base.jvm import CLASSES
from jobs.base.quiet import JVM_OPTIONS
from jobs.base.spark import session
from jobs.etl.parcels import small_exchange


def make(file: Path = CLASSES) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made, properties = Path(folder, file.name), Path(folder, "spark.conf")
        properties.write_text(
            f'{JVM_OPTIONS} "-XX:ArchiveClassesAtExit={made}" -Xlog:disable\n'
            "spark.ui.enabled false\n"
        )
        spark = session("millstream classes", str(properties))
        _small_job(spark, folder)
        gateway = SparkContext._gateway
        spark.stop()
        gateway.proc.stdin.close()
        gateway.proc.wait()
        if made.is_file():
            made.replace(file)
        else:
            print("this Java keeps no archive of classes; Spark starts without one")


def _small_job(spark: SparkSession, folder: str) -> None:
    spark.range(small_exchange(spark)).write.parquet(f"{folder}/rows")
    assert spark.read.parquet(f"{folder}/rows").toArrow().num_rows > 0
    shared = spark.sparkContext.broadcast([1])
    assert spark.sparkContext.parallelize([1, 2], 2).map(lambda n: n in shared.value).count() == 2


if __name__ == "__main__":
    quiet.start_log()
    make()
