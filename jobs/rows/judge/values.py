"""Values of fields: what becomes of an expression's results by a declaration's transforms.

Numbers are transformed by NumPy, with our own logarithm, sine and cosine, so that what is stored
has the same bits on any host. Texts are transformed by Arrow, each distinct one once.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.rows.base.arrays import whole
from jobs.rows.judge.fdlibm import cos, log1p, sin
from schemas.field import SEPARATOR, Categorical, Clip, Cyclic, Log1p, Numeric, Scale
from schemas.hashed import Bucketized
from schemas.text import WHITE_SPACE, Lower, Normalize, Replace, Trim

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_TABLE_SIZE = 65_536


def number_values(f: Numeric, numbers: pa.Array) -> tuple[pa.Array, Mask]:
    """The field's value of each number [n], and where it is no finite one."""
    known = np.asarray(numbers.is_valid())
    x = numbers.fill_null(0).to_numpy(zero_copy_only=False)
    found = _looked_up(f, x) if f.transforms else _floats(x)
    lost = known & ~np.isfinite(found)
    return pa.array(found, mask=~known), lost


def _looked_up(f: Numeric, x: Doubles) -> Floats:
    """Most whole numbers are small, and looked up sooner than computed."""
    with np.errstate(invalid="ignore"):
        whole = x.astype(np.int32)
    # A shift of the sign alone tells 0.0 from -0.0, which transforms may give other bits.
    small = (whole == x) & (whole >= 0) & (whole < _TABLE_SIZE) & ~np.signbit(x)
    if small.all():
        return _table_of(f)[whole]
    found = np.empty(len(x), np.float32)
    found[small] = _table_of(f)[whole[small]]
    found[~small] = _transformed(f, x[~small])
    return found


_TABLES: dict[str, Floats] = {}


def _table_of(f: Numeric) -> Floats:
    # By their text: 0.0 and -0.0 are equal, and give different numbers.
    key = repr(f.transforms)
    if key not in _TABLES:
        _TABLES[key] = _transformed(f, np.arange(_TABLE_SIZE, dtype=np.float64))
    return _TABLES[key]


def _transformed(f: Numeric, x: Doubles) -> Floats:
    for transform in f.transforms:
        with np.errstate(all="ignore"):
            match transform:
                case Log1p():
                    x = log1p(x)
                case Clip():
                    limited = np.where(x > transform.high, transform.high, x)
                    limited = np.where(x < transform.low, transform.low, limited)
                    x = np.where(np.isfinite(x), limited, x)
                case Scale():
                    x = x * transform.factor
                case Cyclic():
                    # The rest of a division is exact, and keeps the angle within one turn.
                    angle = np.fmod(x, transform.period) * (2 * np.pi / transform.period)
                    x = sin(angle) if transform.part == "sin" else cos(angle)
    return _floats(x)


def _floats(x: Doubles) -> Floats:
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def text_values(f: Categorical, values: pa.Array) -> pa.DictionaryArray:
    """The field's value of each row [n] before encoding, from its expression's."""
    if isinstance(f, Bucketized):
        return _buckets(f, values)
    found = dictionary(values)
    if not f.transforms:
        return found
    texts = found.dictionary
    for transform in f.transforms:
        match transform:
            case Lower():
                texts = pc.utf8_lower(texts)
            case Trim():
                texts = pc.utf8_trim(texts, WHITE_SPACE)
                texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
            case Replace():
                texts = pc.replace_substring_regex(texts, transform.pattern, transform.by)
            case Normalize():
                # Arrow's own takes letters apart and does not put them together again.
                texts = pa.array(
                    [_normal(transform, text) for text in texts.to_pylist()], pa.string()
                )
    return dictionary(texts.take(found.indices))


def _normal(transform: Normalize, text: str | None) -> str | None:
    return None if text is None else unicodedata.normalize(transform.form, text)


def crossed_values(
    f: Categorical, parts: Mapping[str, pa.DictionaryArray], count: int
) -> pa.DictionaryArray:
    """The values of several fields together [n]; null where all of them are."""
    texts = [parts[name].cast(pa.string()) for name in f.crossed]
    nothing = np.ones(count, bool)
    for text in texts:
        nothing &= np.asarray(pc.fill_null(pc.equal(text, ""), True))
    filled = [pc.fill_null(text, "") for text in texts]
    joined = pc.binary_join_element_wise(*filled, SEPARATOR)
    return dictionary(pc.if_else(pa.array(nothing), pa.scalar(None, pa.string()), joined))


def _buckets(f: Bucketized, numbers: pa.Array) -> pa.DictionaryArray:
    """The place among the boundaries of each number, as text; null of NaN, which has none."""
    x = numbers.fill_null(np.nan).to_numpy(zero_copy_only=False)
    places = np.searchsorted(np.array(f.boundaries), x, side="right").astype(np.int32)
    names = pa.array([str(place) for place in range(len(f.boundaries) + 1)], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(places, mask=np.isnan(x)), names)


def dictionary(values: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """Texts with each distinct one once.

    Raises:
        DataRefused: there are more than an array can hold.
    """
    values = whole(values)
    return values if pa.types.is_dictionary(values.type) else pc.dictionary_encode(values)
