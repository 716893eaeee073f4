"""Keys in raw text: which rows of the quarantine belong to an entity."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.etl.formats import MALFORMED, parsed_csv, parsed_json
from jobs.etl.lines import MISCODED
from jobs.etl.names import RAW, REASONS, text_column
from jobs.operations.keys import HIT, Keys, marked
from schemas.dataset import Dataset, Source

_TORN = "__torn"
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
    types = {column.name: column.type for column in source.columns}
    names = sorted({name for key in keys.keys for name in key})
    typed = {
        f"__typed_{name}": F.expr(f"try_cast(`{text_column(name)}` AS {types[name]})")
        for name in names
    }
    torn = F.col(MALFORMED).isNotNull() | F.array_contains(REASONS, "encoding")
    parsed = _parsed(rows, source).withColumns(typed).withColumn(_TORN, torn)
    whole = marked(parsed, dataset, keys, {name: f"__typed_{name}" for name in names})
    texts = _torn_texts(parsed.where(_TORN), keys).withColumn("__torn_hit", F.lit(True))
    found = whole.join(F.broadcast(texts), RAW, "left")
    hit = F.when(F.col(_TORN), F.coalesce("__torn_hit", F.lit(False))).otherwise(F.col(HIT))
    return found.select(*rows.columns, hit.alias(HIT))


def _parsed(rows: DataFrame, source: Source) -> DataFrame:
    """With a text a declared column, and whether the text could not be parsed."""
    if source.format == "csv":
        # Every text is a row: headers and comments are in no quarantine.
        return parsed_csv(rows, replace(source, header=False, comment=""))
    if source.format == "json":
        return parsed_json(rows.withColumn(MISCODED, F.lit(False)), source)
    values = {text_column(n): F.get_json_object(RAW, f"$['{n}']") for n in source.column_names}
    return rows.withColumns({**values, MALFORMED: F.lit(None).cast("string")})


def _torn_texts(torn: DataFrame, keys: Keys) -> DataFrame:
    """The texts that hold all words of a key: each text once."""
    wanted = torn.sparkSession.createDataFrame(
        [(" ".join(key.values()),) for key in keys.keys], "wanted string"
    )
    words = F.split(F.col(RAW), _BETWEEN_WORDS)
    missing = F.array_except(F.split("wanted", _BETWEEN_WORDS), words)
    pairs = torn.select(RAW).distinct().crossJoin(F.broadcast(wanted))
    return pairs.where(F.size(missing) == 0).select(RAW).distinct()
