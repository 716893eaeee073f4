"""Keys in raw text: which rows of the quarantine belong to an entity."""

from __future__ import annotations

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.etl.ingest import RAW, REASONS
from jobs.operations.keys import HIT, Keys, marked
from schemas.dataset import Column, Dataset, Source

# Lines whose columns cannot be told.
_TORN = ("malformed", "encoding")
# What values are made of; all else parts them.
_BETWEEN_WORDS = r"[^\p{L}\p{N}_.:@+-]+"


def marked_raw(rows: DataFrame, dataset: Dataset, keys: Keys) -> DataFrame:
    """Adds `__hit`: whether the raw text is of one of the keys.

    By the columns where the text can be parsed. In a torn line all words of a key's values must
    stand somewhere, so that rather too much than too little of what cannot be read is erased.

    Args:
        rows: `raw` and `reasons` of the quarantine.
    """
    source = dataset.row_source
    names = sorted({name for key in keys.keys for name in key})
    columns = {column.name: column for column in source.columns}
    values = {f"__raw_{name}": _value(source, columns[name]) for name in names}
    parsed = rows.withColumns(values)
    whole = marked(parsed, dataset, keys, {name: f"__raw_{name}" for name in names})
    whole = whole.drop(*values)
    torn = F.arrays_overlap(REASONS, F.array(*map(F.lit, _TORN)))
    texts = _torn_texts(rows.where(torn), keys).withColumn("__torn_hit", F.lit(True))
    found = whole.join(F.broadcast(texts), RAW, "left")
    hit = F.when(torn, F.coalesce("__torn_hit", F.lit(False))).otherwise(F.col(HIT))
    return found.withColumn(HIT, hit).drop("__torn_hit").select(*rows.columns, HIT)


def _value(source: Source, column: Column) -> SparkColumn:
    """A column's typed value, null where the text has none."""
    schema = ", ".join(f"`{name}` STRING" for name in source.column_names)
    options = {"sep": source.delimiter, "nullValue": source.null_value}
    return F.from_csv(RAW, schema, options)[column.name].try_cast(column.type)


def _torn_texts(torn: DataFrame, keys: Keys) -> DataFrame:
    """The texts that hold all words of a key: each text once."""
    wanted = torn.sparkSession.createDataFrame(
        [(" ".join(key.values()),) for key in keys.keys], "wanted string"
    )
    words = F.split(F.col(RAW), _BETWEEN_WORDS)
    missing = F.array_except(F.split("wanted", _BETWEEN_WORDS), words)
    pairs = torn.select(RAW).distinct().crossJoin(F.broadcast(wanted))
    return pairs.where(F.size(missing) == 0).select(RAW).distinct()
