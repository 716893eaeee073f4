"""Numbers of plain lines as the transforms' SQL gives them, to the bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.etl.fdlibm import log1p
from jobs.etl.plain_rules import Mask
from schemas.field import Clip, Log1p, Numeric, Scale

Doubles = npt.NDArray[np.float64]

_TABLE_SIZE = 65_536


def number_values(f: Numeric, values: pa.Array) -> tuple[pa.Array, Mask]:
    """The field's value of each number, and where it is no finite one."""
    known = np.asarray(values.is_valid())
    numbers = values.fill_null(0).to_numpy(zero_copy_only=False)
    if pa.types.is_integer(values.type) and f.transforms:
        # Most whole numbers are small, and looked up sooner than computed.
        small = (numbers >= 0) & (numbers < _TABLE_SIZE)
        found = _table_of(f)[np.where(small, numbers, 0)]
        if not small.all():
            found[~small] = _transformed(f, numbers[~small].astype(np.float64))
    else:
        found = _transformed(f, numbers.astype(np.float64))
    lost = known & ~np.isfinite(found)
    return pa.array(found, mask=~known), lost


_TABLES: dict[str, npt.NDArray[np.float32]] = {}


def _table_of(f: Numeric) -> npt.NDArray[np.float32]:
    # By their text: 0.0 and -0.0 are equal, and give different numbers.
    key = repr(f.transforms)
    if key not in _TABLES:
        _TABLES[key] = _transformed(f, np.arange(_TABLE_SIZE, dtype=np.float64))
    return _TABLES[key]


def _transformed(f: Numeric, x: Doubles) -> npt.NDArray[np.float32]:
    """As the transforms' SQL gives them; Spark gives null where this gives NaN or an infinity."""
    for transform in f.transforms:
        with np.errstate(over="ignore", invalid="ignore"):
            match transform:
                case Log1p():
                    x = log1p(x)
                case Clip():
                    # What is no finite number passes.
                    limited = np.where(x > transform.high, transform.high, x)
                    limited = np.where(x < transform.low, transform.low, limited)
                    x = np.where(np.isfinite(x), limited, x)
                case Scale():
                    x = x * transform.factor
    return floats(x)


def floats(x: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return x.astype(np.float32)
