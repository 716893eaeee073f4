"""Parquet and ORC files: schemas checked against the declaration, rows with their text."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StructType

from jobs.base.errors import DataRefused
from jobs.etl.files import unreadable
from jobs.etl.lines import MISCODED
from jobs.etl.names import RAW, SOURCE_FILE, text_column
from schemas.source import Column, Source


def read_columnar(spark: SparkSession, source: Source, files: Sequence[str]) -> DataFrame:
    """`raw`, the row as JSON; `source_file`; `__miscoded`; the declared columns' values, in the
    declared type where the files have it, else as text.

    Raises:
        DataRefused: a file lacks a declared column, has another one, or cannot be read.
    """
    by_schema: dict[str, tuple[StructType, list[str]]] = {}
    # Each file's footer: given several, Spark looks at one, and what others lack becomes null.
    with ThreadPoolExecutor(8) as threads:
        schemas = list(threads.map(lambda file: _file_schema(spark, source, file), files))
    for file, schema in zip(files, schemas, strict=True):
        _check_columns(source, schema, file)
        by_schema.setdefault(schema.json(), (schema, []))[1].append(file)
    parts = [_rows(spark, source, schema, same) for schema, same in by_schema.values()]
    return reduce(DataFrame.unionByName, parts)


def _rows(
    spark: SparkSession, source: Source, schema: StructType, files: Sequence[str]
) -> DataFrame:
    reader = spark.read.schema(schema).option("recursiveFileLookup", "true")
    rows = reader.format(source.format).load(list(files))
    declared = {field.name: field.dataType for field in source.struct_type()}
    values, shown, sound = {}, [], F.lit(True)
    for column in source.columns:
        value, kind = _inside(rows, column), _leaf(schema, column.place)
        assert kind is not None
        value = value if kind == declared[column.name] else _as_text(value, kind)
        values[text_column(column.name)] = value
        if kind.typeName() in ("string", "binary"):
            valid = value.isNull() | F.is_valid_utf8(value)
            sound = sound & valid
            value = F.when(valid, value).otherwise(F.concat(F.lit("\\x"), F.hex(value)))
        shown.append(value.alias(column.name))
    return rows.select(
        F.to_json(F.struct(*shown), {"ignoreNullFields": "false"}).alias(RAW),
        F.col("_metadata.file_path").alias(SOURCE_FILE),
        (~sound).alias(MISCODED),
        *[value.alias(name) for name, value in values.items()],
    )


def _inside(rows: DataFrame, column: Column) -> SparkColumn:
    value = rows[f"`{column.place[0]}`"]
    for name in column.place[1:]:
        value = value[name]
    return value


def _as_text(value: SparkColumn, kind: DataType) -> SparkColumn:
    nested = isinstance(kind, ArrayType | MapType | StructType)
    return F.to_json(value) if nested else value.cast("string")


def _leaf(schema: StructType, place: Sequence[str]) -> DataType | None:
    found: DataType = schema
    for name in place:
        if not isinstance(found, StructType) or name not in found.names:
            return None
        found = found[name].dataType
    return found


def _check_columns(source: Source, schema: StructType, file: str) -> None:
    declared = {column.place[0] for column in source.columns}
    missing = [".".join(c.place) for c in source.columns if _leaf(schema, c.place) is None]
    unknown = [name for name in schema.names if name not in declared]
    if missing or unknown:
        raise DataRefused(
            f"{file}: the columns of source {source.name!r} differ: "
            f"missing {', '.join(missing) or 'none'}; unknown {', '.join(unknown) or 'none'}",
            ", ".join(".".join(column.place) for column in source.columns),
            "correct the file, or the source's columns in the declaration",
        )


def _file_schema(spark: SparkSession, source: Source, file: str) -> StructType:
    """A file's own schema, without the folders' names, which Spark would take for columns."""
    reader = spark.read.option("recursiveFileLookup", "true")
    try:
        return reader.format(source.format).load(file).schema
    except (Py4JJavaError, PySparkException) as error:
        raise unreadable(file, error) from error
