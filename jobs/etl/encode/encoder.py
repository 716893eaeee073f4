"""Encode: field values to what the examples store.

Numeric values pass as they are; a categorical value becomes its id: 1 for null, its entry's id
where the id log had one by then, else the bucket of its hash. Each distinct value of a table is
looked up once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.xxhash import xxhash64
from jobs.etl.encode.vocabulary import Ints, MappedVocabulary, opened_vocabulary
from jobs.etl.fit.entries import read_entries
from jobs.etl.fit.portions import hashes_of
from jobs.etl.fit.states import state_entries
from jobs.lake.lake import Lake
from jobs.lake.state import State
from jobs.rows.base.arrays import whole
from jobs.rows.base.names import DS
from schemas.dataset import Dataset
from schemas.field import FIRST_OOV_ID, NULL_ID, CategoricalList, WithIds
from schemas.hashed import Bucketized
from schemas.stored import arrow_schema


@dataclass(frozen=True)
class Encoder:
    """Tables of rows to tables of what is stored, in a Python worker.

    Attributes:
        vocabularies: where they are, by the log's name of their field.
        as_of: entries up to this date count; None: those up to the row's own `ds`.
        keep: further columns to keep.
    """

    dataset: Dataset
    vocabularies: Mapping[str, str]
    as_of: str | None
    keep: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """The columns that are needed."""
        stored = [column.name for column in self.dataset.stored_columns()]
        return list(dict.fromkeys([*stored, DS, *self.keep]))

    def __call__(self, table: pa.Table) -> pa.Table:
        """The stored columns in their order, then `ds` and `keep`."""
        with_ids = {f.name: f for f in self.dataset.with_ids}
        until = self._until(table)
        columns = []
        for stored in arrow_schema(self.dataset.stored_columns()):
            column = whole(table[stored.name])
            if f := with_ids.get(stored.name):
                column = self._ids(f, column, until)
            columns.append(column.cast(stored.type))
        rest = [_plain(table[name]) for name in (DS, *self.keep)]
        names = [c.name for c in self.dataset.stored_columns()]
        return pa.table([*columns, *rest], [*names, DS, *self.keep])

    def _vocabulary(self, f: WithIds) -> MappedVocabulary | None:
        url = self.vocabularies.get(f.log_name) if f.max_size else None
        return opened_vocabulary(url) if url is not None else None

    def _until(self, table: pa.Table) -> str | pa.Array:
        """The date up to which entries count, or that of each row where rows differ."""
        if self.as_of is not None:
            return self.as_of
        days = _plain(table[DS])
        different = pc.unique(days)
        return str(different[0]) if len(different) == 1 else days

    def _ids(self, f: WithIds, column: pa.Array, until: str | pa.Array) -> pa.Array:
        """Ids [n] of values, or lists of ids."""
        if isinstance(f, CategoricalList):
            lengths = pc.list_value_length(column)
            if not isinstance(until, str):
                until = until.take(np.repeat(np.arange(len(column)), lengths.to_numpy()))
            offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy())])
            inner = self._ids_of_values(f, column.flatten(), until)
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner)
        return self._ids_of_values(f, column, until)

    def _ids_of_values(self, f: WithIds, column: pa.Array, until: str | pa.Array) -> pa.Array:
        if not pa.types.is_dictionary(column.type):
            column = pc.dictionary_encode(column)
        texts, places = column.dictionary, column.indices.fill_null(len(column.dictionary))
        rows = places.to_numpy()
        hashes = xxhash64(texts)
        buckets = FIRST_OOV_ID + _buckets(f, texts, hashes)
        vocabulary = self._vocabulary(f)
        if vocabulary is None:
            return pa.array(np.append(buckets, NULL_ID)[rows], pa.int32())
        found = vocabulary.find(texts, hashes)
        if isinstance(until, str):
            ids = np.where(found.known(vocabulary.until(until)), found.ids, buckets)
            return pa.array(np.append(ids, NULL_ID)[rows], pa.int32())
        days = pc.dictionary_encode(until)
        places_of_days = np.array([vocabulary.until(ds) for ds in days.dictionary.to_pylist()])
        latest = places_of_days[days.indices.to_numpy()]
        first = np.where(found.ids >= 0, found.days, len(vocabulary.days))
        known = np.append(first, len(vocabulary.days))[rows] < latest
        ids = np.append(found.ids, NULL_ID)[rows]
        return pa.array(np.where(known, ids, np.append(buckets, NULL_ID)[rows]), pa.int32())


def _buckets(f: WithIds, texts: pa.StringArray | pa.ChunkedArray, hashes: Ints) -> Ints:
    """The bucket, from 0, of each value; by its hash, or its place among boundaries."""
    if isinstance(f, Bucketized):
        return np.asarray(pc.cast(texts, pa.int64()))
    return hashes % f.oov_buckets


def _plain(column: pa.ChunkedArray) -> pa.Array:
    found = whole(column)
    return found.cast(found.type.value_type) if pa.types.is_dictionary(found.type) else found


def id_map(
    lake: Lake, dataset: Dataset, state: State, id_log_version: int
) -> dict[str, npt.NDArray[np.int32]]:
    """For a model older than the examples: the id that its own state gives for each of theirs.

    Args:
        state: the model's.
        id_log_version: the log that the examples were encoded with.

    Returns:
        Field -> array by id; only fields with ids that the state lacks. Grows with vocabularies.

    Raises:
        DataRefused: the log no longer holds the state's entries.
    """
    log = read_entries(lake.table("id_log"), id_log_version)
    known = state_entries(lake, state)
    maps = {}
    for f in dataset.counted:
        own, held = (table.filter(pc.equal(table["field"], f.log_name)) for table in (log, known))
        # All texts of a vocabulary may be more than an array of `string` holds.
        texts, held_texts = (table["value"].cast(pa.large_string()) for table in (own, held))
        unknown = own.filter(pc.invert(pc.is_in(texts, value_set=held_texts)))
        if unknown.num_rows:
            ids, texts = unknown["id"].to_numpy(), unknown["value"]
            size = max(state.vocabulary[f.log_name].rows, 1 + int(ids.max()))
            maps[f.name] = np.arange(size, dtype=np.int32)
            maps[f.name][ids] = FIRST_OOV_ID + _buckets(f, texts, hashes_of(texts))
    return maps
