"""Reasons against a row, as one text, at little cost for the rows that have none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from pyspark.sql import Column as SparkColumn
from pyspark.sql import functions as F

from jobs.etl.names import text_column
from schemas.dataset import Column

# So many characters of one class of ASCII: `^[0-9a-f]{8}$`.
_OF_ONE_CLASS = re.compile(r"\^\[([^\\\[\]^&\x80-\U0010ffff]+)\]\{(\d+)\}\$")
_SUSPECT = "__suspect_{}"


@cache
def one_class(pattern: str) -> tuple[str, int] | None:
    """Of a pattern like `^[0-9a-f]{8}$` the characters and their number; None of another."""
    parts = _OF_ONE_CLASS.fullmatch(pattern)
    if parts is None:
        return None
    members = (chr(code) for code in range(128) if re.match(f"[{parts[1]}]", chr(code)))
    return "".join(members), int(parts[2])


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


def suspects(columns: Sequence[Column]) -> Iterator[SparkColumn]:
    """For each pattern that several columns share, whether one of their texts may not match it.

    A regular expression a column takes as long as parsing the line; one over all the columns'
    characters together a tenth of that. Only simple patterns are told apart like this.
    """
    for number, (pattern, sharing) in enumerate(_shared_patterns(columns).items()):
        found = one_class(pattern)
        assert found is not None
        members, size = found
        texts = [F.col(text_column(column.name)) for column in sharing]
        strange = ~F.concat_ws("", *texts).rlike(rf"^[{_spelled(members)}]*\z")
        for text in texts:
            strange = strange | (F.coalesce(F.octet_length(text), F.lit(size)) != size)
        yield strange.alias(_SUSPECT.format(number))


def _spelled(members: str) -> str:
    """A class with its characters one by one, which Java looks up in a table."""
    return "".join(f"\\x{ord(member):02x}" for member in members)


def pattern_reasons(columns: Sequence[Column]) -> Iterator[SparkColumn]:
    """`pattern:COLUMN` of rows that have `suspects`."""
    shared = _shared_patterns(columns)
    for column in columns:
        if column.pattern is None:
            continue
        wrong = ~F.col(column.name).rlike(column.pattern)
        if column in shared.get(column.pattern, ()):
            wrong = F.col(_SUSPECT.format(list(shared).index(column.pattern))) & wrong
        yield F.when(wrong, F.lit(f"pattern:{column.name}"))


def _shared_patterns(columns: Sequence[Column]) -> dict[str, list[Column]]:
    by_pattern: dict[str, list[Column]] = {}
    for column in columns:
        if column.pattern is None or column.type.strip().lower() != "string":
            continue
        if one_class(column.pattern):
            by_pattern.setdefault(column.pattern, []).append(column)
    return {pattern: sharing for pattern, sharing in by_pattern.items() if len(sharing) > 1}
