"""Raw files: found by path, glob and date; opened through Hadoop's file systems."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column as SparkColumn
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.base.errors import DataRefused, NoRawFile
from jobs.etl.names import SOURCE_FILE

_DATE = r"\d{4}-\d{2}-\d{2}"


def find_files(spark: SparkSession, path: str, dates: Sequence[str]) -> list[str]:
    """The raw files of a source, in order of their names.

    Args:
        path: a path or glob; `{ds}` stands for each of the dates.
        dates: dates wanted, as YYYY-MM-DD.

    Raises:
        NoRawFile: a path, or a date's path, matches no file. An absent file is not an empty one.
    """
    wanted = [path.replace("{ds}", ds) for ds in dates] if "{ds}" in path else [path]
    found = {pattern: _glob(spark, pattern) for pattern in wanted}
    if missing := [pattern for pattern, files in found.items() if not files]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise NoRawFile(
            f"no raw file matches {', '.join(missing[:3])}{more}",
            remedy="land the files, or correct etl.sources",
        )
    return sorted(file for files in found.values() for file in files)


def _glob(spark: SparkSession, pattern: str) -> list[str]:
    path, fs = hadoop_path(spark, pattern)
    files: list[str] = []
    for status in fs.globStatus(path) or []:
        if status.isDirectory():
            files += _glob(spark, f"{status.getPath().toString()}/*")
        elif not status.getPath().getName().startswith(("_", ".")):
            files.append(status.getPath().toString())
    return files


def hadoop_path(spark: SparkSession, path: str) -> tuple[Any, Any]:
    """The path as a Hadoop Path, and its file system."""
    jvm, conf = spark._jvm, spark._jsc.hadoopConfiguration()
    assert jvm is not None
    found = jvm.org.apache.hadoop.fs.Path(path)
    return found, found.getFileSystem(conf)


def ds_from_path(path: str) -> SparkColumn:
    """The date that a row's file name carries where `{ds}` first stands in `path`."""
    part = next(part for part in path.split("/") if "{ds}" in part)
    before = re.escape(part.split("{ds}", 1)[0]).replace(r"\*", "[^/]*")
    return F.regexp_extract(F.col(SOURCE_FILE), f"/{before}({_DATE})", 1)


def first_lines(spark: SparkSession, file: str, charset: str) -> Iterator[str]:
    """A text file's lines, one by one, through Hadoop's file systems and codecs.

    Raises:
        DataRefused: the file is torn or cannot be opened.
    """
    jvm = spark._jvm
    assert jvm is not None
    path, fs = hadoop_path(spark, file)
    stream = fs.open(path)
    try:
        content = _decompressed(spark, path, stream)
        reader = jvm.java.io.BufferedReader(jvm.java.io.InputStreamReader(content, charset))
        while (line := reader.readLine()) is not None:
            yield str(line)
    except Exception as error:
        raise unreadable(file, error) from error
    finally:
        stream.close()


def _decompressed(spark: SparkSession, path: Any, stream: Any) -> Any:
    jvm, conf = spark._jvm, spark._jsc.hadoopConfiguration()
    assert jvm is not None
    if path.getName().endswith((".zst", ".zstd")):
        # Hadoop's own codec needs a native library that Spark is not shipped with.
        return jvm.com.github.luben.zstd.ZstdInputStream(stream)
    codec = jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(conf).getCodec(path)
    return codec.createInputStream(stream) if codec is not None else stream


def unreadable(file: str, error: Exception) -> DataRefused:
    """The refusal for a file that is torn or cannot be opened."""
    causes = re.findall(r"(?:Caused by: )?(?:\w+\.)+(\w*(?:Exception|Error): [^\n]*)", str(error))
    return DataRefused(
        f"{file} cannot be read: {causes[-1] if causes else str(error).splitlines()[0]}",
        "a whole file",
        "land the file again; nothing was changed",
    )


@contextmanager
def read_errors() -> Iterator[None]:
    """Turns Spark's failure to read a raw file into a refusal that names the file."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        named = re.search(r"Encountered error while reading file (\S+?)\.?(?:\s|$)", str(error))
        if named is None:
            raise
        raise unreadable(named[1], error) from error
