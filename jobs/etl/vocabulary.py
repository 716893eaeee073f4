"""Vocabularies as Python workers hold them: found by the hash of a value, compared by its text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.base.xxhash import xxhash64

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Entries:
    """The id log's entries of some values of a field [n].

    Attributes:
        ids: of each value; -1 where the log has none.
        days: place of its `from_ds` among the vocabulary's days.
    """

    ids: Ints
    days: Ints

    def known(self, until: int | Ints) -> npt.NDArray[np.bool_]:
        """Whether the value has an id, among entries of fewer than `until` days."""
        return (self.ids >= 0) & (self.days < until)


@dataclass(frozen=True)
class Vocabulary:
    """A field's entries, in order of their hashes [n].

    Attributes:
        days: the dates from which entries are, ascending.
        day: each entry's place among them.
    """

    hashes: Ints
    texts: pa.StringArray
    ids: npt.NDArray[np.int32]
    day: npt.NDArray[np.int32]
    days: tuple[str, ...]

    def until(self, ds: str) -> int:
        """How many of the days are not after `ds`."""
        return bisect_right(self.days, ds)

    def find(self, texts: pa.StringArray, hashes: Ints) -> Entries:
        """The entries of texts that have these hashes."""
        ids, days = np.full(len(texts), -1, np.int64), np.zeros(len(texts), np.int64)
        places = np.searchsorted(self.hashes, hashes)
        open_rows = np.arange(len(texts))
        # Once but for texts whose hashes collide.
        while len(open_rows):
            at = places[open_rows]
            inside = at < len(self.hashes)
            open_rows, at = open_rows[inside], at[inside]
            same = self.hashes[at] == hashes[open_rows]
            open_rows, at = open_rows[same], at[same]
            equal = np.asarray(pc.equal(texts.take(open_rows), self.texts.take(at)))
            ids[open_rows[equal]] = self.ids[at[equal]]
            days[open_rows[equal]] = self.day[at[equal]]
            open_rows = open_rows[~equal]
            places[open_rows] += 1
        return Entries(ids, days)


def vocabularies(entries: DataFrame, fields: Collection[str]) -> dict[str, Vocabulary]:
    """The vocabularies of some fields of the log, held by the driver; a field without any lacks.

    Args:
        entries: `field`, `value`, `id`, `from_ds`.
    """
    wanted = entries.where(F.col("field").isin(list(fields)))
    table = wanted.select("field", "value", "id", "from_ds").toArrow()
    days = tuple(sorted(pc.unique(table["from_ds"]).to_pylist()))
    named = pc.dictionary_encode(table["field"].combine_chunks())
    found = {}
    for number, name in enumerate(named.dictionary.to_pylist()):
        own = table.filter(pc.equal(named.indices, number))
        texts = own["value"].combine_chunks()
        hashes = xxhash64(texts)
        order = np.argsort(hashes, kind="stable")
        day = pc.index_in(own["from_ds"].combine_chunks(), value_set=pa.array(days, pa.string()))
        found[name] = Vocabulary(
            hashes=hashes[order],
            texts=texts.take(order),
            ids=own["id"].to_numpy()[order],
            day=day.to_numpy()[order],
            days=days,
        )
    return found
