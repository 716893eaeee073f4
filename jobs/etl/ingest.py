"""Ingest: raw files to typed rows that still know their text and their file.

Lines are read as text and parsed by Spark's own CSV expression under the declared schema, every
column first as text. So each row keeps its raw line, an unparsable value can be named by its
column, and what counts as malformed does not depend on the columns a query selects.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.errors import DataRefused
from jobs.etl.images import read_images
from schemas.dataset import Column, Source

RAW, SOURCE_FILE, REASONS, DS = "raw", "source_file", "reasons", "ds"
UNDATED = "undated"
_CORRUPT = "__corrupt"
# What a header line may have around its names: a byte order mark, quotes.
_NOT_OF_NAMES = '^\ufeff|"'
_DATE = r"\d{4}-\d{2}-\d{2}"


def read_source(
    spark: SparkSession,
    source: Source,
    files: Sequence[str],
    required: Collection[str] = (),
    with_label: bool = True,
) -> DataFrame:
    """The rows of a source's files.

    Args:
        required: columns that may not be null, besides those declared so.
        with_label: False leaves the columns known only with the label unjudged.

    Returns:
        The declared columns in their types; `raw`, the line; `source_file`; `reasons`, a text
        with `malformed` for a line with too many or too few fields, `unparsable:COLUMN` and
        `null:COLUMN`, joined by commas.

    Raises:
        DataRefused: a file's header is not the declared one.
    """
    if source.format == "images":
        return read_images(spark, source, files).withColumn(REASONS, F.lit(""))
    lines = spark.read.text(list(files)).select(
        F.col("value").alias(RAW), F.col("_metadata.file_path").alias(SOURCE_FILE)
    )
    lines = lines.where(F.trim(RAW) != "")
    if source.header:
        check_headers(spark, source, files)
        lines = lines.where(F.regexp_replace(RAW, _NOT_OF_NAMES, "") != header_line(source))
    # A generator, so that the optimizer can neither copy the parse into every expression over
    # its columns nor push a filter, with a copy, below it.
    parsed = lines.select(RAW, SOURCE_FILE, F.inline(F.array(_parse(source))))
    typed = {column.name: _typed(column) for column in source.columns}
    refusals = [F.when(F.col(_CORRUPT).isNotNull(), F.lit("malformed"))]
    for column in source.columns:
        if with_label or not column.of_label:
            refusals += _text_reasons(column, typed[column.name], column.name in required)
    return parsed.select(
        RAW,
        SOURCE_FILE,
        joined(refusals).alias(REASONS),
        *[value.alias(name) for name, value in typed.items()],
    )


def joined(reasons: Iterable[SparkColumn]) -> SparkColumn:
    """Reasons as one text, nulls and empty texts left out.

    A text, because array functions that drop nulls run interpreted, with all below them.
    """
    return F.concat_ws(",", *[F.nullif(reason, F.lit("")) for reason in reasons])


def _text_reasons(column: Column, typed: SparkColumn, required: bool) -> list[SparkColumn]:
    text = F.col(_text(column.name))
    reasons = [F.when(text.isNotNull() & typed.isNull(), F.lit(f"unparsable:{column.name}"))]
    if required or not column.nullable:
        reasons.append(F.when(text.isNull(), F.lit(f"null:{column.name}")))
    return reasons


def _parse(source: Source) -> SparkColumn:
    names = [*map(_text, source.column_names), _CORRUPT]
    schema = ", ".join(f"`{name}` STRING" for name in names)
    options = {
        "sep": source.delimiter,
        "nullValue": source.null_value,
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": _CORRUPT,
    }
    return F.from_csv(F.col(RAW), schema, options)


def _text(name: str) -> str:
    """The column that holds a declared column's text before it is typed."""
    return f"__{name}"


def _typed(column: Column) -> SparkColumn:
    # try_cast is strict in any mode: '12.5' is no INT, while a plain cast makes it 12.
    value = F.expr(f"try_cast(`{_text(column.name)}` AS {column.type})")
    if column.type.strip().lower() in ("float", "double"):
        return F.when(~F.isnan(value) & (F.abs(value) != float("inf")), value)
    return value


def header_line(source: Source) -> str:
    return source.delimiter.join(source.column_names)


def check_headers(spark: SparkSession, source: Source, files: Iterable[str]) -> None:
    """Refuses a file whose first line is not the declared header, naming what differs."""
    expected = header_line(source)
    for file in files:
        found = re.sub(_NOT_OF_NAMES, "", _first_line(spark, file))
        if found != expected:
            names = found.split(source.delimiter)
            missing = [name for name in source.column_names if name not in names]
            unknown = [name for name in names if name not in source.column_names]
            raise DataRefused(
                f"{file}: the header of source {source.name!r} differs: "
                f"missing {', '.join(missing) or 'none'}; unknown {', '.join(unknown) or 'none'}"
                + ("" if missing or unknown else "; the order differs"),
                expected,
                "correct the file, or the source's columns in the declaration",
            )


def _first_line(spark: SparkSession, file: str) -> str:
    """Through Hadoop's file systems and codecs, so that it reads whatever Spark reads."""
    jvm, conf = spark._jvm, spark._jsc.hadoopConfiguration()
    assert jvm is not None
    path = jvm.org.apache.hadoop.fs.Path(file)
    codec = jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(conf).getCodec(path)
    stream = path.getFileSystem(conf).open(path)
    try:
        content = codec.createInputStream(stream) if codec is not None else stream
        reader = jvm.java.io.BufferedReader(jvm.java.io.InputStreamReader(content, "UTF-8"))
        return str(reader.readLine() or "")
    except Exception as error:
        raise unreadable(file, error) from error
    finally:
        stream.close()


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


def find_files(spark: SparkSession, path: str, dates: Sequence[str]) -> list[str]:
    """The raw files of a source, in order of their names.

    Args:
        path: a path or glob; `{ds}` stands for each of the dates.
        dates: dates wanted, as YYYY-MM-DD.

    Raises:
        DataRefused: a path, or a date's path, matches no file. An absent file is not an empty one.
    """
    wanted = [path.replace("{ds}", ds) for ds in dates] if "{ds}" in path else [path]
    found = {pattern: _glob(spark, pattern) for pattern in wanted}
    if missing := [pattern for pattern, files in found.items() if not files]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataRefused(
            f"no raw file matches {', '.join(missing[:3])}{more}",
            remedy="land the files, or correct etl.sources",
        )
    return sorted(file for files in found.values() for file in files)


def _glob(spark: SparkSession, pattern: str) -> list[str]:
    jvm, conf = spark._jvm, spark._jsc.hadoopConfiguration()
    assert jvm is not None
    path = jvm.org.apache.hadoop.fs.Path(pattern)
    statuses = path.getFileSystem(conf).globStatus(path) or []
    files: list[str] = []
    for status in statuses:
        if status.isDirectory():
            files += _glob(spark, f"{status.getPath().toString()}/*")
        elif not status.getPath().getName().startswith(("_", ".")):
            files.append(status.getPath().toString())
    return files


def ds_from_path(path: str) -> SparkColumn:
    """The date that a row's file name carries where `{ds}` first stands in `path`."""
    part = next(part for part in path.split("/") if "{ds}" in part)
    before = re.escape(part.split("{ds}", 1)[0]).replace(r"\*", "[^/]*")
    return F.regexp_extract(F.col(SOURCE_FILE), f"/{before}({_DATE})", 1)
