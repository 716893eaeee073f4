"""Keys in raw text: which rows of the quarantine belong to an entity."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, StringType, StructField, StructType

from jobs.base.workers import in_workers
from jobs.operations.keys import HIT, Keys, marked
from jobs.rows.base.names import DS, ENCODING, MALFORMED, RAW, REASONS, SOURCE_FILE, UNREAD, mark
from jobs.rows.read.delimited import delimited_rows
from jobs.rows.read.jsonlines import json_rows
from jobs.rows.read.lines import Lines
from schemas.dataset import Dataset, Source
from schemas.source import spark_name

# Of the served rows.
SERVED_TEXTS = StructType([StructField(DS, StringType()), StructField(RAW, StringType())])
_TORN = "__torn"
# What parts words, besides the delimiter.
_NO_WORD = r"[^\p{L}\p{N}_.:@+-]"


def marked_raw(rows: DataFrame, dataset: Dataset, keys: Keys) -> DataFrame:
    """Adds `__hit`: whether the raw text is of one of the keys.

    By the columns where the text can be parsed. In a torn line all words of a key's values must
    stand somewhere, so that rather too much than too little of what cannot be read is erased.

    Args:
        rows: of the quarantine.
    """
    source = dataset.row_source
    types = {column.name: column.type for column in source.columns}
    names = sorted({name for key in keys.keys for name in key})
    typed = {
        f"__typed_{name}": F.col(spark_name(text_column(name))).try_cast(types[name])
        for name in names
    }
    parsed = _parsed(rows, source).withColumns(typed)
    parsed = parsed.withColumn(_TORN, F.col(_TORN) | F.array_contains(REASONS, ENCODING))
    whole = marked(parsed, dataset, keys, {name: f"__typed_{name}" for name in names})
    texts = _torn_texts(parsed.where(_TORN), keys, source.delimiter)
    texts = texts.withColumn("__torn_hit", F.lit(True))
    found = whole.join(F.broadcast(texts), RAW, "left")
    hit = F.when(F.col(_TORN), F.coalesce("__torn_hit", F.lit(False))).otherwise(F.col(HIT))
    return found.select(*rows.columns, hit.alias(HIT))


def marked_json(rows: DataFrame, dataset: Dataset, keys: Keys) -> DataFrame:
    """Adds `__hit`: whether the raw text, which is JSON by column, is of one of the keys.

    Args:
        rows: of the served rows.
    """
    types = {column.name: column.type for column in dataset.row_source.columns}
    names = sorted({name for key in keys.keys for name in key})
    # Not by a path of JSON, in which not all names can be spelled.
    texts = F.from_json(RAW, "map<string, string>")
    typed = {f"__typed_{name}": _typed(texts[name], types[name]) for name in names}
    found = marked(rows.withColumns(typed), dataset, keys, {n: f"__typed_{n}" for n in names})
    return found.select(*rows.columns, HIT)


def _typed(text: Column, kind: str) -> Column:
    """As the server reads it, to which 30.0 of an integer column is 30."""
    found = text.try_cast(kind)
    if kind.strip().lower() not in ("tinyint", "smallint", "int", "bigint"):
        return found
    number = text.try_cast("double")
    return F.coalesce(found, F.when(number == F.floor(number), number.try_cast(kind)))


def text_column(name: str) -> str:
    """The column that holds a declared column's text."""
    return f"__text_{name}"


def _parsed(rows: DataFrame, source: Source) -> DataFrame:
    """With a text a declared column, and `__torn`: whether the raw text could not be parsed."""
    texts = [StructField(text_column(name), StringType()) for name in source.column_names]
    schema = StructType([*rows.schema, *texts, StructField(_TORN, BooleanType())])
    return in_workers(rows, partial(_read, source), schema)


def _read(source: Source, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows with what the engine's parsers make of their raw texts."""
    for batch in batches:
        if not batch.num_rows:
            continue
        rows = pa.Table.from_batches([batch])
        found, torn = _of_image(rows, source) if source.format == "images" else _of(rows, source)
        for name in source.column_names:
            rows = rows.append_column(text_column(name), found[name].cast(pa.string()))
        yield from rows.append_column(_TORN, torn).combine_chunks().to_batches()


def _of(rows: pa.Table, source: Source) -> tuple[pa.Table, pa.Array]:
    """The texts of the declared columns, and which rows could not be parsed."""
    ended = pc.binary_join_element_wise(pc.fill_null(rows[RAW], ""), "\n", "")
    lines = Lines(ended.combine_chunks().cast(pa.binary()), np.zeros(rows.num_rows, bool))
    if source.format == "csv":
        # Every text is a row: headers and comments are in no quarantine.
        found = delimited_rows(lines, replace(source, header=False, comment=""))
    elif source.format == "json":
        found = json_rows(lines, source)
    else:
        # Of a row group's row the quarantine has JSON, by the names that the declaration gives.
        flat = tuple(replace(column, path="") for column in source.columns)
        found = json_rows(lines, replace(source, columns=flat))
    return found, pc.or_(found[mark(MALFORMED)], found[UNREAD])


def _of_image(rows: pa.Table, source: Source) -> tuple[pa.Table, pa.Array]:
    """An image is known by where it lay; its raw text is a digest."""
    places = [text.rsplit("/", 2) for text in rows[SOURCE_FILE].to_pylist()]
    known = {
        "file": [place[-1] for place in places],
        "folder": [place[-2] if len(place) > 1 else None for place in places],
        "content": [None] * len(places),
    }
    columns = [pa.array(known[name], pa.string()) for name in source.column_names]
    return pa.table(columns, list(source.column_names)), pa.array(np.zeros(len(places), bool))


def _torn_texts(torn: DataFrame, keys: Keys, delimiter: str) -> DataFrame:
    """The texts that hold all words of a key, and its values without words: each text once."""
    each = (zip(*map(_spelled, key.values()), strict=True) for key in keys.keys)
    spelled = [(list(values),) for values in sorted(set(chain.from_iterable(each)))]
    wanted = torn.sparkSession.createDataFrame(spelled, "values array<string>")
    other = f"(?:{_NO_WORD}|\\Q{delimiter}\\E)+" if delimiter else f"{_NO_WORD}+"

    def words(text: Column) -> Column:
        return F.filter(F.split(text, other), lambda word: word != "")

    wanted = wanted.select(
        words(F.concat_ws(" ", "values")).alias("words"),
        F.filter("values", lambda value: (value != "") & (F.size(words(value)) == 0)).alias("bare"),
    ).where((F.size("words") > 0) | (F.size("bare") > 0))
    pairs = torn.select(RAW).distinct().crossJoin(F.broadcast(wanted))
    missing = F.array_except("words", words(F.col(RAW)))
    bare = F.forall("bare", lambda value: F.contains(F.col(RAW), value))
    return pairs.where((F.size(missing) == 0) & bare).select(RAW).distinct()


def _spelled(value: str) -> tuple[str, ...]:
    """The ways in which raw text may have a value: as it is, with the escapes of a line whose
    encoding is broken, with those of JSON."""
    escaped = json.dumps(value)[1:-1]
    return (
        value,
        value.encode().decode("ascii", "backslashreplace"),
        escaped,
        re.sub(r"\\u....", lambda code: f"\\u{code[0][2:].upper()}", escaped),
        json.dumps(value, ensure_ascii=False)[1:-1],
    )
