"""What becomes of raw rows: the valid ones with values, the others with their reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.rows.base.names import DS, RAW, REASONS, SOURCE_FILE

REFUSED = pa.schema(
    [
        (REASONS, pa.list_(pa.string())),
        (RAW, pa.string()),
        (SOURCE_FILE, pa.string()),
        (DS, pa.string()),
    ]
)


def _none() -> npt.NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Judged:
    """What became of raw rows.

    Attributes:
        valid: `ds`, `split` where rows are split, `row_id`, the key columns and one column a field,
            before encoding; with a key also `raw` and `source_file`, which order rows of one key.
        refused: see `REFUSED`.
        others: rows of dates that were not asked for.
        valid_places, refused_places: of these rows, in the table that was judged.
    """

    valid: pa.Table
    refused: pa.Table
    others: int
    valid_places: npt.NDArray[np.int64] = field(default_factory=_none)
    refused_places: npt.NDArray[np.int64] = field(default_factory=_none)
