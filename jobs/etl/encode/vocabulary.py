"""Vocabularies as Python workers map them: found by the hash of a value, compared by its text."""

from __future__ import annotations

import hashlib
import json
import tempfile
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.xxhash import xxhash64
from jobs.etl.parcels import local_folder
from jobs.stores.files import write_stream

Ints = npt.NDArray[np.int64]
# 32 MB a vocabulary and worker.
_MOST_RANGE_BITS = 22


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
class MappedVocabulary:
    """A field's entries, in order of their hashes [n].

    Attributes:
        days: the dates from which entries are, ascending.
        day: each entry's place among them.
    """

    hashes: Ints
    texts: pa.LargeStringArray
    ids: npt.NDArray[np.int32]
    day: npt.NDArray[np.int32]
    days: tuple[str, ...]

    def until(self, ds: str) -> int:
        """How many of the days are not after `ds`."""
        return bisect_right(self.days, ds)

    def _starts(self, hashes: Ints) -> Ints:
        """For each hash [n] a place that is not after its first entry, and seldom before it."""
        bits = self._range_bits
        if bits > _MOST_RANGE_BITS:
            return np.searchsorted(self.hashes, hashes)
        return self._firsts[_ranges(hashes, bits)]

    @property
    def _range_bits(self) -> int:
        return 1 + len(self.hashes).bit_length()

    @cached_property
    def _firsts(self) -> Ints:
        """The first entry of each range of hashes: found sooner than by halving all entries."""
        bits = self._range_bits
        return np.searchsorted(_ranges(self.hashes, bits), np.arange(1 << bits))

    def find(self, texts: pa.StringArray, hashes: Ints) -> Entries:
        """The entries of texts that have these hashes."""
        ids, days = np.full(len(texts), -1, np.int64), np.zeros(len(texts), np.int64)
        places, rows = self._starts(hashes), np.arange(len(texts))
        # Once or twice, but for texts whose hashes collide.
        while len(rows):
            rows = rows[places[rows] < len(self.hashes)]
            entries, wanted = self.hashes[places[rows]], hashes[rows]
            same = rows[entries == wanted]
            at = places[same]
            equal = np.asarray(pc.equal(texts.take(same), self.texts.take(at).cast(pa.string())))
            ids[same[equal]] = self.ids[at[equal]]
            days[same[equal]] = self.day[at[equal]]
            places[same[equal]] = len(self.hashes)
            rows = rows[entries <= wanted]
            places[rows] += 1
        return Entries(ids, days)


def _ranges(hashes: Ints, bits: int) -> Ints:
    """In which of 2^bits equal ranges of all hashes each hash is [n], ascending."""
    return (hashes >> (64 - bits)) + (1 << (bits - 1))


def stage_vocabularies(entries: pa.Table, names: Collection[str], url: str) -> dict[str, str]:
    """Writes the vocabularies of some fields of the log below a folder of the run; a field without
    any lacks. Workers map the files: a host holds one copy, whatever its workers.

    Args:
        entries: `field`, `value`, `id`, `from_ds`.

    Returns:
        The path of each one's file, by the field's name in the log.
    """
    found = {}
    for number, name in enumerate(sorted(names)):
        own = entries.filter(pc.equal(entries["field"], name))
        if own.num_rows:
            found[name] = f"{url}/vocabulary-{number}.arrow"
            _write(own, found[name])
    return found


def _write(entries: pa.Table, url: str) -> None:
    days = sorted(pc.unique(entries["from_ds"]).to_pylist())
    texts = entries["value"].cast(pa.large_string()).combine_chunks()
    hashes = xxhash64(texts)
    order = pa.array(np.argsort(hashes, kind="stable"))
    day = pc.index_in(entries["from_ds"].combine_chunks(), value_set=pa.array(days, pa.string()))
    columns = [pa.array(hashes), texts, entries["id"].combine_chunks(), day]
    table = pa.table([column.take(order) for column in columns], ["hash", "value", "id", "day"])
    table = table.replace_schema_metadata({"days": json.dumps(days)})
    with write_stream(url) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, table.num_rows))


@lru_cache(maxsize=256)
def opened_vocabulary(url: str) -> MappedVocabulary:
    """A staged vocabulary, mapped from its file; of another store's from a copy on this host."""
    table = pa.ipc.open_file(pa.memory_map(_local(url))).read_all()
    column = {name: table[name].chunk(0) for name in table.column_names}
    return MappedVocabulary(
        hashes=column["hash"].to_numpy(),
        texts=column["value"],
        ids=column["id"].to_numpy(),
        day=column["day"].to_numpy(),
        days=tuple(json.loads(table.schema.metadata[b"days"])),
    )


def _local(url: str) -> str:
    fs, path = fsspec.core.url_to_fs(url)
    if fs.protocol == "file" or "file" in fs.protocol:
        return str(path)
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    copy = Path(local_folder() or tempfile.gettempdir()) / f"millstream-{name}.arrow"
    if not copy.exists():
        # By several workers at once: the last rename stands, and all copies are alike.
        with tempfile.NamedTemporaryFile(dir=copy.parent, delete=False) as file:
            fs.get_file(path, file.name)
        Path(file.name).replace(copy)
    return str(copy)
