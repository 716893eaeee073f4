"""Reasons against a row, as one text, at little cost for the rows that have none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas.dataset import Column

# So many characters of one class: `^[0-9a-f]{8}$`.
_OF_ONE_CLASS = re.compile(r"\^\[([^\\\[\]^&]+)\]\{(\d+)\}\$")
_SUSPECT = "__suspect_{}"


def joined(reasons: Iterable[SparkColumn], earlier: SparkColumn | None = None) -> SparkColumn:
    """Reasons as one text; empty where there is none.

    A text, because array functions that drop nulls run interpreted, with all below them. It is
    put together only for rows that have a reason: for all, it takes longer than judging them.

    Args:
        reasons: null where they do not hold.
        earlier: such a text, whose reasons come first.
    """
    found = list(reasons)
    if earlier is not None:
        found.insert(0, F.when(earlier != "", earlier))
    if not found:
        return F.lit("")
    return F.when(F.coalesce(*found).isNull(), F.lit("")).otherwise(F.concat_ws(",", *found))


def apart(column: SparkColumn) -> SparkColumn:
    """The same value; the projection that it stands in is compiled by itself.

    Judging a wide row as a part of its whole stage is one method of tens of kilobytes, which the
    JVM takes long to compile and never compiles well. An expression that Spark interprets keeps a
    projection out of that: its others become small methods, at half the time a row.
    """
    return F.transform(F.array(column), lambda same: same)[0]


def with_suspects(rows: DataFrame, columns: Sequence[Column]) -> DataFrame:
    """Adds, for each pattern that several columns share, whether one of them may not match it.

    A regular expression a column takes as long as parsing the line; one over all the columns'
    characters together a tenth of that. Only simple patterns are told apart like this.
    """
    for number, (pattern, sharing) in enumerate(_shared_patterns(columns).items()):
        parts = _OF_ONE_CLASS.fullmatch(pattern)
        assert parts is not None
        values = [F.col(column.name) for column in sharing]
        strange = F.concat_ws("", *values).rlike(f"[^{parts[1]}]")
        for value in values:
            strange = strange | (F.coalesce(F.length(value), F.lit(int(parts[2]))) != int(parts[2]))
        rows = rows.withColumn(_SUSPECT.format(number), strange)
    return rows


def pattern_reasons(columns: Sequence[Column]) -> Iterator[SparkColumn]:
    """`pattern:COLUMN` of rows that `with_suspects` made."""
    shared = list(_shared_patterns(columns))
    for column in columns:
        if column.pattern is None:
            continue
        wrong = ~F.col(column.name).rlike(column.pattern)
        if column.pattern in shared:
            wrong = F.col(_SUSPECT.format(shared.index(column.pattern))) & wrong
        yield F.when(wrong, F.lit(f"pattern:{column.name}"))


def _shared_patterns(columns: Sequence[Column]) -> dict[str, list[Column]]:
    by_pattern: dict[str, list[Column]] = {}
    for column in columns:
        if column.pattern is not None and _OF_ONE_CLASS.fullmatch(column.pattern):
            by_pattern.setdefault(column.pattern, []).append(column)
    return {pattern: sharing for pattern, sharing in by_pattern.items() if len(sharing) > 1}
