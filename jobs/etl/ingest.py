"""Ingest: raw files to typed rows that still know their text and their file."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.etl.columnar import read_columnar
from jobs.etl.files import ds_from_path, find_files, read_errors
from jobs.etl.formats import MALFORMED, check_header, data_lines, parsed_csv, parsed_json
from jobs.etl.images import read_images
from jobs.etl.lines import MISCODED, read_lines
from jobs.etl.names import DS, ORDINAL, RAW, REASONS, SOURCE_FILE, UNDATED, text_column
from jobs.etl.reasons import apart, joined, suspects
from schemas.dataset import Column, Source

__all__ = [
    "DS",
    "RAW",
    "REASONS",
    "SOURCE_FILE",
    "UNDATED",
    "ds_from_path",
    "find_files",
    "raw_lines",
    "read_errors",
    "read_source",
]


def read_source(
    spark: SparkSession,
    source: Source,
    files: Sequence[str],
    required: Collection[str] = (),
    with_label: bool = True,
    lines: DataFrame | None = None,
) -> DataFrame:
    """The rows of a source's files.

    Args:
        required: columns that may not be null, besides those declared so.
        with_label: False leaves the columns known only with the label unjudged.
        lines: those to parse, as `raw_lines` gives them, instead of the files'; perhaps with
            their ordinals, which the rows have then, too.

    Returns:
        The declared columns in their types; `raw`, the line (the row as JSON for Parquet and ORC);
        `source_file`; `reasons`, a text with `malformed` for a line with too many or too few
        fields or no JSON object, `encoding` for bytes that are no text, `unparsable:COLUMN` and
        `null:COLUMN`, joined by commas; and `suspects`.

    Raises:
        DataRefused: a file's header or schema is not the declared one.
    """
    if source.format == "images":
        return read_images(spark, source, files).withColumn(REASONS, F.lit(""))
    rows = _parsed(spark, source, files, lines)
    typed = {column.name: _typed(column) for column in source.columns}
    judged = [column for column in source.columns if with_label or not column.of_label]
    refusals = [F.when(F.col(MISCODED), F.lit("encoding"))]
    if MALFORMED in rows.columns:
        refusals.append(F.when(F.col(MALFORMED).isNotNull(), F.lit("malformed")))
    for column in judged:
        refusals += _text_reasons(column, typed[column.name], column.name in required)
    return rows.select(
        RAW,
        apart(F.col(SOURCE_FILE)).alias(SOURCE_FILE),
        joined(refusals).alias(REASONS),
        *[value.alias(name) for name, value in typed.items()],
        *suspects(judged),
        *[name for name in (ORDINAL,) if name in rows.columns],
    )


def _parsed(
    spark: SparkSession, source: Source, files: Sequence[str], lines: DataFrame | None
) -> DataFrame:
    """Rows with a `text_column` for each declared column."""
    if source.format in ("parquet", "orc"):
        return read_columnar(spark, source, files)
    lines = raw_lines(spark, source, files) if lines is None else lines
    return parsed_json(lines, source) if source.format == "json" else parsed_csv(lines, source)


def raw_lines(spark: SparkSession, source: Source, files: Sequence[str]) -> DataFrame:
    """The lines that are rows, not yet parsed: `raw`, `source_file`, `__miscoded`.

    Raises:
        DataRefused: a file's header is not the declared one.
    """
    lines = read_lines(spark, files, source.encoding).where(F.trim(RAW) != "")
    if source.format == "json":
        return lines
    if source.header:
        for file in files:
            check_header(spark, source, file)
    return data_lines(lines, source)


def _text_reasons(column: Column, typed: SparkColumn, required: bool) -> list[SparkColumn]:
    text = F.col(text_column(column.name))
    reasons = [F.when(text.isNotNull() & typed.isNull(), F.lit(f"unparsable:{column.name}"))]
    if required or not column.nullable:
        reasons.append(F.when(text.isNull(), F.lit(f"null:{column.name}")))
    return reasons


def _typed(column: Column) -> SparkColumn:
    # try_cast is strict in any mode: '12.5' is no INT, while a plain cast makes it 12.
    value = F.expr(f"try_cast(`{text_column(column.name)}` AS {column.type})")
    if column.type.strip().lower() in ("float", "double"):
        return F.when(~F.isnan(value) & (F.abs(value) != float("inf")), value)
    return value
