"""Keys of entities to erase: which columns may name them, and which rows they match."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from jobs.base.errors import ConfigError
from schemas.dataset import Dataset
from schemas.field import Carried
from schemas.source import spark_name

HIT = "__hit"
# More would be no list of entities, and would not fit a broadcast.
_MOST_KEYS = 1_000_000


@dataclass(frozen=True)
class Keys:
    """Values by raw column; a row matches where all columns of one of the keys do."""

    keys: tuple[Mapping[str, str], ...]

    def groups(self) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        """Columns, and the values of the keys that have just these."""
        lines = sorted(
            (tuple(sorted(key)), tuple(key[name] for name in sorted(key))) for key in self.keys
        )
        return [
            (columns, [values for _, values in group])
            for columns, group in groupby(lines, key=lambda line: line[0])
        ]


def erasable_columns(dataset: Dataset) -> dict[str, str]:
    """Raw columns that examples and predictions keep as they are -> their names there."""
    columns = {name: name for name in dataset.key}
    raw = dataset.row_source.column_names
    for f in dataset.of_kind(Carried):
        if (f.expr or f.name) in raw:
            columns.setdefault(f.expr or f.name, f.name)
    return columns


def parse_keys(dataset: Dataset, given: Sequence[Sequence[str]], file: str | None) -> Keys:
    """The keys of the command line, COLUMN=VALUE ... each, and of a CSV file with a header.

    Raises:
        ConfigError: no key, a text that is none, or a column that the examples do not keep.
    """
    pairs = [[_pair(text) for text in texts] for texts in given]
    keys = [_key([n for n, _ in some], [v for _, v in some], "--key") for some in pairs]
    if file is not None:
        keys += _read(file)
    if not keys or len(keys) > _MOST_KEYS:
        raise ConfigError(f"{len(keys)} keys to erase", f"1 to {_MOST_KEYS:,}")
    kept = erasable_columns(dataset)
    if unknown := sorted({name for key in keys for name in key} - kept.keys()):
        raise ConfigError(
            f"column {', '.join(unknown)} is not kept in the examples of {dataset.name!r}, so its "
            "rows cannot be found there",
            f"columns of the key or carried ones: {', '.join(sorted(kept)) or 'there are none'}",
            "give the rows' keys, or declare the column Carried and make the dates again",
        )
    return Keys(tuple(keys))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--key {text!r}", "--key COLUMN=VALUE")
    return name, value


def _key(names: Sequence[str], values: Sequence[str], place: str) -> dict[str, str]:
    """Refuses a key of which a part would be lost, since it would match other entities' rows."""
    if len(names) != len(values):
        raise ConfigError(f"{place} has {len(values)} values", f"the header's {len(names)}")
    if len(set(names)) != len(names):
        raise ConfigError(f"{place} names a column twice: {', '.join(names)}", "each once")
    return dict(zip(names, values, strict=True))


def _read(file: str) -> list[dict[str, str]]:
    if not Path(file).is_file():
        raise ConfigError(f"no file of keys {file}", "a CSV file, its header the columns' names")
    with Path(file).open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines)
        names = next(reader, [])
        return [_key(names, line, f"{file}, line {reader.line_num}") for line in reader if line]


def marked(rows: DataFrame, dataset: Dataset, keys: Keys, named: Mapping[str, str]) -> DataFrame:
    """Adds `__hit`: whether the row matches a key.

    Args:
        named: raw column -> the column of `rows` with its typed value.

    Raises:
        ConfigError: a key's value has not its column's type.
    """
    types = {column.name: column.type for column in dataset.row_source.columns}
    spark, flags = rows.sparkSession, []
    for number, (columns, values) in enumerate(keys.groups()):
        names = [f"__key_{number}_{place}" for place in range(len(columns))]
        known = known_keys(spark, columns, values, types).toDF(*names)
        flags.append(f"{HIT}_{number}")
        on = [F.col(spark_name(named[c])) == known[n] for c, n in zip(columns, names, strict=True)]
        rows = rows.join(F.broadcast(known.withColumn(flags[-1], F.lit(True))), on, "left")
        rows = rows.drop(*known.columns)
    return rows.withColumn(HIT, F.coalesce(*flags, F.lit(False))).drop(*flags)


def known_keys(
    spark: SparkSession,
    columns: Sequence[str],
    values: Sequence[tuple[str, ...]],
    types: Mapping[str, str],
) -> DataFrame:
    """The keys of some columns, typed and each once."""
    texts = spark.createDataFrame(
        values, StructType([StructField(n, StringType()) for n in columns])
    )
    typed = texts.select(*[F.col(spark_name(n)).try_cast(types[n]).alias(n) for n in columns])
    for name in columns:
        if typed.where(F.col(spark_name(name)).isNull()).limit(1).count():
            raise ConfigError(f"a value of key column {name!r} is no {types[name]}", types[name])
    return typed.distinct()
