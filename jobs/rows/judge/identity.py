"""Identity: the id and the split of a row, by hashes of what it is and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.base.xxhash import xxhash64_of_rows
from jobs.rows.base.arrays import whole
from jobs.rows.base.duck import registered, shared_connection

Ints = npt.NDArray[np.int64]
_BUCKETS = 1_000_000


@dataclass(frozen=True)
class Split:
    """Shares of rows by a seeded hash of the entity.

    Attributes:
        fractions: name -> share, adding up to 1.
    """

    seed: int
    fractions: Mapping[str, float]

    def of(self, entity: Sequence[pa.Array | pa.ChunkedArray]) -> pa.DictionaryArray:
        """The split of each row [n]: the same for all rows of an entity, whatever else there is.

        Args:
            entity: columns that name it [n].
        """
        bucket = xxhash64_of_rows([np.int32(self.seed), *entity]) % _BUCKETS
        bounds = [round(bound * _BUCKETS) for bound in accumulate(self.fractions.values())]
        places = np.searchsorted(np.array(bounds), bucket, side="right").astype(np.int32)
        return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(list(self.fractions)))


def identities(days: pa.Array, identity: Sequence[pa.Array | pa.ChunkedArray]) -> Ints:
    """The hash of (ds, key), or of (ds, line) where there is no key [n]."""
    return xxhash64_of_rows([days, *identity])


def row_ids_of_lines(identities: Ints, ordinals: npt.NDArray[np.int32]) -> Ints:
    """The row id of each line [n] that is one of several alike: by its place among them, from 1."""
    return xxhash64_of_rows([pa.array(identities), pa.array(ordinals, pa.int32())])


def line_hashes(lines: pa.ChunkedArray) -> pa.Array:
    """Another 64 bits of each line [n], which tell lines apart whose identities collide.

    DuckDB's own hash: it takes a sixth of the time, and is never stored beyond a run.
    """
    with registered(shared_connection(), {"__lines": pa.table({"line": lines})}) as duck:
        found = duck.sql("SELECT hash(line) FROM __lines").to_arrow_table()
    return whole(found.column(0))
