"""The digest of raw files: whether a run has read the same before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from pyspark.sql import SparkSession

from jobs.base.code import digest_of
from jobs.etl.files import find_files, hadoop_path


def raw_digest(spark: SparkSession, paths: Iterable[str], dates: Sequence[str]) -> str:
    """Of the names and stamps of the raw files of the dates.

    Args:
        paths: of the sources, as `find_files` takes them.

    Raises:
        DataRefused: there is no file.
    """
    found = {
        file: stamp_of(spark, file) for path in paths for file in find_files(spark, path, dates)
    }
    return digest_of(json.dumps(found, sort_keys=True))


def stamp_of(spark: SparkSession, file: str) -> str:
    """What tells a raw file from another in its place: size and time, and the store's ETag."""
    jvm = spark._jvm
    assert jvm is not None
    path, fs = hadoop_path(spark, file)
    status = fs.getFileStatus(path)
    stamp = f"{status.getLen()} bytes, {status.getModificationTime()} ms"
    tagged = jvm.java.lang.Class.forName("org.apache.hadoop.fs.EtagSource").isInstance(status)
    return f"{stamp}, {status.getEtag()}" if tagged else stamp
