"""Vocabularies as Python workers map them: found by the hash of a value, compared by its text."""

from __future__ import annotations

import hashlib
import json
import tempfile
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
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
            equal = np.asarray(
                pc.equal(texts.take(open_rows), self.texts.take(at).cast(pa.string()))
            )
            ids[open_rows[equal]] = self.ids[at[equal]]
            days[open_rows[equal]] = self.day[at[equal]]
            open_rows = open_rows[~equal]
            places[open_rows] += 1
        return Entries(ids, days)


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
