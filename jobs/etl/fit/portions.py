"""Counts of values in portions: Arrow groups, joins and sorts at most 2 GiB of texts at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.base.xxhash import xxhash64
from jobs.rows.base.groups import MOST_BYTES

VALUE = "value"


def by_value(rows: pa.Table, work: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """What `work` makes of rows with a column `value`, all rows of a value at once."""
    parts = -(-rows.nbytes // MOST_BYTES)
    if parts <= 1:
        return work(rows)
    # Other bits than those by which rows came to this task.
    place = (hashes_of(rows[VALUE]) >> 32) % parts
    own = (rows.filter(pa.array(place == number)) for number in range(parts))
    return pa.concat_tables([work(part) for part in own if part.num_rows])


def hashes_of(values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A hash of each text [n]; of a null that of no text."""
    found = [xxhash64(chunk.fill_null("")) for chunk in values.chunks]
    return np.concatenate([np.zeros(0, np.int64), *found])
